"""A chapter in one minute: the box under its title, and at its end what a reader may take along.

Both are made from what is there: the sentence under the title, the verdicts and times that the outputs hold, one of the
chapter's figures, the stored results, CITATION.cff. New is one line a chapter, its question, in chapters/claims.toml.
As an extension of the book's builder it puts the figure into the box, and links to its files under every figure.
"""

from __future__ import annotations

import math
import posixpath
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from nbformat import NotebookNode

VERDICTS = re.compile(r"\*\*([A-Z]\d+)\*\* [✓≈✗?–]")
TIME = re.compile(r"This run: preset (.+?), (\d+) s on ([^;]+);")
DATA = Path("_extra", "_data")  # in the sources: the folder of tables, which is _data in the book
WORDS_A_MINUTE, MINUTES_A_FIGURE = 200, 0.5


def asked(root: Path) -> dict[str, dict]:
    """What claims.toml says of each chapter that has a box: the arguments of `with_box`."""
    path = root / "chapters" / "claims.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")).get("minute", {}) if path.exists() else {}


def with_box(notebook: NotebookNode, question: str, figure: str, answer: Sequence[str] = ()) -> NotebookNode:
    """`notebook` with the box below its title, in place.

    figure: the name of the one that answers the question.
    answer: how the sentences begin, among the outputs, that answer it where the chapter tests no claim. Else the box
        takes the sentence under the title, which is the claim, and the verdicts.
    """
    first = notebook.cells[0]
    lines = [f"**Question.** {question}"]
    if answer:
        lines += [f"**Answer.** {' '.join(said(notebook, answer))}"]
    else:
        *title, claim = first.source.split("\n\n")
        first.source = "\n\n".join(title)
        lines += [f"**Claim.** {claim}"]
    if figure in figures(notebook):
        lines += [f":::{{minute-figure}} {figure}\n:::"]
    lines += [f"**Verdicts.** {verdicts}"] if (verdicts := take_verdicts(notebook)) else []
    lines += [f"**Time.** {times(notebook)}"]
    box = "\n\n".join(["::::{admonition} In one minute\n:class: minute", *lines, "::::"])
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(box, id="minute"))
    return notebook


def said(notebook: NotebookNode, starts: Sequence[str]) -> list[str]:
    """The sentences among the outputs that begin so, without bold type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    sentences = [output.get("data", {}).get("text/markdown", "").replace("**", "") for output in outputs]
    return [next((text for text in sentences if text.startswith(start)), "") for start in starts]


def figures(notebook: NotebookNode) -> dict[str, NotebookNode]:
    """The cells of the figures by their names."""
    found = {cell.metadata.get("mystnb", {}).get("figure", {}).get("name"): cell for cell in notebook.cells}
    return {name: cell for name, cell in found.items() if name}


def take_verdicts(notebook: NotebookNode) -> str:
    """The line with the verdicts, which goes from its cell, with links to where each is decided."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            line = output.get("data", {}).get("text/markdown", "")
            if VERDICTS.match(line):
                cell.outputs.remove(output)
                return VERDICTS.sub(lambda match: f'<a href="#claim-{match[1]}">{match[1]}</a>{match[0][-2:]}', line)
    return ""


def times(notebook: NotebookNode) -> str:
    """How long reading takes, at 200 words a minute and half a minute a figure, and how long the run took."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts += [output.data.get("text/markdown", "") for output in outputs if "data" in output]
    words = sum(len(text.split()) for text in texts)
    minutes = words / WORDS_A_MINUTE + MINUTES_A_FIGURE * len(figures(notebook))
    reading = f"about {5 * math.ceil(minutes / 5)} minutes to read"
    ran = TIME.search("\n".join(output.text for output in outputs if output.output_type == "stream"))
    if not ran:
        return f"{reading.capitalize()}."
    preset, seconds, machine = ran[1], int(ran[2]), ran[3]
    run = f"{seconds} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    return f"{reading.capitalize()}, {run} to run ({machine}; preset {preset})."


def with_end(notebook: NotebookNode, page: str, data: list[str], points: bool, root: Path) -> NotebookNode:
    """`notebook` with links to itself and to its data, and how to cite it, after its last cell; in place.

    points: whether those of its figures are there as well.
    """
    up, title = "../" * page.count("/"), notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    work = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    authors = ", ".join(
        author.get("name") or f"{author['given-names']} {author['family-names']}" for author in work["authors"]
    )
    cite = (
        f"{authors}: “{title}”, a chapter of *{work['title']}*, version {work['version']}, {work['date-released'][:4]}."
    )
    lines = [
        f'- <a href="{up}_sources/{page}.ipynb" download>This chapter as a notebook</a>; '
        f"under each figure is a link to its file{', and to its points as CSV' * points}."
    ]
    if data:
        links = ", ".join(f'<a href="{up}_data/{name}" download>{name.removesuffix(".csv")}</a>' for name in data)
        lines.append(f"- Stored results as CSV: {links}.")
    lines.append(f"- Cite this chapter: {cite}")
    box = "\n".join([":::{admonition} Take it along", ":class: take", *lines, ":::"])
    notebook.cells.append(nbformat.v4.new_markdown_cell(box, id="take"))
    return notebook


# --- in the builder ---


class MinuteFigure(Directive):
    """The place for the picture of a figure that stands further down."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        return [nodes.container(classes=["minute-figure"], figure=self.arguments[0])]


def _fill(app, doctree: nodes.document) -> None:
    """The picture itself, so that it is one file; it leads to the figure with its caption."""
    for place in list(doctree.findall(lambda node: isinstance(node, nodes.container) and "figure" in node)):
        for figure in doctree.findall(nodes.figure):
            picture = next(iter(figure.findall(nodes.image)), None)
            if place["figure"] in figure["names"] and picture is not None:
                link = nodes.reference("", "", picture.deepcopy(), refid=figure["ids"][0], internal=True)
                place += nodes.paragraph("", "", link)
                break


def _link_files(app, doctree: nodes.document, page: str) -> None:
    """Under every figure a link to its file, which is small and sharp at any size if it is SVG, and to its points."""
    if app.builder.format != "html":
        return
    up = "../" * page.count("/")
    for figure in doctree.findall(nodes.figure):
        picture = next(iter(figure.findall(nodes.image)), None)
        caption = next(iter(figure.findall(nodes.caption)), None)
        if picture is None or caption is None or picture["uri"] not in app.env.images:
            continue
        name = app.env.images[picture["uri"]][1]
        kind = posixpath.splitext(name)[1].removeprefix(".").upper()
        link = f' <a class="file" href="{up}_images/{name}" download="{figure["names"][0]}.{kind.lower()}">{kind}</a>'
        if (Path(app.srcdir) / DATA / f"{figure['names'][0]}.csv").exists():
            link += f' <a class="file" href="{up}_data/{figure["names"][0]}.csv" download>CSV</a>'
        caption += nodes.raw("", link, format="html")


def setup(app) -> dict:
    app.add_directive("minute-figure", MinuteFigure)
    app.connect("doctree-read", _fill)
    app.connect("doctree-resolved", _link_files)
    return {"parallel_read_safe": True}
