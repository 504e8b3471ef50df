"""The reference pages: one a module of lazylib, made from its docstrings, with links to the chapters.

As an extension of the book's builder it says under every function and class in which chapter it is first used.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tools.pages import ROOT, notebooks, pages

PREFIX = "api/"
INDEX = "api/index"
FIELD = re.compile(r"\w[\w, ]*: ")


def modules(root: Path = ROOT) -> list[str]:
    """The modules of lazylib that have a page in _toc.yml."""
    return [name.removeprefix(PREFIX) for name in pages(root) if name.startswith(PREFIX) and name != INDEX]


def page(module: str) -> str:
    """The source of the page api/<module>."""
    return f"# lazylib.{module}\n\n```{{eval-rst}}\n.. automodule:: lazylib.{module}\n   :members:\n```\n"


def index() -> str:
    """The source of the page that lists the modules, each with the first sentence of its docstring."""
    lines = []
    for module in modules():
        text = ast.get_docstring(ast.parse((ROOT / "lazylib" / f"{module}.py").read_text(encoding="utf-8")))
        lines.append(f"| {{doc}}`lazylib.{module} <{module}>` | {' '.join(text.split(chr(10) * 2)[0].split())} |")
    return "\n".join(
        [
            "# The package lazylib",
            "",
            "What the chapters share, and what you can use on a model of your own. Under each function stands the"
            " chapter that uses it first.",
            "",
            "| module | what is in it |",
            "|---|---|",
            *lines,
            "",
        ]
    )


def names_used(code: str) -> Iterator[str]:
    """What a cell uses of lazylib, as "module.name" or "module"."""
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a line that only IPython understands
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lazylib":
            module = node.module.partition(".")[2]
            yield from (f"{module}.{alias.name}" if module else alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


@functools.cache
def introduced() -> dict[str, tuple[str, str]]:
    """Name, such as "flow.gradient_flow" → (page, title) of the first chapter that uses it."""
    found: dict[str, tuple[str, str]] = {}
    for path in sorted(notebooks(), key=lambda path: path.stem):
        cells = nbformat.read(path, as_version=4).cells
        title = next(line[2:] for line in cells[0].source.splitlines() if line.startswith("# "))
        for cell in cells:
            for name in names_used(cell.source) if cell.cell_type == "code" else ():
                found.setdefault(name, (str(path.relative_to(ROOT).with_suffix("")), title))
    return found


def as_list(lines: list[str]) -> list[str]:
    """Docstring lines as they are meant: paragraphs of the form "name: meaning", continuation indented, are bullet
    lists, and indented ones of several lines are formulas whose lines and columns stay."""
    done: list[str] = []
    for paragraph in "\n".join(lines).rstrip().split("\n\n"):
        part = paragraph.split("\n")
        indent = len(part[0]) - len(part[0].lstrip())
        fields = [bool(FIELD.match(line[indent:])) for line in part]
        deeper = [line.startswith(" " * (indent + 1)) for line in part]
        if fields[0] and any(deeper) and all(f or d for f, d in zip(fields, deeper, strict=True)):
            part = [" " * indent + ("  " if d else "- ") + line.strip() for line, d in zip(part, deeper, strict=True)]
        elif indent >= 4 and len(part) > 1 and done and not re.match(r"[:\s-]|.*::$", done[-2]):
            part = ["::", "", *part]
        done += [*part, ""]
    return done


def _complete(app, what, name, obj, options, lines: list[str]) -> None:
    """Take bars as they are meant in docstrings, |x| and ‖x‖, not as markup; add the link to the chapter."""
    lines[:] = as_list(lines)
    for number, line in enumerate(lines):
        parts = line.split("``")  # every second one is literal
        lines[number] = "``".join(part if k % 2 else part.replace("|", r"\|") for k, part in enumerate(parts))
    known = introduced().get(name.removeprefix("lazylib."))
    if known and what in ("function", "class"):
        lines += ["", f"*First used in* :doc:`{known[1]} </{known[0]}>`.", ""]


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", _complete)
    return {"parallel_read_safe": True}
