"""The reference pages: one a room of lazylib, made from its docstrings, with links to the chapters.

As an extension of the book's builder it says under every function and class in which chapter it is first used.
"""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

import lazylib
from tools.pages import ROOT, notebooks, pages

PREFIX = "api/"
INDEX = "api/index"
FIELD = re.compile(r"\w[\w, ]*: ")
EXPORT = re.compile(r"from \.(\w*) import (\w+) as \2")


def rooms(root: Path = ROOT) -> list[str]:
    """The rooms of lazylib that have a page in _toc.yml."""
    return [name.removeprefix(PREFIX) for name in pages(root) if name.startswith(PREFIX) and name != INDEX]


def exported(room: str) -> dict[str, list[str]]:
    """Module → names that the room exports from it; of a room that exports modules, these, with no names."""
    found: dict[str, list[str]] = {}
    stub = (ROOT / "lazylib" / room / "__init__.pyi").read_text(encoding="utf-8")
    for module, name in EXPORT.findall(stub):
        found.setdefault(module or name, []).extend([name] if module else [])
    return found


def page(room: str) -> str:
    """The source of the page api/<room>: what its modules define; of private ones, what the room exports."""
    parts = [f"# lazylib.{room}", "", importlib.import_module(f"lazylib.{room}").__doc__.strip()]
    modules = exported(room)
    for module in sorted(modules, key=lambda name: (name.startswith("_"), name)):
        private = module.startswith("_")
        members = " " + ", ".join(modules[module]) if private else ""
        title = f"lazylib.{room}" if private else f"lazylib.{room}.{module}"
        parts += ["", f"## {title}: {', '.join(modules[module])}" if private else f"## {title}", ""]
        parts += ["```{eval-rst}", f".. automodule:: lazylib.{room}.{module}", f"   :members:{members}", "```"]
    return "\n".join([*parts, ""])


def index() -> str:
    """The source of the page that lists the rooms, each with its first sentence and the names that it exports."""
    top = {name for name in lazylib.__all__}
    lines = []
    for room in rooms():
        module = importlib.import_module(f"lazylib.{room}")
        names = ", ".join(f"**{name}**" if name in top else name for name in module.__all__)
        lines.append(f"| {{doc}}`lazylib.{room} <{room}>` | {module.__doc__.strip()} | {names} |")
    return "\n".join(
        [
            "# The package lazylib",
            "",
            "What the chapters share, and what you can use on a model of your own. Names in bold can be had from "
            "`lazylib` itself. Under each function stands the chapter that uses it first.",
            "",
            "| room | what is in it | names |",
            "|---|---|---|",
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
    """Name, such as "flows.gradient_flow" → (page, title) of the first chapter that uses it."""
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
    known = None
    if name.count(".") == 3:  # lazylib.room.module.name
        _, room, module, leaf = name.split(".")
        known = introduced().get(f"{room}.{leaf}") or introduced().get(f"{module}.{leaf}")
    if known and what in ("function", "class"):
        lines += ["", f"*First used in* :doc:`{known[1]} </{known[0]}>`.", ""]


SECTION = re.compile(r"(\s*)(Returns|Yields):\s*")


def _whole(app, what, name, obj, options, lines: list[str]) -> None:
    """Make "Returns:" a field with a text: napoleon would take what stands before a colon for a type."""
    done: list[str] = []
    for line in lines:
        if match := SECTION.fullmatch(line):
            done.append(f"{match[1]}:{match[2].lower()}:")
        elif done and done[-1].strip() in (":returns:", ":yields:"):
            done[-1] += f" {line.strip()}"
        else:
            done.append(line)
    lines[:] = done


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", _whole, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _complete)
    return {"parallel_read_safe": True}
