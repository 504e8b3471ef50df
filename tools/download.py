"""The notebook that a page offers for download: plain Markdown, as it is read in Jupyter or Colab.

A page's source holds roles and directives of MyST, which only the book understands. After the build, when every number
is known, this extension of Sphinx puts plain Markdown in their place: the numbers of figures and equations, the names
of works, the list of references, exercises that unfold. A figure's caption, which is metadata, becomes a cell below it.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import nbformat
import pybtex.database
from nbformat import NotebookNode
from pybtex.plugin import find_plugin

OFFERED = "made/download"  # in the sources: the notebooks as they were executed, without what pages add
BIBLIOGRAPHY = Path(__file__).resolve().parent.parent / "references.bib"
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]*)`")
ROLE_OR_CODE = re.compile(rf"{ROLE.pattern}|(?<!`)(?P<marks>`+)(?!`).+?(?<!`)(?P=marks)(?!`)")  # code shows roles
TITLED = re.compile(r"(.*\S)\s*<(.+)>")  # {doc}`title <page>`
DIRECTIVE = re.compile(
    r"^(?P<fence>:{3,}|`{3,})\{(?P<name>[\w:-]+)\} *(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence) *$", re.M | re.S
)
OPTION = re.compile(r"^:([\w-]+): *(.*)\n", re.M)
LABELLED = re.compile(r"^\$\$\s*\(([\w-]+)\) *$", re.M)  # the end of $$ … $$ (label)
TARGET = re.compile(r"^\([\w-]+\)=\n", re.M)
LEFT = re.compile(r"\{[\w:-]+\}`|^(?::{3,}|`{3,})\{|^\$\$\s*\(|^\([\w-]+\)=$", re.M)


class Book(Protocol):
    """What the references of a page stand for."""

    def figure(self, label: str) -> str: ...  # its number
    def equation(self, label: str) -> str: ...
    def title(self, page: str) -> str: ...  # of the page, a path relative to the one it is named on


def plain(text: str, book: Book, cited: Sequence[str] = ()) -> str:
    """MyST Markdown as plain Markdown; a list of references holds the works `cited`, by their keys.

    Raises:
        ValueError: a role or directive that is not known here.
    """

    def role(match: re.Match) -> str:
        if match["marks"]:
            return match[0]
        name, content = match[1], match[2]
        titled = TITLED.fullmatch(content)
        target = titled[2] if titled else content
        if name == "numref":
            return f"figure {book.figure(target)}"
        if name == "eq":
            return f"({book.equation(target)})"
        if name == "doc":
            return f"[{titled[1] if titled else book.title(target)}]({target.lstrip('/')}.ipynb)"
        if name in ("cite:t", "cite:p", "cite"):
            works = [named(key.strip()) for key in content.split(",")]
            if name == "cite:t":
                return ", ".join(f"{who} ({year})" for who, year in works)
            return f"({'; '.join(f'{who}, {year}' for who, year in works)})"
        return match[0]

    def directive(match: re.Match) -> str:
        options = dict(OPTION.findall(match["body"]))
        body = OPTION.sub("", match["body"]).strip()
        name, title = match["name"], match["title"].strip()
        if name == "math":
            number = f" \\tag{{{book.equation(options['label'])}}}" if "label" in options else ""
            return f"$$\n{body}{number}\n$$"
        if name == "admonition" and "dropdown" in options.get("class", ""):
            return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"
        if name in ("admonition", "note", "warning", "tip", "important"):
            return "\n".join(f"> {line}".rstrip() for line in [f"**{title or name.capitalize()}.**", *body.split("\n")])
        if name == "bibliography":
            return "\n".join(f"- {reference(key)}" for key in cited)
        return match[0]

    text = TARGET.sub("", text)
    text = DIRECTIVE.sub(directive, text)
    text = LABELLED.sub(lambda match: f"\\tag{{{book.equation(match[1])}}}\n$$", text)
    text = ROLE_OR_CODE.sub(role, text)
    if left := LEFT.search(without_code := ROLE_OR_CODE.sub(lambda match: "" if match["marks"] else match[0], text)):
        raise ValueError(f"there is no plain Markdown for {without_code[left.start() :].splitlines()[0]!r}.")
    return text


def resolved(notebook: NotebookNode, book: Book) -> NotebookNode:
    """The notebook without roles and directives, its captions in cells; in place."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    keys = [
        key.strip()
        for name, content in ROLE.findall("\n".join(texts))
        if name.startswith("cite")
        for key in content.split(",")
    ]
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, book, list(dict.fromkeys(keys)))
        cells.append(cell)
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if "caption" in figure:
            caption = f"*Figure {book.figure(figure['name'])}.* {plain(figure['caption'], book)}"
            cells.append(nbformat.v4.new_markdown_cell(caption, id=f"caption-{len(cells)}"))
    notebook.cells = cells
    return notebook


@functools.cache
def _works() -> dict:
    return pybtex.database.parse_file(str(BIBLIOGRAPHY)).entries


def named(key: str) -> tuple[str, str]:
    """Authors and year of a work, as they stand in a sentence."""
    entry = _works()[key]
    last = [" ".join(person.rich_last_names[0].render_as("text").split()) for person in entry.persons["author"]]
    who = last[0] if len(last) == 1 else " and ".join(last) if len(last) == 2 else f"{last[0]} et al."
    return who, entry.fields["year"]


def reference(key: str) -> str:
    """A work's line in the list of references, Markdown."""
    style = find_plugin("pybtex.style.formatting", "unsrt")()
    (entry,) = style.format_entries([_works()[key]])
    return " ".join(entry.text.render(find_plugin("pybtex.backends", "markdown")()).split())


class _Built:
    """Numbers and titles as they stand on the pages, for the references of one of them."""

    def __init__(self, env, page: str) -> None:
        self.env, self.page = env, page

    def figure(self, label: str) -> str:
        page, name, _ = self.env.get_domain("std").labels[label]
        return ".".join(map(str, self.env.toc_fignumbers[page]["figure"][name]))

    def equation(self, label: str) -> str:
        return str(self.env.get_domain("math").equations[label][1])

    def title(self, page: str) -> str:
        found = posixpath.normpath(posixpath.join(posixpath.dirname(self.page), page))
        return self.env.titles[found.lstrip("/")].astext()


def _resolve(app, exception) -> None:
    if exception is not None:
        return
    for page in app.env.found_docs:
        path = Path(app.outdir) / "_sources" / f"{page}.ipynb"
        if path.exists():
            try:
                offered = Path(app.srcdir) / OFFERED / f"{page}.ipynb"
                source = offered if offered.exists() else path
                notebook = resolved(nbformat.read(source, as_version=4), _Built(app.env, page))
            except ValueError as error:
                raise ValueError(f"{page}: {error}") from None
            nbformat.write(notebook, path)


def setup(app) -> dict:
    app.connect("build-finished", _resolve)
    return {"parallel_read_safe": True}
