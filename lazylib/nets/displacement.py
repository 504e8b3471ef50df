"""The scaled model α(h(w) − h(w0)) of a torch module, without cancellation, up to the tangent model at α = ∞.

Training αh with the loss R(αh)/α² moves w by O(1/α). So the weights are written w = w0 + u/α, and u, of order
one, is what a `Scaled` module holds and trains:

    F_α(u) = α (h(w0 + u/α) − h(w0)),        F_∞(u) = Dh(w0) u,

and a gradient step on R(F_α(u)) with respect to u is a step on R(αh)/α² with respect to w: the factor α is in
neither the loss nor the step (COB, section 1.1).

Subtracting two outputs and multiplying by α = 10⁷ leaves nothing of a float32. Here the *difference* goes
through the network instead, layer by layer: with a the activation at w0 and δ = α·(activation at w − a),

    linear       z = W0 a,     δ_z = (W0 + u/α) δ + u a
    ReLU         δ_a = max(δ_z + min(αz, 0), −max(αz, 0))                       (→ 1[z > 0] δ_z)
    max pooling  δ   = max over the window of δ_j − α (max z − z_j)             (→ δ at the argmax)

These are identities, not approximations, and no step subtracts two large numbers that are nearly equal. Any
rounding of z acts like a small change of w0, the same for both outputs, so that bfloat16 serves for training.
The limit α = ∞ is one forward-mode derivative (`torch.func.jvp`) and works for any module.
"""

import itertools
import math
from collections import OrderedDict

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .convnets import Residual


