"""The page of a notebook that was not executed: the committed outputs under a line that says so and why."""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lazylib.runs import write

REASON = "not_executed"  # the key of a stand-in's metadata


def stand_in(notebook: Path, output: Path, reason: str) -> None:
    """Write `notebook` as it is to `output`, with the reason in its metadata and under its title."""
    content = nbformat.read(notebook, as_version=4)
    content.metadata[REASON] = reason
    warning = "Not executed in this copy of the book: the outputs are those that were committed. The reason:"
    content = under_title(content, f":::{{warning}}\n{warning} {literal(reason)}\n:::")
    write(output, lambda file: file.write_text(nbformat.writes(content), encoding="utf-8"))


def why(output: Path) -> str | None:
    """Why the notebook at `output` was not executed; None if it was, or if there is none."""
    return nbformat.read(output, as_version=4).metadata.get(REASON) if output.exists() else None


def under_title(notebook: NotebookNode, text: str) -> NotebookNode:
    """`notebook` with a text below its title, the line `# …` of its first cell, or first of all; in place."""
    first = notebook.cells[0]
    title, rest = re.match(r"(.*?^# [^\n]*|)(.*)", first.source, re.DOTALL | re.MULTILINE).groups()
    first.source = f"{title}\n\n{text}{rest}"
    return notebook


def literal(text: str) -> str:
    """`text` as code within a line of Markdown, so that nothing in it is taken for markup."""
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks} {' '.join(text.split())} {marks}"
