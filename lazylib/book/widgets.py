"""Figures with sliders, which move also on a page without a kernel.

Every picture that the sliders can reach is drawn beforehand, and the sliders choose among them in the browser.  In a
running notebook a field beside each slider takes any other value, for which the picture is computed.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

MAX_FRAMES = 60
LIVE = "lazylib-live"  # the class of what needs a kernel; the book's pages hide it
COLORS = 64


def explore(
    draw: Callable[..., Figure], alt: Callable[..., str], *, live: bool = True, **values: Sequence
) -> ipywidgets.VBox:
    """One slider per keyword over the pictures ``draw(**point)`` of all points of the grid ``values``.

    Args:
        draw: takes one value per slider by keyword and returns a figure, which is closed here.
        alt: takes the same and returns what the picture shows, in words, for those who cannot see it.
        live: whether draw can also take values that are not in the grid.
        values: name → the slider's values, numbers or texts, one or two sliders; at most 60 pictures in all.

    Raises: ValueError if there is no slider or more than two, one without values, or too many pictures.
    """
    if not 1 <= len(values) <= 2:
        raise ValueError(f"explore takes one or two sliders, got {len(values)}.")
    values = {name: list(options) for name, options in values.items()}
    for name, options in values.items():
        if len(options) < 2:
            raise ValueError(f"slider {name} needs at least 2 values, got {len(options)}.")
    count = len(list(itertools.product(*values.values())))
    if count > MAX_FRAMES:
        raise ValueError(f"the sliders must reach at most {MAX_FRAMES} pictures, got {count}.")

    def frame(**point) -> ipywidgets.HTML:
        return ipywidgets.HTML(_picture(draw(**point), alt(**point)))

    sliders = [_slider(name, options) for name, options in values.items()]
    stack = _stack(frame, dict(zip(values, sliders, strict=True)), values, {})
    parts = [*sliders, stack]
    if live:
        parts.append(_live(frame, values))
    return ipywidgets.VBox(parts)


def _slider(name: str, options: Sequence) -> ipywidgets.SelectionSlider:
    labels = [(f"{value:.3g}" if isinstance(value, float) else str(value), k) for k, value in enumerate(options)]
    return ipywidgets.SelectionSlider(
        options=labels, index=len(options) // 2, description=_symbol(name), layout={"width": "22em"}
    )


def _symbol(name: str) -> str:
    return {"tau": "τ", "alpha": "α", "alpha_hat": "√h·α"}.get(name, name)


def _stack(frame, sliders: dict, values: dict, point: dict) -> ipywidgets.Stack:
    """The pictures of the first slider's values; where there is a second slider, a stack for each of them."""
    (name, options), *others = values.items()
    children = [
        _stack(frame, sliders, dict(others), {**point, name: value}) if others else frame(**point, **{name: value})
        for value in options
    ]
    stack = ipywidgets.Stack(children, selected_index=sliders[name].index)
    ipywidgets.jslink((sliders[name], "index"), (stack, "selected_index"))
    return stack


def _live(frame, values: dict) -> ipywidgets.VBox:
    """Fields for other values, and the picture for them; works where a kernel runs."""
    fields = {}
    for name, options in values.items():
        kind = ipywidgets.FloatText if isinstance(options[0], float) else ipywidgets.IntText
        kind = ipywidgets.Text if isinstance(options[0], str) else kind
        middle = options[len(options) // 2]
        fields[name] = kind(value=middle, description=f"any {_symbol(name)}", continuous_update=False)
    shown = ipywidgets.HTML()

    def compute(_) -> None:
        try:
            shown.value = frame(**{name: field.value for name, field in fields.items()}).value
        except ValueError as error:  # a value that makes no sense: say so in the picture's place
            shown.value = f"<p>{html.escape(str(error))}</p>"

    for field in fields.values():
        field.observe(compute, "value")
    box = ipywidgets.VBox([ipywidgets.HBox(list(fields.values())), shown])
    box.add_class(LIVE)
    return box


def _picture(figure: Figure, alt: str) -> str:
    """The figure as an HTML image of 64 colours, which make a small file; those of thin lines are among them."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=110)
    plt.close(figure)
    picture = Image.open(raw).convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="max-width: 100%">'
