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
    """Fully connected net h(w, x) = W_{L+1} σ(W_L … σ(W_1 x)) with one output.

    With ReLU and without biases it is homogeneous of degree q = L + 1. A bias in the first layer changes nothing of
    that, for it is the weight of a constant input; one in a later layer does.

    Args:
        d: input dimension.
        widths: widths of the L hidden layers.
        activation: σ, as in TwoLayer.
        bias: σ(W_l z + b_l) in the hidden layers; w holds the biases behind the weights.

    Raises:
        ValueError: no hidden layer, an unknown activation, or sizes that are not whole numbers ≥ 1.

    Source: the q-homogeneous models of Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        >>> import torch
        >>> from lazylib.nets import Deep
        >>> net = Deep(d=3, widths=(5, 4))
        >>> net.size, net.q
        (39, 3)
        >>> w, x = net.init(1.0, seeds=0), torch.ones(2, 3)
        >>> torch.allclose(net(2 * w, x), 2**3 * net(w, x))
        True
    """

    d: int
    widths: tuple[int, ...]
    activation: str = "relu"
    bias: bool = False

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
        return sum(rows * columns for rows, columns in self.shapes) + self.bias * sum(self.widths)

    @property
    def q(self) -> int | None:
        shifted = self.bias and len(self.widths) > 1
        return len(self.widths) + 1 if self.activation == "relu" and not shifted else None

    def split(self, w: Tensor) -> list[Tensor]:
        """Views W_1 … W_{L+1} of w, each (…, fan out, fan in)."""
        sizes = [rows * columns for rows, columns in self.shapes]
        parts = w[..., : sum(sizes)].split(sizes, dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        *hidden, last = self.split(w)
        biases = w[..., -sum(self.widths) :].split(self.widths, dim=-1) if self.bias else [None] * len(hidden)
        z = x.mT  # (…, d, n)
        for weight, b in zip(hidden, biases, strict=True):
            p = weight @ z  # (…, width, n)
            z = ACTIVATIONS[self.activation](p if b is None else p + b.unsqueeze(-1))
        return (last @ z).squeeze(-2)  # (…, n)

    def init(self, tau, seeds: int | Sequence[int], *, dtype=torch.float32, device=None) -> Tensor:
        """w0 with weights of layer l ~ N(0, τ²/fan in) and biases ~ N(0, τ²); (B, P), a row for each pair (τ, seed)."""
        rows = []
        for t, seed in zip(*one_a_run(tau, seeds), strict=True):
            rng = generator(seed, "init")
            layers = [torch.randn(s, generator=rng, dtype=torch.float64) / math.sqrt(s[1]) for s in self.shapes]
            if self.bias:
                rng = generator(seed, "biases")
                layers.append(torch.randn(sum(self.widths), generator=rng, dtype=torch.float64))
            rows.append(t * torch.cat([layer.reshape(-1) for layer in layers]))
        return torch.stack(rows).to(dtype=dtype, device=device)


@functools.cache
def gain(activation: str) -> float:
    """The factor a with E (a σ(z))² = 1 for z ~ N(0, 1), which keeps unit variance from layer to layer.

    Args:
        activation: "relu" or "softplus", which is softplus_5, log(1 + e^{5z})/5.

    Returns:
        √2 for ReLU, 1.404… for softplus_5.

    Source: Geiger, Spigler, Jacot, Wyart 2020, section 2.1.

    Example:
        >>> from lazylib.nets import gain
        >>> round(gain("relu"), 4), round(gain("softplus"), 3)
        (1.4142, 1.404)
    """
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
        bias: factor β of the biases, p_l = c_l W_l z_{l−1} + β b_l in every layer, output included; they start at zero.
            By default there are none. Their part of the tangent kernel goes as β².

    Example:
        >>> import torch
        >>> from lazylib.nets import FullyConnected
        >>> net = FullyConnected(d=4, h=10, L=2)
        >>> net.size, net(net.init(0), torch.ones(3, 4)).shape
        (150, torch.Size([1, 3]))
    """

    d: int
    h: int
    L: int = 3
    activation: str = "softplus"
    bias: float = 0.0

    def __post_init__(self):
        for name in ("d", "h", "L"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}.")
        if self.activation not in ("softplus", "relu"):
            raise ValueError(f"activation must be softplus or relu, got {self.activation!r}.")
        if isinstance(self.bias, bool) or not (isinstance(self.bias, (int, float)) and 0 <= self.bias < math.inf):
            raise ValueError(f"bias must be a number ≥ 0, the factor of the biases, got {self.bias!r}.")

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
        return sum(rows * (columns + bool(self.bias)) for rows, columns in self.shapes)

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
            start += rows * bool(self.bias)
        return layers

    def act(self, p: Tensor) -> Tensor:
        """σ/a."""
        return torch.relu(p) if self.activation == "relu" else nnf.softplus(p, SOFTPLUS_BETA, LINEAR)

    def _layers(self, w: Tensor, x: Tensor) -> Iterator[Tensor]:
        """Before the activation, layer by layer; the last are the outputs."""
        z = x.mT  # (…, d, n)
        for l, ((weight, b), c) in enumerate(zip(self.split(w), self.factors, strict=True)):
            z = c * (weight @ (self.act(z) if l else z))  # (…, fan out, n)
            z = z if b is None else z + self.bias * b.unsqueeze(-1)
            yield z

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        for z in self._layers(w, x):  # noqa: B007  only the last is wanted
            pass
        return z.squeeze(-2)  # (…, n)

    def preactivations(self, w: Tensor, x: Tensor) -> Tensor:
        """p_l = c_l W_l z_{l−1} + β b_l of the hidden layers l = 1 … L, before the activation, with z_l = σ(p_l)/a.

        At the start all have unit variance, whatever the width.

        Args:
            w: parameters, (P,), or (B, P), a row a net.
            x: inputs, (n, d).

        Returns:
            (L, h, n) for w (P,), (B, L, h, n) for a batch, in the dtype of the arguments.

        Source: Geiger, Spigler, Jacot, Wyart 2020, section 2.1.

        Example:
            One unit of the first layer, with weight 3, whose softplus is nearly linear there.

            >>> import torch
            >>> from lazylib.nets import FullyConnected
            >>> net = FullyConnected(d=1, h=1, L=1)
            >>> net.preactivations(torch.tensor([3.0, 1.0]), torch.tensor([[1.0], [-1.0]]))
            tensor([[[ 3., -3.]]])
        """
        *hidden, _ = self._layers(w, x)
        return torch.stack(hidden, dim=-3)

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
