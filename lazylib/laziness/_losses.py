"""Losses R(h, y): means over inputs, by name or the reader's own."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

IGNORED = -100  # the class of positions that do not count, as everywhere in torch


def square(h: Tensor, y: Tensor) -> Tensor:
    """½ mean over inputs of |h − y|²."""
    _require_shape(h, y)
    return 0.5 * (h - y.reshape(h.shape)).square().sum() / len(h)


def cross_entropy(h: Tensor, y: Tensor, counted: float = 1.0) -> Tensor:
    """Mean over inputs (and positions) of the cross-entropy; classes are the last dimension of h, or the second.

    Positions of class −100 do not count. counted: the share of those that do among all inputs, of which h and y may be
    a mini-batch: so means over mini-batches have the mean of all.
    """
    if h.dim() < 2:
        raise ValueError('one output has no classes: loss must be "bce" or "square" there, or a function.')
    if y.shape == h.shape:  # probabilities
        for axis in (-1, 1):
            if (y >= 0).all() and ((y.double().sum(axis) - 1).abs() < 1e-3).all():
                h, y = h.movedim(axis, -1), y.movedim(axis, -1)
                return nnf.cross_entropy(h.flatten(0, -2), y.to(h).flatten(0, -2))
        raise ValueError("y of the shape of the outputs must be probabilities, which sum to 1 over the classes.")
    if y.shape == h.shape[:-1]:
        h, y = h.reshape(-1, h.shape[-1]), y.reshape(-1)
    elif y.shape != h.shape[:1] + h.shape[2:]:
        raise ValueError(f"y must be classes {tuple(h.shape[:-1])} of outputs {tuple(h.shape)}, got {tuple(y.shape)}.")
    classes = y[y != IGNORED]
    if h.shape[1] == 1:
        raise ValueError('one output has no classes: loss must be "bce" or "square" there, or a function.')
    if classes.numel() and not (0 <= int(classes.min()) and int(classes.max()) < h.shape[1]):
        raise ValueError(
            f"y must be classes from 0 to {h.shape[1] - 1}, or {IGNORED} where none counts, "
            f"got {int(classes.min())} to {int(classes.max())}."
        )
    return nnf.cross_entropy(h, y.long(), reduction="sum", ignore_index=IGNORED) / (y.numel() * counted)


def bce(h: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits h, targets y between 0 and 1."""
    _require_shape(h, y)
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"y of bce must lie between 0 and 1, got {float(y.min()):g} to {float(y.max()):g}.")
    return nnf.binary_cross_entropy_with_logits(h, y.reshape(h.shape).to(h))


def _require_shape(h: Tensor, y: Tensor) -> None:
    """Dimensions of size 1 may be missing or more, others must be those of the outputs, in their order."""
    if len(y) != len(h) or [s for s in y.shape[1:] if s != 1] != [s for s in h.shape[1:] if s != 1]:
        raise ValueError(f"y must have the shape {tuple(h.shape)} of the outputs, got {tuple(y.shape)}.")


NAMED: dict[str, Loss] = {"square": square, "cross-entropy": cross_entropy, "bce": bce}


def find(loss: str | Loss | None, y: Tensor) -> Loss:
    """The loss of that name, the function itself, or by the kind of targets: classes cross-entropy, floats square."""
    if loss is None:
        return square if y.is_floating_point() else _of_all(cross_entropy, y)
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(f"loss must be one of {', '.join(NAMED)} or a function (h, y) → mean, got {loss!r}.")
        return _of_all(NAMED[loss], y)
    if not callable(loss) or isinstance(loss, type):
        kind = "the class " + loss.__name__ if isinstance(loss, type) else type(loss).__name__
        raise TypeError(f"loss must be a name or a function (h, y) → mean, got {kind}.")

    def one_number(h: Tensor, y: Tensor) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Using a target size")  # torch's, where h and y are broadcast
                value = loss(h, y)
        except UserWarning:
            raise ValueError(
                f"y must have the shape {tuple(h.shape)} of the outputs for this loss, got {tuple(y.shape)}."
            ) from None
        if not (isinstance(value, Tensor) and value.numel() == 1):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must give one number, the mean over inputs, got {shape}.")
        return value.squeeze()

    return one_number


def _of_all(loss: Loss, y: Tensor) -> Loss:
    """The named loss, where it has to know of all targets what share of them counts."""
    if loss is not cross_entropy:
        return loss
    counted = float((y != IGNORED).double().mean())
    if not counted:
        raise ValueError(f"y has no class that counts, all are {IGNORED}.")
    return functools.partial(cross_entropy, counted=counted)


def gather(x: Any, y: Tensor | None) -> tuple[Any, Tensor | None]:
    """x and y; of a loader of pairs (x, y), which stands for both, all batches at once."""
    if y is not None and not isinstance(y, Tensor):
        raise ValueError(f"y must be a tensor, one row an input, got {type(y).__name__}.")
    if isinstance(x, Mapping):
        return dict(x), y
    if isinstance(x, (Tensor, tuple, list)) or hasattr(x, "__array__") or not isinstance(x, Iterable):
        return x, y
    if y is not None:
        raise ValueError("y must be None where x is a loader, whose batches are pairs (x, y).")
    pairs = list(x)
    if not (pairs and all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs)):
        raise ValueError(
            "a loader must give at least one batch, each a pair (x, y)"
            + (f", got a {type(pairs[0]).__name__}: " if pairs else "; ")
            + "where it gives something else, put x and y together yourself."
        )
    inputs = [pair[0] for pair in pairs]
    if isinstance(inputs[0], Mapping):
        joined: Any = {key: torch.cat([each[key] for each in inputs]) for key in inputs[0]}
    elif isinstance(inputs[0], (tuple, list)):
        joined = tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))
    else:
        joined = torch.cat(inputs)
    return joined, torch.cat([pair[1] for pair in pairs])


def require_rows(y: Tensor | None, n: int) -> None:
    if y is not None and (not y.dim() or len(y) != n):
        raise ValueError(f"y must have one row for each of the {n} inputs, got shape {tuple(y.shape)}.")


def label_direction(loss: Loss, h: Tensor, y: Tensor) -> Tensor:
    """−∂R/∂h at h = 0: y up to a factor for the square loss, one-hot minus 1/k for cross-entropy; shaped as h."""
    zero = torch.zeros_like(h, requires_grad=True)
    with torch.enable_grad():
        value = loss(zero, y)
        (direction,) = torch.autograd.grad(value, zero) if value.requires_grad else (torch.zeros_like(h),)
    return -direction
