"""Networks as pure functions h(w, x) of a flat parameter vector, and transforms of them.

Every net is called as ``net(w, x)`` with parameters w of shape (P,) or (B, P), one row a run, and
inputs x of shape (n, d), shared by all runs, or (B, n, d).  It returns (n,) or (B, n) outputs.
``net.size`` is P; ``net.q`` is the degree of homogeneity, h(λw, x) = λ^q h(w, x) for λ > 0, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as nnf
from torch import Tensor

from .rng import generator

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softplus": nnf.softplus,
    "gelu": nnf.gelu,
}


def _check(d: int, widths: Sequence[int], activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    for size in (d, *widths):
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"dimensions and widths must be whole numbers ≥ 1, got {size!r}.")


def _runs(tau, seeds) -> tuple[list[float], list[int]]:
    """Broadcast init scales and seeds against each other to one pair a run."""
    taus = [float(t) for t in torch.as_tensor(tau, dtype=torch.float64).reshape(-1)]
    seeds = [int(s) for s in ([seeds] if isinstance(seeds, int) else seeds)]
    if not taus or not seeds:
        raise ValueError("tau and seeds must not be empty.")
    if not all(math.isfinite(t) and t > 0 for t in taus):
        raise ValueError(f"tau must be finite and > 0, got {tau}.")
    if len(taus) == 1:
        taus *= len(seeds)
    if len(seeds) == 1:
        seeds *= len(taus)
    if len(taus) != len(seeds):
        raise ValueError(f"tau and seeds must have equal lengths or length 1, got {len(taus)} and {len(seeds)}.")
    return taus, seeds


@dataclass(frozen=True)
class TwoLayer:
    """h(w, x) = scale · Σ_{i≤m} a_i σ(b_i·x), with w = [a (m), b (m·d)] (COB §1, fig. 1–2).

    Args:
        d, m: input dimension and width.
        activation: "relu", "softplus" or "gelu".
        scale: output factor, e.g. 1, 1/√m or 1/m.
    """

    d: int
    m: int
    activation: str = "relu"
    scale: float = 1.0

    def __post_init__(self):
        _check(self.d, (self.m,), self.activation)

    @property
    def size(self) -> int:
        return self.m * (self.d + 1)

    @property
    def q(self) -> int | None:
        return 2 if self.activation == "relu" else None

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Views a (…, m) and b (…, m, d) of w (…, P)."""
        return w[..., : self.m], w[..., self.m :].view(*w.shape[:-1], self.m, self.d)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        a, b = self.split(w)
        hidden = ACTIVATIONS[self.activation](b @ x.mT)  # (…, m, n)
        return self.scale * (a.unsqueeze(-2) @ hidden).squeeze(-2)  # (…, n)

    def init(
        self, tau, seeds: int | Sequence[int], symmetrized: bool = False, *, dtype=torch.float32, device=None
    ) -> Tensor:
        """Parameters at w0: a, b ~ N(0, τ²) entrywise; (B, P), a row for each pair (τ, seed).

        A seed fixes w0/τ, so runs that share a seed start from the same direction at every τ.
        ``symmetrized``: a_i ≥ 0 for the first half, and the second half copies b and negates a, so
        that h(w0) = 0 (COB §1.1; BG §4).

        Raises: ValueError for τ ≤ 0, for lengths that do not match, for odd m with ``symmetrized``.
        """
        if symmetrized and self.m % 2:
            raise ValueError(f"a symmetrized net needs an even width m, got m = {self.m}.")
        rows = []
        for t, seed in zip(*_runs(tau, seeds), strict=True):
            rng = generator(seed, "init")
            a = torch.randn(self.m, generator=rng, dtype=torch.float64)
            b = torch.randn(self.m, self.d, generator=rng, dtype=torch.float64)
            if symmetrized:
                half = self.m // 2
                a = torch.cat([a[:half].abs(), -a[:half].abs()])
                b = torch.cat([b[:half], b[:half]])
            rows.append(t * torch.cat([a, b.reshape(-1)]))
        return torch.stack(rows).to(dtype=dtype, device=device)


