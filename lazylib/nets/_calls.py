"""How torch modules are called: with inputs of any kind, at given weights, and without changing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map


class Inputs(NamedTuple):
    """Inputs of a module, in position and by name."""

    args: tuple
    named: dict[str, Any]


def as_inputs(x: Any) -> Inputs:
    """A tuple is for ``module(*x)``, a dict for ``module(**x)``, anything else for ``module(x)``."""
    if isinstance(x, Inputs):
        return x
    if isinstance(x, Mapping):
        return Inputs((), dict(x))
    return Inputs(x if isinstance(x, tuple) else (x,), {})


def as_floats(x: Any, dtype: torch.dtype) -> Any:
    """The floating-point tensors among inputs, also in tuples and dicts, in another dtype; integers stay."""
    return tree_map(lambda v: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v, x)


def call(module: nn.Module, values: Mapping[str, Tensor], x: Any) -> Any:
    """The module with other parameters and buffers, by name, on inputs x; its own buffers stay as they are.

    Each place that holds a tensor is named once: torch's `functional_call` leaves a module changed where a layer in it
    is used twice and both names are given, as it does itself for tied weights.
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    given = {id(own[name]): value for name, value in values.items()}
    # a layer may write to its buffers
    given |= {id(b): given.get(id(b), b).clone() for b in module.buffers()}
    places = {
        f"{prefix}.{name}" if prefix else name: given[id(value)]
        for prefix, layer in module.named_modules()
        for name, value in (*layer._parameters.items(), *layer._buffers.items())
        if id(value) in given
    }
    inputs = as_inputs(x)
    return functional_call(module, places, inputs.args, inputs.named, tie_weights=False)


@contextlib.contextmanager
def in_modes(modes: list[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Layers in training mode or not, inside the block."""
    changed = [(layer, training) for layer, training in modes if layer.training != training]
    try:
        for layer, training in changed:
            layer.training = training
        yield
    finally:
        for layer, training in changed:
            layer.training = not training


def refuse_random(module: nn.Module) -> None:
    """ValueError where a layer in training mode draws random numbers, or changes its buffers, at every pass."""
    for name, layer in module.named_modules():
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        drops |= isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and layer.dropout > 0
        moves = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None
        moves |= isinstance(layer, nn.utils.parametrizations._SpectralNorm)
        if layer.training and (drops or moves or isinstance(layer, nn.RReLU)):
            does = "changes its statistics at every pass" if moves else "draws random numbers"
            raise ValueError(
                f"the module must be deterministic, but its layer {name or 'itself'} ({type(layer).__name__}) {does} "
                "in training mode: call .eval() of it first."
            )
