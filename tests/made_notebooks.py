"""Small notebooks for the tests of the tools: cells as a chapter has them."""

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPj/HwADAgH/p8sl0QAAAABJRU5ErkJggg=="


def text(source: str) -> NotebookNode:
    return new_markdown_cell(source)


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = (), **metadata: object) -> NotebookNode:
    cell = new_code_cell(source, execution_count=1, outputs=list(outputs), metadata=dict(metadata))
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def shown(**data: object) -> NotebookNode:
    """An output with the given data; in the names of the keys `__` stands for `/`."""
    return new_output("display_data", data={key.replace("__", "/"): value for key, value in data.items()})


def figure(alt: str | None = "a line that rises", **metadata: object) -> NotebookNode:
    if alt is not None:
        metadata["mystnb"] = {"image": {"alt": alt}}
    return code("plot()", shown(image__png=PIXEL), **metadata)


def notebook(*cells: NotebookNode) -> NotebookNode:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=list(cells), metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write(path, *cells: NotebookNode):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(*cells), path)
    return path