class Scaled(nn.Module):
    """F_α(u) = α(h(w0 + u/α) − h(w0)) of a module h at its present weights w0; F_∞(u) = Dh(w0)u.

    Its parameters are u, zero at the start and shaped as those of the module, so any torch optimizer trains it. At
    finite α the outputs are propagated as differences from h(w0), so that no digits are lost to subtraction.

    Args:
        module: copied by reference and frozen; its parameters are w0 (float32 or float64). At α = ∞ it may be any that
            is deterministic; at finite α it is built of Conv2d (zero padding), Linear, ReLU, MaxPool2d (windows that do
            not overlap), AvgPool2d, Flatten, Sequential and `convnets.Residual`.
        alpha: output scale > 0, or math.inf for the tangent model.
        two_passes: at finite α, compute F_α as it is written instead. That takes half the time, and is as good
            where α‖h(w0)‖ is small against the targets, so that the subtraction costs no digits that matter.

    Raises:
        ValueError: α is not positive.
        TypeError: a layer that it does not know, at finite α.

    Source: Chizat, Oyallon, Bach 2019, section 1.1 (the scaled model) and 3.2.

    Example:
        >>> import torch
        >>> from lazylib.nets import Scaled
        >>> module = torch.nn.Linear(3, 2)
        >>> lazy = Scaled(module, alpha=1e6)
        >>> lazy(torch.ones(4, 3)).abs().max()  # zero at the start
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(self, module: nn.Module, alpha: float, two_passes: bool = False):
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha must be positive (inf: the tangent model), not {alpha}.")
        self.alpha, self.two_passes = float(alpha), two_passes and math.isfinite(alpha)
        self.module = module.requires_grad_(False)
        object.__setattr__(self, "_fast", _pool_first(module))  # no part of its own: it has the same layers
        self.names = [name for name, _ in module.named_parameters()]
        # memory formats are kept, so that a step never reorders them
        self.u = nn.ParameterList([nn.Parameter(torch.zeros_like(w)) for _, w in module.named_parameters()])
        if math.isfinite(self.alpha):
            _check_layers(module)

    def displacement(self) -> dict[str, Tensor]:
        """u by name of the module's parameter."""
        return dict(zip(self.names, self.u, strict=True))

    def weights(self) -> dict[str, Tensor]:
        """w = w0 + u/α by name, for a look at the network itself (at large α it rounds to w0)."""
        pairs = zip(self.module.named_parameters(), self.u, strict=True)
        return {name: w + u.detach() / self.alpha for (name, w), u in pairs}

    def forward(self, x: Tensor) -> Tensor:
        """Outputs F_α(u), (n, classes), for inputs (n, channels, height, width)."""
        if math.isinf(self.alpha) and not torch.compiler.is_compiling():  # compilers do better with plain layers
            return tangent_outputs(self._fast, self.displacement(), x)
        if self.two_passes:
            return plain_outputs(self._fast, self.displacement(), x, self.alpha)
        return self._by_differences(self._fast, x, None)

    def propagate(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """Outputs by differences through the layers, at any α.

        kept: a list to which one boolean tensor a ReLU is added: units that are on the side of w0.
        """
        return self._by_differences(self.module, x, kept)

    def _by_differences(self, module: nn.Module, x: Tensor, kept: list[Tensor] | None) -> Tensor:
        displacement = self.displacement()
        u = {
            name: _Layer(displacement[_of(name, "weight")], displacement.get(_of(name, "bias")))
            for name, layer in module.named_modules()
            if isinstance(layer, (nn.Conv2d, nn.Linear))
        }
        _, delta = _propagate(module, "", x, None, _Pass(self.alpha, u, kept))
        return delta

    @torch.no_grad()
    def stability(self, x: Tensor) -> float:
        """Share of ReLU units, over inputs and layers, on the same side of the kink as at w0; 1 at α = ∞."""
        if math.isinf(self.alpha):
            return 1.0  # w is w0
        kept: list[Tensor] = []
        self.propagate(x, kept)
        return sum(int(k.sum()) for k in kept) / sum(k.numel() for k in kept)


def tangent_outputs(module: nn.Module, u: dict[str, Tensor], x: Tensor) -> Tensor:
    """Dh(w0)u by one forward-mode derivative at the module's weights; differentiable in u.

    Args:
        module: a deterministic module h; its present parameters are w0.
        u: one tensor for each parameter of the module, by name.
        x: inputs.

    Returns:
        As the module's outputs on x.

    Source: Chizat, Oyallon, Bach 2019, equation 3.

    Example:
        >>> import torch
        >>> from lazylib.nets import tangent_outputs
        >>> module = torch.nn.Linear(2, 1, bias=False)
        >>> tangent_outputs(module, {"weight": torch.tensor([[1.0, 2.0]])}, torch.tensor([[1.0, 1.0]])).detach()
        tensor([[3.]])
    """
    w0 = {name: w.detach() for name, w in module.named_parameters()}
    return torch.func.jvp(lambda w: torch.func.functional_call(module, w, (x,)), (w0,), (u,))[1]


def plain_outputs(module: nn.Module, u: dict[str, Tensor], x: Tensor, alpha: float) -> Tensor:
    """α(h(w0 + u/α) − h(w0)) as it is written: two forward passes and a subtraction that cancels.

    Args:
        module: a deterministic module h; its present parameters are w0.
        u: one tensor for each parameter of the module, by name.
        x: inputs.
        alpha: output scale α > 0, finite. In float32 digits are lost from α‖h(w0)‖ ≈ 10⁴‖F_α‖ on: see `Scaled`.

    Returns:
        As the module's outputs on x.

    Example:
        >>> import torch
        >>> from lazylib.nets import plain_outputs
        >>> module = torch.nn.Linear(2, 1, bias=False).double()
        >>> u = {"weight": torch.tensor([[1.0, 2.0]], dtype=torch.float64)}
        >>> plain_outputs(module, u, torch.ones(1, 2, dtype=torch.float64), alpha=10.0).detach().round(decimals=6)
        tensor([[3.]], dtype=torch.float64)
    """
    w = {name: w0.detach() + u[name] / alpha for name, w0 in module.named_parameters()}
    with torch.no_grad():
        start = module(x)
    return alpha * (torch.func.functional_call(module, w, (x,)) - start)


def _pool_first(module: nn.Module) -> nn.Module:
    """The same layers under the same names, each ReLU after the max pooling that follows it: fewer units to visit.

    max(relu(z)) = relu(max(z)) holds to the last bit, and so do the derivatives: of a window with no positive z both
    are zero, of any other both go to its largest z.
    """
    if type(module) is not nn.Sequential:
        return module
    parts = list(module.named_children())
    for i, ((_, layer), (_, then)) in enumerate(itertools.pairwise(parts)):
        if type(layer) is nn.ReLU and type(then) is nn.MaxPool2d and not then.return_indices:
            parts[i : i + 2] = parts[i + 1], parts[i]
    return nn.Sequential(OrderedDict(parts))


# ---- differences through the layers ----


def _of(layer: str, parameter: str) -> str:
    """The name of a layer's parameter; a module that is a layer itself has the empty name."""
    return f"{layer}.{parameter}" if layer else parameter


class _Layer:
    """u of one layer."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias


class _Pass:
    """What a pass through the layers needs: α, the u of each layer, and where to note the ReLU units."""

    def __init__(self, alpha: float, u: dict[str, _Layer], kept: list[Tensor] | None):
        self.alpha, self.u, self.kept = alpha, u, kept


def _propagate(layer: nn.Module, name: str, a: Tensor, delta: Tensor | None, run: _Pass) -> tuple:
    """(a, δ) before a layer → (a, δ) after it; δ is None where it is zero, as at the input."""
    if isinstance(layer, nn.Sequential):
        for key, part in layer.named_children():
            a, delta = _propagate(part, f"{name}.{key}" if name else key, a, delta, run)
        return a, delta
    if isinstance(layer, Residual):
        main = _propagate(layer.main, f"{name}.main", a, delta, run)
        short = _propagate(layer.shortcut, f"{name}.shortcut", a, delta, run)
        return _relu(main[0] + short[0], main[1] if short[1] is None else main[1] + short[1], run)
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        return _linear(layer, run.u[name], a, delta, run)
    if isinstance(layer, nn.Flatten):
        return layer(a), None if delta is None else layer(delta)
    if delta is None:
        raise TypeError(f"a {type(layer).__name__} must come after a layer with weights at finite α.")
    if isinstance(layer, nn.ReLU):
        return _relu(a, delta, run)
    if isinstance(layer, nn.MaxPool2d):
        return _max_pool(layer, a, delta, run)
    if isinstance(layer, nn.AvgPool2d):
        return layer(a), layer(delta)
    raise TypeError(_unknown(layer))


def _linear(layer: nn.Conv2d | nn.Linear, u: _Layer, a: Tensor, delta: Tensor | None, run: _Pass) -> tuple:
    def apply(x, weight, bias):
        if isinstance(layer, nn.Linear):
            return nnf.linear(x, weight, bias)
        return nnf.conv2d(x, weight, bias, layer.stride, layer.padding)

    with torch.no_grad():
        z = apply(a, layer.weight, layer.bias)
    moved = apply(a, u.weight, u.bias)
    if delta is not None:
        moved = moved + apply(delta, layer.weight + u.weight / run.alpha, None)
    return z, moved


def _relu(z: Tensor, delta: Tensor, run: _Pass) -> tuple:
    with torch.no_grad():
        on = z > 0
        still = on if math.isinf(run.alpha) else torch.add(delta, z, alpha=run.alpha) > 0  # on, at w
        crossed = None if math.isinf(run.alpha) else run.alpha * z * (still.to(z.dtype) - on.to(z.dtype))
    if run.kept is not None:
        run.kept.append(still == on)
    return z.relu(), delta * still if crossed is None else torch.addcmul(crossed, delta, still.to(z.dtype))


def _max_pool(layer: nn.MaxPool2d, z: Tensor, delta: Tensor, run: _Pass) -> tuple:
    size = layer.kernel_size
    if math.isinf(run.alpha):
        top, at = nnf.max_pool2d(z, size, return_indices=True)  # (n, c, h, w)
        return top, delta.flatten(2).gather(2, at.flatten(2)).view_as(top)
    with torch.no_grad():
        top = nnf.max_pool2d(z, size)
        height, width = (n * size for n in top.shape[-2:])  # what is left over at the edge is in no window
        windows = z[..., :height, :width].unflatten(2, (-1, size)).unflatten(4, (-1, size))  # (n, c, h, s, w, s)
        gap = (top[:, :, :, None, :, None] - windows).flatten(4, 5).flatten(2, 3)  # ≥ 0, exactly 0 at the maximum
    return top, nnf.max_pool2d(torch.sub(delta[..., :height, :width], gap, alpha=run.alpha), size)


def _check_layers(module: nn.Module) -> None:
    plain = (nn.Sequential, Residual, nn.Linear, nn.ReLU, nn.AvgPool2d, nn.Flatten)
    for layer in module.modules():
        conv = (
            isinstance(layer, nn.Conv2d)
            and layer.groups == 1
            and layer.padding_mode == "zeros"
            and layer.dilation == (1, 1)
        )
        pool = (
            isinstance(layer, nn.MaxPool2d)
            and isinstance(layer.kernel_size, int)
            and not layer.ceil_mode
            and layer.stride == layer.kernel_size
            and layer.padding == 0
            and layer.dilation == 1
        )
        if not (conv or pool or isinstance(layer, plain)):
            raise TypeError(_unknown(layer))


def _unknown(layer: nn.Module) -> str:
    return (
        "a network at finite α must be made of Conv2d, Linear, ReLU, MaxPool2d, AvgPool2d, Flatten, "
        f"Sequential and Residual, in their plain forms, not {layer}; at α = inf any module will do."
    )
