"""Losses R(h, y): means over inputs, by name or the reader's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def square(h: Tensor, y: Tensor) -> Tensor:
    """½ mean over inputs of |h − y|²."""
    if y.numel() != h.numel() or len(y) != len(h):
        raise ValueError(f"y must have the shape {tuple(h.shape)} of the outputs, got {tuple(y.shape)}.")
    return 0.5 * (h - y.reshape(h.shape)).square().sum() / len(h)


def cross_entropy(h: Tensor, y: Tensor) -> Tensor:
    """Mean over inputs (and positions) of the cross-entropy; classes are the last dimension of h, or the second."""
    if y.shape == h.shape[:-1]:
        return nnf.cross_entropy(h.reshape(-1, h.shape[-1]), y.reshape(-1))
    if y.shape not in (h.shape[:1] + h.shape[2:], h.shape):
        raise ValueError(f"y must be classes {tuple(h.shape[:-1])} of outputs {tuple(h.shape)}, got {tuple(y.shape)}.")
    return nnf.cross_entropy(h, y)


def bce(h: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits h, targets y between 0 and 1."""
    if y.numel() != h.numel() or len(y) != len(h):
        raise ValueError(f"y must have the shape {tuple(h.shape)} of the outputs, got {tuple(y.shape)}.")
    return nnf.binary_cross_entropy_with_logits(h, y.reshape(h.shape).to(h))


NAMED: dict[str, Loss] = {"square": square, "cross-entropy": cross_entropy, "bce": bce}


def find(loss: str | Loss | None, y: Tensor) -> Loss:
    """The loss of that name, the function itself, or by the kind of targets: classes cross-entropy, floats square."""
    if loss is None:
        return square if y.is_floating_point() else cross_entropy
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(f"loss must be one of {', '.join(NAMED)} or a function (h, y) → mean, got {loss!r}.")
        return NAMED[loss]
    if not callable(loss):
        raise TypeError(f"loss must be a name or a function, got {type(loss).__name__}.")
    return loss


def gather(x: Any, y: Tensor | None) -> tuple[Any, Tensor | None]:
    """x and y; of a loader of pairs (x, y), which stands for both, all batches at once."""
    if isinstance(x, (Tensor, tuple, list, dict)) or not isinstance(x, Iterable):
        return x, y
    if y is not None:
        raise ValueError("y must be None where x is a loader, whose batches are pairs (x, y).")
    pairs = list(x)
    if not (pairs and all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs)):
        raise ValueError("a loader must give at least one batch, each a pair (x, y).")
    inputs = [pair[0] for pair in pairs]
    if isinstance(inputs[0], dict):
        joined: Any = {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]}
    elif isinstance(inputs[0], (tuple, list)):
        joined = tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))
    else:
        joined = torch.cat(inputs)
    return joined, torch.cat([pair[1] for pair in pairs])


def label_direction(loss: Loss, h: Tensor, y: Tensor) -> Tensor:
    """−∂R/∂h at h = 0: y up to a factor for the square loss, one-hot minus 1/k for cross-entropy; shaped as h."""
    zero = torch.zeros_like(h, requires_grad=True)
    with torch.enable_grad():
        value = loss(zero, y)
        (direction,) = torch.autograd.grad(value, zero) if value.requires_grad else (torch.zeros_like(h),)
    return -direction
