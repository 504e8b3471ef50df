"""The difference of two passes through a network, layer by layer: see ``lazylib.nets.displacement``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .convnets import Residual


class Pass:
    """What a pass through the layers needs: α, u by (the id of) a parameter of the module, where to note what is kept.

    kept: of each ReLU, units that are on the side of w0. windows: of each max pooling, windows whose largest value is
    where it is at w0; one that is zero throughout has it nowhere.
    """

    def __init__(
        self,
        alpha: float,
        u: dict[int, Tensor],
        kept: list[Tensor] | None = None,
        windows: list[Tensor] | None = None,
    ):
        self.alpha, self.u, self.kept, self.windows = alpha, u, kept, windows


def propagate(layer: nn.Module, a: Tensor, delta: Tensor | None, run: Pass) -> tuple:
    """(a, δ) before a layer → (a, δ) after it; δ is None where it is zero, as at the input."""
    if isinstance(layer, nn.Sequential):
        for part in layer:
            a, delta = propagate(part, a, delta, run)
        return a, delta
    if isinstance(layer, Residual):
        main = propagate(layer.main, a, delta, run)
        short = propagate(layer.shortcut, a, delta, run)
        moved = [part[1] for part in (main, short) if part[1] is not None]
        return _relu(main[0] + short[0], sum(moved[1:], moved[0]) if moved else None, run)
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return _linear(layer, a, delta, run)
    if isinstance(layer, nn.ReLU):
        return _relu(a, delta, run)
    if delta is None:
        return layer(a), None
    if isinstance(layer, nn.MaxPool2d):
        return _max_pool(layer, a, delta, run)
    return layer(a), layer(delta)  # linear


def _linear(layer: nn.Conv2d | nn.Linear, a: Tensor, delta: Tensor | None, run: Pass) -> tuple:
    def apply(x, weight, bias):
        if isinstance(layer, nn.Linear):
            return nnf.linear(x, weight, bias)
        return nnf.conv2d(x, weight, bias, layer.stride, layer.padding)

    u, bias = run.u.get(id(layer.weight)), run.u.get(id(layer.bias))
    u = torch.zeros_like(layer.weight) if u is None else u  # a frozen one
    with torch.no_grad():
        z = apply(a, layer.weight, layer.bias)
    moved = apply(a, u, bias)
    if delta is not None:
        moved = moved + apply(delta, torch.add(layer.weight, u, alpha=1 / run.alpha), None)
    return z, moved


def _relu(z: Tensor, delta: Tensor | None, run: Pass) -> tuple:
    if delta is None:
        if run.kept is not None:
            run.kept.append(torch.ones_like(z, dtype=torch.bool))
        return z.relu(), None
    with torch.no_grad():
        on = z > 0
        still = on if math.isinf(run.alpha) else torch.add(delta, z, alpha=run.alpha) > 0  # on, at w
        crossed = None if math.isinf(run.alpha) else run.alpha * z * (still.to(z.dtype) - on.to(z.dtype))
    if run.kept is not None:
        run.kept.append(still == on)
    return z.relu(), delta * still if crossed is None else torch.addcmul(crossed, delta, still.to(z.dtype))


def _max_pool(layer: nn.MaxPool2d, z: Tensor, delta: Tensor, run: Pass) -> tuple:
    size = layer.kernel_size
    if math.isinf(run.alpha):
        top, at = nnf.max_pool2d(z, size, return_indices=True)  # (n, c, h, w)
        return top, delta.flatten(2).gather(2, at.flatten(2)).view_as(top)
    with torch.no_grad():
        top = nnf.max_pool2d(z, size)
        height, width = (n * size for n in top.shape[-2:])  # what is left over at the edge is in no window
        windows = z[..., :height, :width].unflatten(2, (-1, size)).unflatten(4, (-1, size))  # (n, c, h, s, w, s)
        gap = (top[:, :, :, None, :, None] - windows).flatten(4, 5).flatten(2, 3)  # ≥ 0, exactly 0 at the maximum
        if run.windows is not None:
            at = nnf.max_pool2d(z, size, return_indices=True)[1].flatten(2)
            before = run.alpha * z
            moved = (before + delta) * (delta != -before)  # α times the values at w; zero without rounding
            first = moved.flatten(2).gather(2, at).view_as(top) * (top > 0)  # where the largest value was
            run.windows.append(first == nnf.max_pool2d(moved, size))
    return top, nnf.max_pool2d(torch.sub(delta[..., :height, :width], gap, alpha=run.alpha), size)


def known(module: nn.Module) -> bool:
    """Whether differences go through all layers of a module; a subclass of a layer may do anything, as may a hook."""
    return all(_plain(layer) and not (layer._forward_hooks or layer._forward_pre_hooks) for layer in module.modules())


def _plain(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.dilation == (1, 1)
    if type(layer) is nn.MaxPool2d:
        plain = layer.stride == layer.kernel_size and layer.padding == 0 and layer.dilation == 1
        return plain and isinstance(layer.kernel_size, int) and not layer.ceil_mode
    return type(layer) in (nn.Sequential, Residual, nn.Linear, nn.ReLU, nn.AvgPool2d, nn.Flatten)
