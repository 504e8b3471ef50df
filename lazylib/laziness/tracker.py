"""The cheap measures of laziness along a training, at log-spaced steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import _losses
from ._checks import require_deterministic
from .comparison import cheap_measures
from .report import LAZY
from .state import bare, snapshot
from .subject import Subject, undisturbed


class Tracker:
    """Records how lazily a model trains, while it trains: call ``step()`` once after each step of the optimizer.

    At steps 0, 1, 2, 3, 4, 6, 8, 11, … the displacement ‖w − w0‖/‖w0‖, the loss, the change of the outputs, the
    linear-model gap and the activation stability are recorded, all as `compare` defines them: three passes and
    one forward-mode derivative over x each time. The model is seen in eval mode, and put back into its own.

    Args:
        model: at its start w0.
        x, y, loss, output: see `compare`; x is seen again at each record, so some dozens of inputs.
        growth: of the steps between records, > 1.

    Attributes:
        before: the snapshot at the start, for a full `compare` at the end.
        records: one dict a record, with the step and the measures.

    Raises:
        ValueError: as `compare`, when it is made.

    Example:
        >>> import torch
        >>> from lazylib import laziness
        >>> model, x, y = torch.nn.Linear(2, 1), torch.eye(2), torch.ones(2)
        >>> tracker, descent = laziness.Tracker(model, x, y), torch.optim.SGD(model.parameters(), 0.1)
        >>> for _ in range(5):
        ...     descent.zero_grad()
        ...     (model(x).squeeze(1) - y).square().mean().backward()
        ...     descent.step()
        ...     tracker.step()
        >>> [record["step"] for record in tracker.records]
        [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Tensor | None = None,
        loss: str | _losses.Loss | None = None,
        output: Callable[[Any], Tensor] | None = None,
        *,
        growth: float = 1.3,
    ):
        if not (growth > 1 and math.isfinite(growth)):
            raise ValueError(f"growth must be a finite number > 1, got {growth}.")
        x, y = _losses.gather(x, y)
        self._subject, self._growth, self._model = Subject(model, x, output), growth, model
        self._y = None if y is None else self._subject.cast(y)
        self._loss = None if y is None else _losses.find(loss, y)
        _losses.require_rows(self._y, self._subject.n)
        self.before, self._steps, self._next = snapshot(model), 0, 0
        self.records: list[dict[str, float]] = []
        with _seen_in_eval_mode(model), undisturbed(model):
            state = self._subject.state(self.before)
            require_deterministic(self._subject, state)
            u = {self._subject.real[name]: torch.ones_like(p) for name, p in self.before.parameters.items()}
            try:  # a model that torch cannot differentiate so is not stopped in the middle of its training
                self._subject.tangent(state, {name: step.to(state[name]) for name, step in u.items()}, slice(0, 1))
                self._tangent = True
            except RuntimeError:
                self._tangent = False
        self._record()

    def step(self) -> None:
        """One step of the optimizer has been made; a record is taken where one is due."""
        self._steps += 1
        if self._steps >= self._next:
            self._record()

    def _record(self) -> None:
        with _seen_in_eval_mode(self._model), undisturbed(self._model):
            found = cheap_measures(
                self._subject,
                self.before,
                snapshot(self._model),
                self._y,
                self._loss,
                [],
                self._tangent and self._steps > 0,
            )
        values = {m.name: m.value for m in found if not m.layer}
        if "loss after" in values:
            values["loss"] = values.pop("loss after")
            del values["loss before"]
        self.records.append({"step": self._steps, **values})
        self._next = max(self._steps + 1, math.ceil(self._steps * self._growth))

    def to_frame(self):
        """The records as a `pandas.DataFrame`, one row a record, with the step as index."""
        import pandas as pd

        return pd.DataFrame(self.records).set_index("step")

    def plot(self, ax=None):
        """Draw the measures over the steps; returns the axes."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        frame = self.to_frame()
        for name in [name for name in LAZY if name in frame]:
            ax.plot(frame.index, (frame[name] - LAZY[name]).abs(), label=name if LAZY[name] == 0 else f"1 − {name}")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_yscale("symlog", linthresh=1e-4)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("steps")
        ax.set_ylabel("distance from lazy")
        ax.legend()
        return ax


@contextlib.contextmanager
def _seen_in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in bare(model).modules()]
    bare(model).eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
