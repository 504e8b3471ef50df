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
The limit α = ∞ is one forward-mode derivative (`torch.func.jvp`) and works for any module. For layers without such an
identity the formula itself is computed in float64, at α ≤ 10⁹, where 7 digits of F are left.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from . import _differences as differences
from ._calls import Inputs, as_floats, as_inputs, call, refuse_random
from ._differentiable import differentiable

LARGEST = 1e9  # of α where F is a difference in float64


class Scaled(nn.Module):
    """F_α(u) = α(h(w0 + u/α) − h(w0)) of a module h at its present weights w0; F_∞(u) = Dh(w0)u.

    Its parameters are u, zero at the start and shaped as those of the module that are trainable, so any torch optimizer
    trains it. At finite α the outputs are propagated as differences from h(w0) where the layers are Conv2d (zero
    padding, one group), Linear, ReLU, MaxPool2d (windows that do not overlap), AvgPool2d, Flatten, Sequential and
    `convnets.Residual`, so that no digits are lost to subtraction; any other module is evaluated in float64.

    Args:
        module: deterministic (dropout off, batch normalization in eval mode); it is copied, and its parameters are w0
            (float32 or float64).
        alpha: output scale > 0, or math.inf for the tangent model.
        two_passes: at finite α, compute F_α as it is written instead, in the module's own precision. That takes half
            the time, and is as good where α‖h(w0)‖ is small against the targets, so that the subtraction costs no
            digits that matter.

    Raises:
        ValueError: α is not positive, or too large for float64 (above 10⁹) where differences are not known; the module
            is random, or has no trainable parameter.

    Source: Chizat, Oyallon, Bach 2019, section 1.1 (the scaled model) and 3.2.

    Example:
        >>> import torch
        >>> from lazylib.nets import Scaled
        >>> module = torch.nn.Linear(3, 2)
        >>> lazy = Scaled(module, alpha=1e6)
        >>> lazy(torch.ones(4, 3)).abs().max()  # zero at the start
        tensor(0., grad_fn=<MaxBackward1>)
    """

    _fast: nn.Module  # the same layers in the order that takes less time

    def __init__(self, module: nn.Module, alpha: float, two_passes: bool = False):
        super().__init__()
        if not alpha > 0:
            raise ValueError(f"alpha must be positive (inf: the tangent model), not {alpha}.")
        refuse_random(module)
        trained = [(name, w) for name, w in module.named_parameters() if w.requires_grad]
        if not trained:
            raise ValueError("the module must have at least one trainable parameter, it has none.")
        self.alpha, self.two_passes = float(alpha), two_passes and math.isfinite(alpha)
        self.by_differences = differences.known(module)
        if not self.by_differences and LARGEST < alpha < math.inf:
            raise ValueError(
                f"alpha must be at most {LARGEST:g} or inf for this module, for some of its layers are evaluated in "
                f"float64, got {alpha:g}."
            )
        self.module = copy.deepcopy(module).requires_grad_(False)
        object.__setattr__(self, "_fast", _pool_first(self.module))  # no part of its own
        self.names = [name for name, _ in trained]
        # memory formats are kept, so that a step never reorders them
        self.u = nn.ParameterList([nn.Parameter(torch.zeros_like(w)) for _, w in trained])

    def train(self, mode: bool = True) -> Scaled:
        """Sets the mode of this model alone: the module inside stays as it was given."""
        self.training = mode
        return self

    def displacement(self) -> dict[str, Tensor]:
        """u by name of the module's parameter."""
        return dict(zip(self.names, self.u, strict=True))

    def weights(self) -> dict[str, Tensor]:
        """w = w0 + u/α by name, for a look at the network itself (at large α it rounds to w0)."""
        w0 = dict(self.module.named_parameters())
        return {name: w0[name] + u.detach() / self.alpha for name, u in self.displacement().items()}

    def forward(self, *x: Any, **named: Any) -> Tensor:
        """Outputs F_α(u) for the module's inputs."""
        inputs = Inputs(x, named)
        if math.isinf(self.alpha) and not (self.by_differences and torch.compiler.is_compiling()):
            return tangent_outputs(self._fast, self.displacement(), inputs)
        if self.two_passes:
            return plain_outputs(self._fast, self.displacement(), inputs, self.alpha)
        if not self.by_differences:
            return _double_outputs(self.module, self.displacement(), inputs, self.alpha)
        # At α = ∞ too where it is compiled: compilers do better with plain layers.
        return self._through_layers(self._fast, x[0])

    @torch.no_grad()
    def start(self, x: Any) -> Tensor:
        """h(w0) on x, which `after` takes where the same x come again and again."""
        return call(self._fast, {}, x)

    def after(self, start: Tensor, x: Any) -> Tensor:
        """F_α(u) on x as it is written, for a model of two passes of which h(w0) on x is known: one pass."""
        return plain_outputs(self._fast, self.displacement(), x, self.alpha, start)

    def propagate(self, x: Tensor) -> Tensor:
        """Outputs by differences through the layers, at any α."""
        return self._through_layers(self._known(), x)

    def _known(self) -> nn.Module:
        """The module, if differences go through all its layers."""
        if not self.by_differences:
            raise TypeError(
                "differences go through Conv2d, Linear, ReLU, MaxPool2d, AvgPool2d, Flatten, Sequential and Residual, "
                f"in their plain forms, not through all layers of {type(self.module).__name__}."
            )
        return self.module

    def _through_layers(self, module: nn.Module, x: Tensor, **noted: list[Tensor]) -> Tensor:
        parameters = dict(self.module.named_parameters())
        u = {id(parameters[name]): part for name, part in self.displacement().items()}
        return differences.propagate(module, x, None, differences.Pass(self.alpha, u, **noted))[1]

    @torch.no_grad()
    def stability(self, x: Tensor, of: str = "units") -> float:
        """Share, over inputs and layers, of what is as it was at w0; 1 at α = ∞.

        of: "units", ReLU units on the same side of the kink, or "windows", windows of max pooling whose largest value
        is in the same place; a window of zeros has it nowhere.
        """
        noted: dict[str, list[Tensor]] = {"kept": [], "windows": []}
        if of not in ("units", "windows"):
            raise ValueError(f"of must be 'units' or 'windows', not {of!r}.")
        if math.isinf(self.alpha):
            return 1.0  # w is w0
        self._through_layers(self._known(), x, **noted)
        found = noted["kept" if of == "units" else "windows"]
        if not found:
            raise ValueError(f"the module must have a {'ReLU' if of == 'units' else 'max pooling'} after its weights.")
        return sum(int(k.sum()) for k in found) / sum(k.numel() for k in found)


