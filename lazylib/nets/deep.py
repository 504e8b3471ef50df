"""Deep fully connected nets: ``Deep``, homogeneous, and ``FullyConnected``, in the NTK parametrization of GSJW."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator
from ._base import ACTIVATIONS, check_sizes, one_a_run

SOFTPLUS_BETA = 5.0
LINEAR = 40.0  # softplus_β(z) is z itself beyond βz = 40
CHUNK_BYTES = 32 << 20  # activations of one layer that are held at a time, where inputs go in blocks


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 inside the block.

    Softplus units that are off have slopes like e^{−100}; a CPU multiplies such numbers so slowly that a gradient in
    the feature regime would cost five times as much.
    """
    already = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


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
        check_sizes(self.d, self.widths, self.activation)

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
        for t, seed in zip(*one_a_run(tau, seeds), strict=True):
            rng = generator(seed, "init")
            layers = [torch.randn(s, generator=rng, dtype=torch.float64) / math.sqrt(s[1]) for s in self.shapes]
            rows.append(t * torch.cat([layer.reshape(-1) for layer in layers]))
        return torch.stack(rows).to(dtype=dtype, device=device)


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
        """Views W_l (…, fan out, fan in) and b_l (…, fan out) of w (…, P), layer by layer; b_l is None without bias."""
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
