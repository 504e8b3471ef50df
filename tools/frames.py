"""Sliders of a page: plain HTML controls over the pictures that a notebook's widgets choose among.

A page without a kernel needs nothing of the widgets but their pictures. The present one stands in the page; the others
are in a script beside it, which is loaded when a slider is first touched (static/book.js; a page opened from a disk may
load nothing but scripts).
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def plain(notebook: NotebookNode, page: str, folder: Path) -> NotebookNode:
    """`notebook` with HTML in place of its widgets; in place.

    page: where the notebook stands in the book, such as "chapters/02_trajectories".
    folder: for the scripts with the pictures; in the book it is _frames.
    """
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    up, count = "../" * page.count("/"), 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).pop(VIEW, None)
            if view is None:
                continue
            name = f"{Path(page).name}-{count}"
            sliders, pictures = parts(models, view["model_id"])
            folder.mkdir(parents=True, exist_ok=True)
            script = f"bookFrames({json.dumps(name)}, {json.dumps(pictures, ensure_ascii=False)});\n"
            (folder / f"{name}.js").write_text(script, encoding="utf-8")
            output.data["text/html"] = form(sliders, pictures, name, f"{up}_frames/{name}.js")
            count += 1
    return notebook


def parts(models: dict, root: str) -> tuple[list[dict], list]:
    """The sliders of a box of `lazylib.book.widgets.explore`, and the HTML of its pictures, nested as they are.

    Raises ValueError for widgets of another kind.
    """

    def model(name: str) -> tuple[str, dict]:
        found = models[name.removeprefix("IPY_MODEL_")]
        return found["model_name"], found["state"]

    def pictures(name: str) -> str | list:
        kind, state = model(name)
        return state["value"] if kind == "HTMLModel" else [pictures(child) for child in state["children"]]

    _, box = model(root)
    children = [(child, *model(child)) for child in box["children"]]
    sliders = [state for _, kind, state in children if kind == "SelectionSliderModel"]
    stacks = [child for child, kind, _ in children if kind == "StackModel"]
    if not sliders or len(stacks) != 1:
        raise ValueError("a widget on a page must be one of lazylib.book.widgets.explore: sliders over one stack.")
    return sliders, pictures(stacks[0])


def form(sliders: list[dict], pictures: list, name: str, address: str) -> str:
    """The sliders, and the picture of their present values."""
    controls = []
    present: str | list = pictures
    for slider in sliders:
        labels, index = slider["_options_labels"], slider["index"]
        present = present[index]
        controls.append(
            f"<label>{html.escape(slider['description'])} "
            f'<input type="range" min="0" max="{len(labels) - 1}" value="{index}" autocomplete="off" '
            f'aria-valuetext="{html.escape(labels[index])}" data-labels="{html.escape(json.dumps(labels))}">'
            f"<output>{html.escape(labels[index])}</output></label>"
        )
    return (
        f'<div class="frames" data-name="{name}" data-frames="{address}">'
        f'<p>{"".join(controls)}</p><div class="frame">{present}</div></div>'
    )