def tangent_outputs(module: nn.Module, u: dict[str, Tensor], x: Any) -> Tensor:
    """Dh(w0)u by one forward-mode derivative at the module's weights; differentiable in u.

    Args:
        module: a deterministic module h; its present parameters are w0.
        u: one tensor for each parameter of the module that moves, by name.
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
    w0 = {name: w.detach() for name, w in module.named_parameters() if name in u}
    with differentiable():
        return jvp(lambda w: call(module, w, x), (w0,), (u,))[1]


def plain_outputs(module: nn.Module, u: dict[str, Tensor], x: Any, alpha: float, start: Tensor | None = None) -> Tensor:
    """α(h(w0 + u/α) − h(w0)) as it is written: two forward passes and a subtraction that cancels.

    Args:
        module: a deterministic module h; its present parameters are w0.
        u: one tensor for each parameter of the module that moves, by name.
        x: inputs.
        alpha: output scale α > 0, finite. In float32 digits are lost from α‖h(w0)‖ ≈ 10⁴‖F_α‖ on: see `Scaled`.
        start: h(w0) on x, where it is known.

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
    w0 = {name: w.detach() for name, w in module.named_parameters() if name in u}
    if start is None:
        with torch.no_grad():
            start = call(module, w0, x)
    w = {name: torch.add(w0[name], u[name], alpha=1 / alpha) for name in u}
    return alpha * (call(module, w, x) - start)


def _pool_first(module: nn.Module) -> nn.Module:
    """The same layers under the same names, each ReLU after the max pooling that follows it: fewer units to visit.

    max(relu(z)) = relu(max(z)) holds to the last bit, and so do the derivatives: of a window with no positive z both
    are zero, of any other both go to its largest z.
    """
    if type(module) is not nn.Sequential:
        return module
    parts = list(module._modules.items())  # a layer that stands twice is there twice
    for i, ((_, layer), (_, then)) in enumerate(itertools.pairwise(parts)):
        if type(layer) is nn.ReLU and type(then) is nn.MaxPool2d and not then.return_indices:
            parts[i : i + 2] = parts[i + 1], parts[i]
    return nn.Sequential(OrderedDict(parts))


def _double_outputs(module: nn.Module, u: dict[str, Tensor], x: Any, alpha: float) -> Tensor:
    """`plain_outputs` computed in float64, in the dtype of u."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    values = {name: as_floats(value.detach(), torch.float64) for name, value in own.items()}
    w = {name: values[name] + part.double() / alpha for name, part in u.items()}
    x = as_floats(as_inputs(x), torch.float64)
    with differentiable():
        with torch.no_grad():
            start = call(module, values, x)
        out = call(module, values | w, x)
    return (alpha * (out - start)).to(next(iter(u.values())).dtype)