@dataclass(frozen=True)
class Deep:
    """Fully connected net without biases, h(w, x) = W_{L+1} σ(W_L … σ(W_1 x)), scalar output.

    Args:
        d: input dimension.
        widths: widths of the L hidden layers.
        activation: as in TwoLayer.  With ReLU the net is homogeneous of degree q = L + 1.
    """

    d: int
    widths: tuple[int, ...]
    activation: str = "relu"

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths:
            raise ValueError("widths must name at least one hidden layer, got none.")
        _check(self.d, self.widths, self.activation)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return list(zip((*self.widths, 1), (self.d, *self.widths), strict=True))

    @property
    def size(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def q(self) -> int | None:
        return len(self.widths) + 1 if self.activation == "relu" else None

    def split(self, w: Tensor) -> list[Tensor]:
        """Views W_1 … W_{L+1} of w, each (…, fan out, fan in)."""
        parts = w.split([rows * columns for rows, columns in self.shapes], dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        *hidden, last = self.split(w)
        z = x.mT  # (…, d, n)
        for weight in hidden:
            z = ACTIVATIONS[self.activation](weight @ z)  # (…, width, n)
        return (last @ z).squeeze(-2)  # (…, n)

    def init(self, tau, seeds: int | Sequence[int], *, dtype=torch.float32, device=None) -> Tensor:
        """w0 with entries of layer l ~ N(0, τ²/fan in); (B, P), a row for each pair (τ, seed)."""
        rows = []
        for t, seed in zip(*_runs(tau, seeds), strict=True):
            rng = generator(seed, "init")
            layers = [torch.randn(s, generator=rng, dtype=torch.float64) / math.sqrt(s[1]) for s in self.shapes]
            rows.append(t * torch.cat([layer.reshape(-1) for layer in layers]))
        return torch.stack(rows).to(dtype=dtype, device=device)


@dataclass(frozen=True)
class Transform:
    """A net made from another net; built by the functions below, which compose."""

    net: Callable
    function: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    size: int
    q: int | None = None

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        return self.function(w, x)


def centred(net, w0: Tensor) -> Transform:
    """h(w, x) − h(w0, x): zero at w0, same differential (COB §1.1)."""
    return Transform(net, lambda w, x: net(w, x) - net(w0, x), net.size)


def scaled(net, alpha: float) -> Transform:
    """α h(w, x)."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}.")
    return Transform(net, lambda w, x: alpha * net(w, x), net.size, net.q)


def tangent(net, w0: Tensor) -> Transform:
    """The tangent (linearized) model h̄(w, x) = h(w0, x) + Dh(w0)(w − w0) (COB eq. 3), by one jvp."""

    def function(w: Tensor, x: Tensor) -> Tensor:
        base, shift = torch.func.jvp(lambda v: net(v, x), (w0,), (w - w0,))
        return base + shift

    return Transform(net, function, net.size)


def symmetrized(net) -> Transform:
    """(h(w′, x) − h(w″, x)) of doubled parameters w = [w′, w″]; zero where w′ = w″.

    Start it at ``torch.cat([w0, w0], dim=-1)``.  The degree of homogeneity is that of h.
    """
    p = net.size
    return Transform(net, lambda w, x: net(w[..., :p], x) - net(w[..., p:], x), 2 * p, net.q)


def from_module(module: torch.nn.Module) -> tuple[Transform, Tensor]:
    """A torch module as a net, with its present parameters as w0 of shape (P,).

    The module must be deterministic (dropout off, batch norm in eval mode) and is not changed.
    A trailing output dimension of size 1 is dropped, so that outputs are (n,) or (n, k).
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = dict(module.named_parameters())
    if not names:
        raise ValueError("the module must have at least one trainable parameter, it has none.")
    shapes = [parameters[name].shape for name in names]
    w0 = torch.cat([parameters[name].detach().reshape(-1) for name in names])

    def single(w: Tensor, x: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        out = torch.func.functional_call(module, values, (x,))
        return out.squeeze(-1) if out.dim() > 1 and out.shape[-1] == 1 else out

    def function(w: Tensor, x: Tensor) -> Tensor:
        return single(w, x) if w.dim() == 1 else torch.func.vmap(single, in_dims=(0, None))(w, x)

    return Transform(module, function, w0.numel()), w0
