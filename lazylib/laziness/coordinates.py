"""How activations and their changes scale with width: the check of coordinates of maximal-update parametrization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import _losses
from .subject import Subject, undisturbed, watch
from .tracker import _seen_in_eval_mode


@dataclass(frozen=True)
class CoordCheck:
    """What `coord_check` found; it prints the exponents as a table.

    Attributes:
        widths: as given.
        layers: names, in the order of a pass.
        size: mean |coordinate| of each layer's output, (widths, steps + 1, layers).
        change: mean |coordinate − that at step 0|, (widths, steps + 1, layers).
        exponents: layer → (p, q) of size ∝ width^p at the start and change ∝ width^q after the last step, by least
            squares on logarithms; NaN where a value is 0.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    size: np.ndarray = field(repr=False)
    change: np.ndarray = field(repr=False)
    exponents: dict[str, tuple[float, float]]

    def to_frame(self):
        """All values as a `pandas.DataFrame` with the columns width, step, layer, size, change."""
        import pandas as pd

        rows = [
            (width, t, layer, self.size[i, t, j], self.change[i, t, j])
            for i, width in enumerate(self.widths)
            for t in range(self.size.shape[1])
            for j, layer in enumerate(self.layers)
        ]
        return pd.DataFrame(rows, columns=["width", "step", "layer", "size", "change"])

    def __str__(self) -> str:
        width = max(map(len, self.layers)) + 2
        lines = [f"{'layer':<{width}}size ∝ width^   change ∝ width^"]
        return "\n".join(lines + [f"{k:<{width}}{p:<+15.2f}{q:<+.2f}" for k, (p, q) in self.exponents.items()])

    __repr__ = __str__


def coord_check(
    make_model: Callable[[int], nn.Module],
    widths: Sequence[int],
    x: Any,
    y: Tensor,
    loss: str | _losses.Loss | None = None,
    output: Callable[[Any], Tensor] | None = None,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    steps: int = 3,
    seeds: Sequence[int] = (0, 1, 2),
) -> CoordCheck:
    """Trains a model of each width for a few steps, and says how its activations and their changes scale with width.

    In a maximal-update parametrization neither grows nor shrinks. In a lazy one the changes of hidden layers shrink,
    as width^(−1/2) in the neural-tangent parametrization; where something grows, a wide model will diverge.

    Args:
        make_model: width → a new module, drawn by torch's own random numbers, which are seeded for each.
        widths: at least two.
        x, y, loss, output: all used in each step; see `compare`.
        optimizer: module → optimizer, so that step sizes may depend on layer and width; default: SGD of step 0.1.
        steps: of the optimizer.
        seeds: of the models, over which sizes are averaged.

    Returns:
        Sizes, changes and their exponents.

    Raises:
        ValueError: fewer than two widths, no step, layers that differ between widths, or a value that is not finite.

    Source: Yang, Hu 2021, *Tensor programs IV*; the check by Yang et al. 2022, *Tensor programs V*, appendix D.

    Example:
        >>> import torch
        >>> from lazylib import laziness
        >>> def make(width):
        ...     return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
        >>> found = laziness.coord_check(make, [64, 256, 1024], torch.randn(8, 3), torch.randn(8))
        >>> list(found.exponents)
        ['0', '1', '2']
    """
    if len(set(widths)) < 2 or min(widths) < 1 or steps < 1 or not len(seeds):
        raise ValueError(
            "widths must be at least two different numbers ≥ 1, and steps and seeds at least one, "
            f"got {list(widths)}, {steps} and {list(seeds)}."
        )
    optimizer = optimizer or (lambda model: torch.optim.SGD(model.parameters(), 0.1))
    layers: tuple[str, ...] = ()
    size, change = [], []
    for width in widths:
        runs = [_run(make_model, width, x, y, loss, output, optimizer, steps, seed) for seed in seeds]
        layers = layers or tuple(runs[0][0])
        if any(tuple(names) != layers for names, _, _ in runs):
            raise ValueError(f"models of all widths must have the same layers, at {width} they differ.")
        size.append(np.mean([a for _, a, _ in runs], axis=0))
        change.append(np.mean([b for _, _, b in runs], axis=0))
    sizes, changes = np.stack(size), np.stack(change)  # (widths, steps + 1, layers)
    if not (np.isfinite(sizes).all() and np.isfinite(changes).all()):
        raise ValueError("activations must stay finite: the steps are too long for some width.")
    exponents = {
        name: (_slope(widths, sizes[:, 0, j]), _slope(widths, changes[:, -1, j])) for j, name in enumerate(layers)
    }
    return CoordCheck(tuple(widths), layers, sizes, changes, exponents)


def _run(make_model, width, x, y, loss, output, optimizer, steps, seed) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the layers; sizes and changes, (steps + 1, layers)."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = make_model(width)
        subject, descent = Subject(model, x, output), optimizer(model)
        target, function = subject.cast(y), _losses.find(loss, y)
        state = {name: v for name, v in [*subject.model.named_parameters(), *subject.model.named_buffers()]}
        size, change = [], []
        first: dict[str, Tensor] = {}
        for t in range(steps + 1):
            seen: dict[str, Tensor] = {}

            def keep(name, out, seen=seen):
                out = out[0] if isinstance(out, (tuple, list)) and out else out
                if isinstance(out, Tensor) and out.is_floating_point():
                    seen[name or "(model)"] = out.detach().clone()

            with _seen_in_eval_mode(model), undisturbed(model), torch.no_grad(), watch(subject.model, keep):
                subject(state, slice(0, subject.n))
            first = first or seen
            size.append([float(v.abs().mean()) for v in seen.values()])
            change.append([float((v - first[name]).abs().mean()) for name, v in seen.items()])
            if t < steps:
                descent.zero_grad()
                given = subject.x
                out = model(**dict(zip(subject.keywords, given, strict=True))) if subject.keywords else model(*given)
                function(out if output is None else output(out), target).backward()
                descent.step()
        return list(first), np.array(size), np.array(change)


def _slope(widths: Sequence[int], values: np.ndarray) -> float:
    if not (values > 0).all():
        return math.nan
    u = np.log(widths) - np.mean(np.log(widths))
    return float(u @ np.log(values) / (u @ u))
