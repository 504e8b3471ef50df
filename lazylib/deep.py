"""Deep fully connected nets of GSJW: the net, its soft hinge loss with a hand-derived gradient, its tangent kernel.

With z_0 = x, p_l = c_l W_l z_{l−1} (+ b_l), z_l = softplus_5(p_l) and f = c_{L+1} W_{L+1} z_L, all that training needs
of an input are z_l and Δ_l = ∂f/∂p_l, layer by layer:

    ∂f/∂W_l = c_l Δ_l z_{l−1}ᵀ,   Δ_{l−1} = c_l W_lᵀ Δ_l ∘ σ′(p_{l−1}),   Θ = Σ_l (c_l² Z_{l−1}ᵀZ_{l−1} + 1_bias) ∘ Δ_lᵀΔ_l.

No Jacobian, (n, P), is ever formed.  The factor a of the activation and 1/√fan in are kept in c_l.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from .hinge import LINEAR, SoftHinge
from .rng import generator

SOFTPLUS_BETA = 5.0
# Softplus units that are off have slopes like e^{−100}; a CPU multiplies numbers below 1e-38 so slowly that a gradient in
# the feature regime would cost five times as much.  (For this process; threads that run already keep their mode.)
torch.set_flush_denormal(True)
CHUNK_BYTES = 32 << 20  # activations of one layer that are held at a time, where inputs go in blocks


@functools.cache
def gain(activation: str) -> float:
    """a with E (a σ(z))² = 1 for z ~ N(0, 1): √2 for ReLU, 1.404… for softplus_5."""
    if activation == "relu":
        return math.sqrt(2.0)
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    sigma = np.logaddexp(0.0, SOFTPLUS_BETA * z) / SOFTPLUS_BETA
    return float(1 / np.sqrt(weight @ sigma**2 / weight.sum()))


@dataclass(frozen=True)
class FullyConnected:
    """f(w, x) with L hidden layers of width h in NTK parametrization (GSJW §2.1): weights N(0, 1), scaled by 1/√fan in.

    The hidden units are a·softplus_5, or a·ReLU, with a such that all preactivations start with unit variance.

    Args:
        d: input dimension; inputs should have norm √d.
        h: width of the hidden layers.      L: their number.
        activation: "softplus" or "relu".
        bias: biases in every layer; they start at zero.
    """

    d: int
    h: int
    L: int = 3
    activation: str = "softplus"
    bias: bool = False

    def __post_init__(self):
        for name in ("d", "h", "L"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}.")
        if self.activation not in ("softplus", "relu"):
            raise ValueError(f"activation must be softplus or relu, got {self.activation!r}.")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(fan out, fan in) of the layers 1 … L + 1."""
        return [(self.h, self.d), *[(self.h, self.h)] * (self.L - 1), (1, self.h)]

    @property
    def factors(self) -> list[float]:
        """The numbers c_l, first 1/√d and then a/√h."""
        return [self.d**-0.5, *[gain(self.activation) * self.h**-0.5] * self.L]

    @property
    def size(self) -> int:
        return sum(rows * (columns + self.bias) for rows, columns in self.shapes)

    @property
    def q(self) -> int | None:
        return self.L + 1 if self.activation == "relu" and not self.bias else None

    def split(self, w: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Views W_l (…, fan out, fan in) and b_l (…, fan out) of w (…, P), layer by layer; without biases b_l is None."""
        layers, start = [], 0
        for rows, columns in self.shapes:
            weight = w[..., start : start + rows * columns].unflatten(-1, (rows, columns))
            start += rows * columns
            layers.append((weight, w[..., start : start + rows] if self.bias else None))
            start += rows * self.bias
        return layers

    def act(self, p: Tensor) -> Tensor:
        """σ/a."""
        return torch.relu(p) if self.activation == "relu" else nnf.softplus(p, SOFTPLUS_BETA, LINEAR)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        z = x.mT  # (…, d, n)
        for l, ((weight, b), c) in enumerate(zip(self.split(w), self.factors, strict=True)):
            z = c * (weight @ (self.act(z) if l else z))  # (…, fan out, n)
            z = z if b is None else z + b.unsqueeze(-1)
        return z.squeeze(-2)  # (…, n)

    def init(self, seeds: int | Sequence[int], *, dtype=torch.float32, device=None) -> Tensor:
        """w0 with weights N(0, 1) and biases 0; (B, P), a row for each seed.

        Raises: ValueError if there is no seed.
        """
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        if not seeds:
            raise ValueError("seeds must not be empty.")
        w = torch.zeros(len(seeds), self.size, dtype=torch.float64)
        for row, seed in zip(w, seeds, strict=True):
            rng = generator(seed, "init")
            for weight, _ in self.split(row):
                weight.copy_(torch.randn(weight.shape, generator=rng, dtype=torch.float64))
        return w.to(dtype=dtype, device=device)


class DeepHinge(SoftHinge):
    """The soft hinge loss of ``FullyConnected``; gradient and differential are derived by hand, for a batch of runs."""

    net: FullyConnected

    def __init__(self, *arguments):
        super().__init__(*arguments)
        shape = self.runs, self.net.h, self.x.shape[0]
        self.p = [self.w0.new_empty(shape) for _ in range(self.net.L)]  # of the latest gradient, (B, h, n)
        self.z = [self.w0.new_empty(shape) for _ in range(self.net.L)]
        self.delta = [self.w0.new_empty(shape) for _ in range(2)]
        self.xt = self.x.mT  # (d, n)
        self.layers = None  # W_l, b_l of the latest gradient

    @property
    def bytes_per_run(self) -> int:
        return self.w0.element_size() * ((2 * self.net.L + 2) * self.net.h * self.x.shape[0] + 4 * self.size)

    def _model(self, w: Tensor, x: Tensor) -> Tensor:
        chunk = max(1, CHUNK_BYTES // (len(w) * self.net.h * w.element_size()))
        return torch.cat([self.net(w, part) for part in x.split(chunk)], dim=1)

    def _forward(self, w: Tensor) -> Tensor:
        """f(w) on the training inputs, (B, n); leaves p_l and z_l."""
        self.layers = self.net.split(w)
        z = None
        for l, ((weight, b), c) in enumerate(zip(self.layers, self.net.factors, strict=True)):
            if l == self.net.L:
                f = c * torch.bmm(weight, z)  # (B, 1, n)
                return (f if b is None else f + b.unsqueeze(2)).squeeze(1)
            p = self.p[l]
            if l == 0:  # one matrix product for all runs
                torch.mm(weight.reshape(-1, self.net.d), self.xt, out=p.view(-1, p.shape[2]))
            else:
                torch.bmm(weight, z, out=p)
            p *= c
            if b is not None:
                p += b.unsqueeze(2)
            z = self.z[l]
            if self.net.activation == "relu":
                torch.clamp(p, min=0, out=z)
            else:
                torch.ops.aten.softplus.out(p, SOFTPLUS_BETA, LINEAR, out=z)

    def _gate(self, delta: Tensor, p: Tensor) -> Tensor:
        """delta ∘ σ′(p)/a, in place where the layout allows."""
        if self.net.activation == "relu":
            return torch.ops.aten.threshold_backward.grad_input(delta, p, 0, grad_input=delta)
        return torch.ops.aten.softplus_backward.grad_input(delta, p, SOFTPLUS_BETA, LINEAR, grad_input=delta)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        f, n = self._forward(self.w0 + u), self.y.shape[1]
        out = self.alpha.unsqueeze(1) * (f - self.f0 if self.centred else f)
        grad = torch.empty_like(u)
        delta = (self.slope(out) / (self.alpha.unsqueeze(1) * n)).unsqueeze(1)  # ∂L/∂f, (B, 1, n)
        pieces = zip(self.layers, self.net.split(grad), self.net.factors, strict=True)
        for l, ((weight, _), (g, g_bias), c) in reversed(list(enumerate(pieces))):
            if g_bias is not None:
                g_bias.copy_(delta.sum(2))
            if l == 0:
                g.copy_((delta.view(-1, n) @ self.x).view_as(g)).mul_(c)
                break
            g.copy_(torch.bmm(delta, self.z[l - 1].mT)).mul_(c)
            delta = torch.bmm(weight.mT, delta, out=self.delta[l % 2]).mul_(c)
            delta = self._gate(delta, self.p[l - 1])
        return grad, out

    def moved(self, rows: Tensor, v: Tensor) -> Tensor:
        def of(part: Tensor) -> Tensor:
            return part if len(rows) == self.runs else part[rows]

        along = None
        for l, ((weight, _), (step, b), c) in enumerate(zip(self.layers, self.net.split(v), self.net.factors, strict=True)):
            if l == 0:
                change = c * (step @ self.xt)  # of p_l, (k, h, n)
            else:
                change = c * (torch.bmm(step, of(self.z[l - 1])) + torch.bmm(of(weight), along))
            if b is not None:
                change += b.unsqueeze(2)
            if l < self.net.L:
                along = self._gate(change, of(self.p[l]))  # of z_l
        return of(self.alpha) * change.squeeze(1).square().mean(1).sqrt()


def on_span(objective: DeepHinge) -> tuple[DeepHinge, Callable[[Tensor], Tensor]]:
    """The same runs with W_1 in coordinates of the span of the training inputs, which it never leaves: cheaper if n < d.

    A gradient with respect to W_1 is a sum of Δ xᵀ.  With an orthonormal basis Q (d, n) of the span, W_1 Q and the inputs
    Qᵀx follow the same flow, exactly.

    Returns: an objective for ``gradient_flow``, and the function that takes its displacements u (B, P′) to those of the
    net itself, (B, P).  Where n ≥ d nothing changes.
    """
    net, x = objective.net, objective.x
    if len(x) >= net.d:
        return objective, lambda u: u
    basis = torch.linalg.qr(x.double().mT)[0].to(x)  # Q (d, n)
    short = replace(net, d=len(x))

    def changed(w: Tensor, width: int, rotation: Tensor) -> Tensor:
        """w with its first layer, of that many columns, times the rotation."""
        weight = w[:, : net.h * width].unflatten(1, (net.h, width)) @ rotation
        return torch.cat([weight.flatten(1), w[:, net.h * width :]], dim=1)

    z = (len(x) / net.d) ** 0.5 * (x @ basis)  # c_1 is 1/√n there
    w0 = changed(objective.w0, net.d, basis)
    parts = objective.y, objective.alpha, objective.margin, objective.centred
    return DeepHinge(short, w0, z, *parts), lambda u: changed(u, short.d, basis.mT)


def _factors(net: FullyConnected, w: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Z_{l−1} (B, fan in, n), the first (d, n), and Δ_l (B, fan out, n) of the layers l = 1 … L + 1."""
    layers, factors = net.split(w), net.factors
    z, p = [x.mT], []
    for (weight, b), c in zip(layers[:-1], factors, strict=False):
        pre = c * (weight @ z[-1])
        p.append(pre if b is None else pre + b.unsqueeze(-1))
        z.append(net.act(p[-1]))
    delta = [torch.ones_like(p[0][:, :1])]  # (B, 1, n)
    for (weight, _), c, pre in reversed(list(zip(layers[1:], factors[1:], p, strict=True))):
        back = c * (weight.mT @ delta[0])
        relu = net.activation == "relu"
        gate = (pre > 0).to(pre) if relu else torch.sigmoid(SOFTPLUS_BETA * pre)
        delta.insert(0, back * gate)
    return z, delta


def _blocks(net: FullyConnected, w: Tensor, x: Tensor) -> Iterator[tuple[slice, tuple]]:
    chunk = max(1, CHUNK_BYTES // (len(w) * net.h * w.element_size()))
    for start in range(0, len(x), chunk):
        part = slice(start, min(start + chunk, len(x)))
        yield part, _factors(net, w, x[part])


def deep_kernel(net: FullyConnected, w: Tensor, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """The tangent kernel Θ(x_i, x2_j) = ⟨∇f(w, x_i), ∇f(w, x2_j)⟩ of a batch of nets, (B, n, n2), layer by layer.

    Args: w (B, P); x (n, d); x2 (n2, d), default x.  Inputs go in blocks; only the result is held whole.

    Raises: ValueError if w is not (B, P).
    """
    if w.dim() != 2:
        raise ValueError(f"w must be (runs, parameters), got shape {tuple(w.shape)}.")
    theta = w.new_empty(len(w), len(x), len(x if x2 is None else x2))
    columns = list(_blocks(net, w, x if x2 is None else x2))
    for rows, (z, delta) in columns if x2 is None else _blocks(net, w, x):
        for others, (z2, delta2) in columns:
            block = theta[:, rows, others]
            for l, c in enumerate(net.factors):
                gram = c**2 * (z[l].mT @ z2[l])  # (…, n, n2)
                gram = gram + 1 if net.bias else gram
                if l == net.L:  # Δ = 1
                    block += gram
                elif l == 0:
                    torch.mul(delta[0].mT @ delta2[0], gram, out=block)
                else:
                    block += (delta[l].mT @ delta2[l]).mul_(gram)
    return theta
