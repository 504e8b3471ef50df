"""Transforms of nets, a few lines each, which compose; and any torch module as a net."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._base import Net


@dataclass(frozen=True)
class Transform:
    """A net made from another net by one of the functions of this module, which compose.

    Attributes:
        net: the net or module it was made from.
        function: (w, x) → outputs.
        size: number P of parameters.
        q: degree of homogeneity, or None.

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
    return Transform(net, lambda w, x: net(w, x) - net(w0, x), net.size)


def scaled(net, alpha: float) -> Transform:
    """α h(w, x).

    Args:
        net: a net h.
        alpha: output scale α > 0.

    Returns:
        The net, of the same degree of homogeneity.

    Raises:
        ValueError: α is not finite or not positive.

    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer, scaled
        >>> scaled(TwoLayer(d=1, m=1), 10.0)(torch.tensor([3.0, 1.0]), torch.tensor([[2.0]]))
        tensor([60.])
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}.")
    return Transform(net, lambda w, x: alpha * net(w, x), net.size, net.q)


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

    return Transform(net, function, net.size)


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
    return Transform(net, lambda w, x: net(w[..., :p], x) - net(w[..., p:], x), 2 * p, net.q)


def from_module(module: torch.nn.Module) -> tuple[Transform, Tensor]:
    """A torch module as a net of a flat vector, and its present parameters.

    Args:
        module: deterministic (dropout off, batch normalization in eval mode); it is not changed. Parameters that
            need no gradient stay as they are and are not counted.

    Returns:
        (net, w0): w0 is (P,); the net gives (n,) or (n, k) outputs, or (B, n, …) for a batch (B, P) of parameters. A
        trailing dimension of size 1 of the module's output is dropped. q is not known.

    Raises:
        ValueError: the module has no trainable parameter.

    Example:
        >>> import torch
        >>> from lazylib.nets import from_module
        >>> module = torch.nn.Linear(2, 1)
        >>> net, w0 = from_module(module)
        >>> x = torch.ones(5, 2)
        >>> net.size, torch.allclose(net(w0, x), module(x).squeeze(-1))
        (3, True)
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
