"""Snapshots: the weights and buffers of a module at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapshot:
    """Copies of a module's parameters and buffers, made by `snapshot`; it keeps no hold on the module.

    Attributes:
        parameters: by name, each tied one once, in the dtype and on the device of the module.
        buffers: by name; those of batch normalization belong to the weights as much as these do.
        trainable: names of the parameters that needed a gradient.
    """

    parameters: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)
    trainable: frozenset[str] = field(repr=False)


def snapshot(model: nn.Module) -> Snapshot:
    """The present weights and buffers of a module, copied: the w0 that `compare` looks back to.

    No pass is made and nothing of the module changes, whatever its mode. A copy takes as much memory as the module.

    Args:
        model: any torch module, also compiled or wrapped for data-parallel training.

    Returns:
        The snapshot.

    Raises:
        ValueError: the module has no parameter, one that is complex, or one without a size yet (a lazy layer).

    Example:
        >>> import torch
        >>> from lazylib import laziness
        >>> model = torch.nn.Linear(1, 2)
        >>> torch.nn.init.zeros_(model.bias).requires_grad
        True
        >>> before = laziness.snapshot(model)
        >>> torch.nn.init.ones_(model.bias).tolist(), before.parameters["bias"].tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    names = parameters(model)
    with torch.inference_mode(False):  # copies made inside it could never be differentiated at
        return Snapshot(
            {name: p.detach().clone() for name, p in names.items()},
            {name: b.detach().clone() for name, b in buffers(model).items()},
            frozenset(name for name, p in names.items() if p.requires_grad),
        )


def bare(model: nn.Module) -> nn.Module:
    """The module itself, without what `torch.compile` or data-parallel training wrapped around it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}.")
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, checked; a compiled layer inside keeps the name that it had before."""
    found: dict[str, Tensor] = {_plain(name): p for name, p in bare(model).named_parameters()}
    if not found:
        raise ValueError("model must have at least one parameter, it has none.")
    for name, p in found.items():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter {name} has no size yet: make one forward pass first.")
        if not p.is_floating_point():
            raise ValueError(f"parameter {name} must be real, it is {p.dtype}.")
    return found


def buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers by name, as `parameters`."""
    return {_plain(name): b for name, b in bare(model).named_buffers()}


def layer_of(name: str) -> str:
    """The layer to which a parameter belongs; "weight" of the module itself belongs to the empty name."""
    return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def computed_in(model: nn.Module) -> torch.dtype:
    """float64 if a parameter is, else float32: half precision has too few digits for differences."""
    double = any(p.dtype == torch.float64 for p in parameters(model).values())
    return torch.float64 if double else torch.float32


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")
