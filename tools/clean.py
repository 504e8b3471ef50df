"""Make an executed notebook fit for a page and for version control.

Executing the same notebook twice must give the same file, or every execution would be a change. So what
depends on the clock goes: time stamps, progress bars, cuts in a stream. Identifiers drawn at random (widget models) are
numbered instead.
"""

import json
import re
from collections.abc import Iterable

from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
_PROGRESS_TEXT = re.compile(r"\d+%\|.*\|.*\[\d+:\d+")  # tqdm's bar as text


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop time stamps, progress bars and unused widgets from `notebook`, and renumber the rest; in place."""
    for cell in notebook.cells:
        for key in ("papermill", "execution", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _joined(out for out in cell.outputs if not _is_progress(out, _models(notebook)))
    notebook.metadata.pop("papermill", None)
    _keep_used_widgets(notebook)
    return notebook


def _joined(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: where a kernel cuts it depends on the clock."""
    found: list[NotebookNode] = []
    for output in outputs:
        before = found[-1] if found else None
        if before and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            found.append(output)
    return found


def _models(notebook: NotebookNode) -> dict:
    """The stored widget models, by identifier."""
    return notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})


def _references(model: dict) -> list[str]:
    """Identifiers of the models that `model` names anywhere in its state."""
    return re.findall(r"IPY_MODEL_([\w-]+)", json.dumps(model))


def _is_progress(output: NotebookNode, models: dict) -> bool:
    """Whether `output` is a progress bar: tqdm's widget (a box around a FloatProgress) or its text."""
    if output.output_type == "stream" and output.name == "stderr":
        lines = [line for line in re.split(r"[\r\n]", output.text) if line.strip()]
        return bool(lines) and all(_PROGRESS_TEXT.search(line) for line in lines)
    view = output.get("data", {}).get(VIEW)
    if view is None or view["model_id"] not in models:
        return False
    box = models[view["model_id"]]
    parts = [models[name]["model_name"] for name in _references(box) if name in models]
    return box["model_name"] == "HBoxModel" and "FloatProgressModel" in parts


def _keep_used_widgets(notebook: NotebookNode) -> None:
    """Keep the widget models that an output shows, or that link two of them; number their identifiers."""
    models = _models(notebook)
    used: list[str] = []

    def visit(name: str) -> None:
        if name in models and name not in used:
            used.append(name)
            for reference in _references(models[name]):
                visit(reference)

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(VIEW)
            if view is not None:
                visit(view["model_id"])
    # A link between two widgets refers to them, not they to it. It is kept if both ends are.
    for name, model in models.items():
        references = _references(model)
        if model["model_name"] in ("LinkModel", "DirectionalLinkModel") and set(references) <= set(used):
            visit(name)
    if not used:
        notebook.metadata.pop("widgets", None)
        return
    state = notebook.metadata["widgets"][STATE]
    state["state"] = {name: models[name] for name in used}
    text = json.dumps(notebook)
    for number, name in enumerate(used):
        text = text.replace(name, f"{number:032x}")
    notebook.update(json.loads(text, object_hook=NotebookNode))
