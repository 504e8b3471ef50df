"""What the builder of the book does not notice is checked here, before a notebook becomes a page."""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.clean import STATE, VIEW

PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
HIDDEN = {"remove-cell", "remove-output", "remove-input-output"}  # tags of cells whose output is on no page
MAX_PICTURE = 150_000  # bytes of a PNG
_FENCE = re.compile(r"^(`{3,}|~{3,}|:{3,}).*?^\1", re.MULTILINE | re.DOTALL)


def problems(path: Path) -> list[str]:
    """What is wrong with the notebook at `path` as a page: one sentence for each fault, none if it is sound.

    Found are: a cell that was not executed, an error in an output, a figure without alternative text, one with a name
    beside another output, which would bear its name too, a PNG over 150 kB, a widget without its state, and a page
    that has not exactly one title (`# …`) or has not got it first.
    """
    notebook = nbformat.read(path, as_version=4)
    found = [f"{path.name}: {fault}" for fault in _title_faults(notebook)]
    for number, cell in enumerate(notebook.cells, start=1):
        found += [f"{path.name}, cell {number}: {fault}" for fault in _cell_faults(cell, notebook)]
    return found


def _title_faults(notebook: NotebookNode) -> list[str]:
    texts = [_FENCE.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    titles = [line for text in texts for line in text.splitlines() if re.match(r"# +\S", line)]
    if len(titles) != 1:
        return [f"a page has one title, a line that begins with '# ', but this one has {len(titles)}: {titles}"]
    if not notebook.cells or titles[0] not in notebook.cells[0].source:
        return ["the title must stand in the first cell"]
    return []


def _cell_faults(cell: NotebookNode, notebook: NotebookNode) -> list[str]:
    if cell.cell_type == "markdown":
        missing = re.findall(r"!\[\s*\]\(([^)]*)\)", _FENCE.sub("", cell.source))
        return [f"picture {name} has no alternative text" for name in missing]
    if cell.cell_type != "code" or not cell.source.strip():
        return []
    faults = []
    if cell.execution_count is None:
        faults.append("was not executed; `make notebooks` executes the chapters")
    models = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    shown = not HIDDEN & set(cell.metadata.get("tags", []))
    named = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
    if named and (count := sum("data" in output for output in cell.outputs)) != 1:
        faults.append(f"gives {count} outputs, and {named} must be the only one; does its last line lack a semicolon?")
    for output in cell.outputs:
        if output.output_type == "error":
            faults.append(f"failed with {output.ename}: {output.evalue}")
        data = output.get("data", {})
        # Glued outputs are data for other cells, not a figure at this place.
        if shown and "scrapbook" not in output.get("metadata", {}) and any(kind in data for kind in PICTURES):
            if not _alternative_text(cell).strip():
                faults.append("its figure has no alternative text: set mystnb.image.alt in the cell's metadata")
        size = len(data.get("image/png", "")) * 3 // 4
        if size > MAX_PICTURE:
            faults.append(f"its picture has {size // 1000} kB, at most {MAX_PICTURE // 1000} kB are allowed")
        if VIEW in data and data[VIEW]["model_id"] not in models:
            faults.append("shows a widget whose state was not stored")
    return faults


def _alternative_text(cell: NotebookNode) -> str:
    mystnb = cell.metadata.get("mystnb", {})
    return (mystnb.get("image") or {}).get("alt") or ""
