"""What `compare` found: a table that prints, goes to pandas and JSON, and plots itself beside others."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

MEANING = {
    "displacement": "‖w − w0‖/‖w0‖",
    "loss before": "R at w0",
    "loss after": "R at w",
    "output change": "‖h(w) − h(w0)‖/‖h(w0)‖",
    "linear-model gap": "‖h(w) − h(w0) − Dh(w0)(w − w0)‖/‖h(w) − h(w0)‖",
    "buffers' share": "of the change of h, that by buffers alone",
    "activation stability": "share of units on the same side of 0",
    "kernel change": "‖K − K0‖/‖K0‖",
    "label alignment before": "yᵀK0y/(‖K0‖ ‖y‖²)",
    "label alignment after": "yᵀKy/(‖K‖ ‖y‖²)",
    "feature similarity": "unbiased CKA of features at w0 and w, lowest layer",
}
LAZY = {  # the value of a tangent model, to the right or left of which training is not lazy
    "displacement": 0.0,
    "linear-model gap": 0.0,
    "activation stability": 1.0,
    "kernel change": 0.0,
    "feature similarity": 1.0,
}


class Measure(NamedTuple):
    """One number of a report of ``compare``: what, of which layer ("": the whole model), and its sampling error.

    error is the half-width of a 95 % interval for sampling alone, 0 where all was computed.
    """

    name: str
    layer: str
    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Report:
    """What `compare` found of a model at two times; it prints as a table.

    ``report["kernel change"]`` is the value for the whole model, ``report.layers("displacement")`` those of its layers.

    Attributes:
        measures: all numbers, those of the whole model first.
        about: what was measured, and how: inputs, outputs, parameters, dtype, seconds.
        notes: what could not be measured or deserves a second look, in sentences.
    """

    measures: tuple[Measure, ...]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        return self.find(name).value

    def find(self, name: str) -> Measure:
        """The measure of the whole model of that name, with its error; KeyError where there is none."""
        for each in self.measures:
            if each.name == name and not each.layer:
                return each
        known = ", ".join(each.name for each in self.measures if not each.layer)
        raise KeyError(f"the report has no {name!r}, it has: {known}")

    def layers(self, name: str) -> dict[str, Measure]:
        """Layer → its measure of that name, in the order of the model."""
        return {each.layer: each for each in self.measures if each.name == name and each.layer}

    def to_frame(self):
        """All numbers as a `pandas.DataFrame` with the columns measure, layer, value, error."""
        import pandas as pd

        return pd.DataFrame(self.measures, columns=["measure", "layer", "value", "error"])

    def to_json(self) -> str:
        """All of it as JSON; a number that could not be measured is null."""

        def number(value: float) -> float | None:
            return value if math.isfinite(value) else None

        rows = [
            {"measure": m.name, "layer": m.layer, "value": number(m.value), "error": number(m.error)}
            for m in self.measures
        ]
        return json.dumps({"measures": rows, "about": self.about, "notes": list(self.notes)}, ensure_ascii=False)

    def __str__(self) -> str:
        about = self.about
        lines = [
            f"{about['parameters']} trainable weights, {about['inputs']} inputs of {about['outputs']} outputs, "
            f"{about['dtype']}, {about['mode']} mode, {about['seconds']:.1f} s",
            "",
        ]
        whole = [m for m in self.measures if not m.layer]
        lines += [f"{m.name:<24}{_number(m):<20}{MEANING.get(m.name, '')}" for m in whole]
        names = [name for name in MEANING if self.layers(name)]
        if names:
            columns = [self.layers(name) for name in names]
            order = list(dict.fromkeys(m.layer for m in self.measures if m.layer))
            width = max(max(map(len, order)), 5) + 2
            lines += ["", "layer".ljust(width) + "".join(f"{name:<24}" for name in names)]
            for layer in order:
                cells = [_number(column[layer]) if layer in column else "" for column in columns]
                lines.append((layer.ljust(width) + "".join(f"{cell:<24}" for cell in cells)).rstrip())
        return "\n".join([*lines, *([""] if self.notes else []), *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def plot(self, ax=None, label: str = "this run", **others: Report):
        """Draw the measures of the whole model, one row each, with their errors; other reports beside, by name.

        Args:
            ax: matplotlib axes; default: new ones.
            label: of this report.
            others: name → report.

        Returns:
            The axes. The left edge of each row is lazy: 0 for changes, and 1 for stability and similarity, of which the
            distance to 1 is drawn.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 3.2))
        reports = {label: self, **others}
        names = [
            name for name in LAZY if any(m.name == name and not m.layer for r in reports.values() for m in r.measures)
        ]
        for row, (title, report) in enumerate(reports.items()):
            found = [(i, m) for i, name in enumerate(names) for m in report.measures if m.name == name and not m.layer]
            found = [(i, m) for i, m in found if math.isfinite(m.value)]
            values = [abs(m.value - LAZY[m.name]) for _, m in found]
            at = [i + (row - (len(reports) - 1) / 2) * 0.6 / len(reports) for i, _ in found]
            ax.errorbar(values, at, xerr=[m.error for _, m in found], fmt="o", label=title)
        titles = [name if LAZY[name] == 0 else f"1 − {name}" for name in names]
        ax.set_yticks(range(len(names)), titles)
        ax.set_xscale("symlog", linthresh=1e-4)
        ax.set_xlim(0, 1.5 * max(ax.dataLim.x1, 1e-3))  # no dot on the edge
        ax.invert_yaxis()
        ax.set_xlabel("distance from lazy")
        ax.legend()
        return ax


def _number(m: Measure) -> str:
    if math.isnan(m.value):
        return "–"
    return f"{m.value:.4g}" + (f" ± {m.error:.2g}" if m.error else "")
