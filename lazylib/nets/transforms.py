"""Transforms of nets, a few lines each, which compose."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import overload

import torch
from torch import Tensor

from ._base import Net, input_dim
from .displacement import Scaled


@dataclass(frozen=True)
class Transform:
    """A net made from another net by one of the functions of this module, which compose.

    Attributes:
        net: the net or module it was made from.
        function: (w, x) → outputs.
        size: number P of parameters.
        q: degree of homogeneity, or None.
        input_dim: dimensions of one set of inputs, 2 for (n, d); with one more there is a set for each run. None: any
            inputs, always shared by the runs.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer, centred, scaled
        >>> net = TwoLayer(d=3, m=4)
        >>> w0 = net.init(1.0, 0)[0]
        >>> lazy = scaled(centred(net, w0), 100.0)
        >>> lazy(w0, torch.ones(2, 3)), lazy.size
        (tensor([0., 0.]), 16)
    """

    net: Net | torch.nn.Module
    function: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    size: int
    q: int | None = None
    input_dim: int | None = 2

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        return self.function(w, x)


def centred(net, w0: Tensor) -> Transform:
    """h(w, x) − h(w0, x): zero at w0, with the same differential.

    Args:
        net: a net h.
        w0: parameters (P,) or (B, P), a row a run.

    Returns:
        The net, with as many parameters and no degree of homogeneity.

    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer, centred
        >>> net, x = TwoLayer(d=1, m=1), torch.tensor([[2.0]])
        >>> centred(net, torch.tensor([1.0, 1.0]))(torch.tensor([3.0, 1.0]), x)
        tensor([4.])
    """
    return Transform(net, lambda w, x: net(w, x) - net(w0, x), net.size, None, input_dim(net))


@overload
def scaled(net: torch.nn.Module, alpha: float) -> Scaled: ...
@overload
def scaled(net: Net, alpha: float) -> Transform: ...
def scaled(net, alpha):
    """α h(w, x) of a net; of a torch module the model α(h(w0 + u/α) − h(w0)), as a module with parameters u.

    Args:
        net: a net h, or a module at its present weights w0, which is copied (see `Scaled`).
        alpha: output scale α > 0, for a module also math.inf: the tangent model.

    Returns:
        The net, of the same degree of homogeneity; or a `Scaled` module, which any loop trains: a step on R(F) for u is
        a step on R(αh)/α² for w.

    Raises:
        ValueError: α is not finite or not positive; as `Scaled` does.

    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer, scaled
        >>> scaled(TwoLayer(d=1, m=1), 10.0)(torch.tensor([3.0, 1.0]), torch.tensor([[2.0]]))
        tensor([60.])
        >>> scaled(torch.nn.Linear(3, 2), 1e6)(torch.ones(4, 3)).abs().max().item()  # zero at the start
        0.0
    """
    if isinstance(net, torch.nn.Module):
        return Scaled(net, alpha)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}.")
    return Transform(net, lambda w, x: alpha * net(w, x), net.size, net.q, input_dim(net))


def tangent(net, w0: Tensor) -> Transform:
    """The tangent (linearized) model h̄(w, x) = h(w0, x) + Dh(w0)(w − w0), by one forward-mode derivative.

    Args:
        net: a net h that torch.func can differentiate.
        w0: parameters (P,) or (B, P), a row a run.

    Returns:
        The net, affine in w; its tangent kernel is that of h at w0, everywhere.

    Source: Chizat, Oyallon, Bach 2019, equation 3.

    Example:
        The net a·relu(b x) at a = b = 1, moved to a = b = 2: 4x, but its tangent model gives 3x.

        >>> import torch
        >>> from lazylib.nets import TwoLayer, tangent
        >>> net, w0, w, x = TwoLayer(d=1, m=1), torch.ones(2), 2 * torch.ones(2), torch.tensor([[1.0]])
        >>> net(w, x), tangent(net, w0)(w, x)
        (tensor([4.]), tensor([3.]))
    """

    def function(w: Tensor, x: Tensor) -> Tensor:
        base, shift = torch.func.jvp(lambda v: net(v, x), (w0,), (w - w0,))
        return base + shift

    return Transform(net, function, net.size, None, input_dim(net))


def symmetrized(net) -> Transform:
    """h(w′, x) − h(w″, x) of doubled parameters w = [w′, w″]: zero where w′ = w″.

    Args:
        net: a net h with P parameters.

    Returns:
        A net with 2P parameters, of the same degree of homogeneity. Start it at ``torch.cat([w0, w0], dim=-1)``.

    Source: Chizat, Oyallon, Bach 2019, section 1.1 (the doubling trick).

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer, symmetrized
        >>> net = TwoLayer(d=3, m=4)
        >>> w0 = net.init(1.0, seeds=[0, 1])
        >>> symmetrized(net)(torch.cat([w0, w0], dim=-1), torch.ones(5, 3)).abs().max()
        tensor(0.)
    """
    p = net.size
    return Transform(net, lambda w, x: net(w[..., :p], x) - net(w[..., p:], x), 2 * p, net.q, input_dim(net))
