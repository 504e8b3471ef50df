"""The rooms of lazylib: arrows go down only, nothing outside book/ imports it, and importing lazylib costs nothing."""

import ast
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lazylib
from lazylib.book import provenance
from lazylib.flows import Recipe, classifier
from lazylib.problems import Images
from lazylib.runs import files, source_digest, sweeps

PACKAGE = files.PACKAGE
ROOMS = ["nets", "problems", "objectives", "flows", "measures", "laziness", "runs", "book"]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
}


def imports(name: str) -> set[str]:
    """The modules of lazylib that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("lazylib")):
            above = name.split(".")[: -node.level] if node.level else []
            base = [*above, *(node.module or "").removeprefix("lazylib").strip(".").split(".")]
            base = ".".join(part for part in base if part)
            for alias in node.names:
                whole = f"{base}.{alias.name}" if base else alias.name
                found.add(whole if whole in MODULES else base)
    return found - {name}


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """How many floors lie below each; AssertionError where arrows go round in a circle."""
    height: dict[str, int] = {}

    def of(name: str, above: tuple[str, ...] = ()) -> int:
        assert name not in above, f"a circle: {' → '.join([*above, name])}"
        if name not in height:
            height[name] = 1 + max((of(below, (*above, name)) for below in arrows[name]), default=0)
        return height[name]

    return {name: of(name) for name in arrows}


def test_every_module_lies_in_a_room():
    assert {name.split(".")[0] for name in MODULES} == set(ROOMS)


def test_modules_import_modules_of_the_package():
    for name in MODULES:
        assert imports(name) <= set(MODULES), f"{name}: {imports(name) - set(MODULES)}"


def test_no_circle_and_four_floors():
    between_rooms = {room: set() for room in ROOMS}
    for name in MODULES:
        room = name.split(".")[0]
        between_rooms[room] |= {below.split(".")[0] for below in imports(name)} - {room}
    assert max(floors(between_rooms).values()) <= 4
    floors({name: imports(name) for name in MODULES})


def test_nothing_outside_book_imports_book():
    for name in MODULES:
        if not name.startswith("book."):
            assert not any(below.startswith("book") for below in imports(name)), name


def test_a_circle_would_be_found():
    with pytest.raises(AssertionError, match="a → b → a"):
        floors({"a": {"b"}, "b": {"a"}})


def test_importing_loads_neither_torch_nor_a_compiler():
    program = "import sys, lazylib; print(sorted({'torch', 'numba', 'xarray', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_every_room_switches_nothing_global_and_loads_no_compiler():
    program = f"""
import importlib, sys, torch
for room in {ROOMS}:
    module = importlib.import_module("lazylib." + room)
    for name in module.__all__:
        getattr(module, name)
print(float(torch.tensor(1e-310, dtype=torch.float64) * 1) > 0, "numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_public_names_are_there_and_documented(room):
    module = importlib.import_module(f"lazylib.{room}".rstrip("."))
    assert module.__all__ == sorted(set(module.__all__)) and module.__doc__.strip()
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isroutine(thing) or inspect.isclass(thing) or inspect.ismodule(thing):
            assert (thing.__doc__ or "").strip(), f"{room}.{name} has no docstring"


def test_the_package_offers_about_25_names():
    names = [name for name in lazylib.__all__ if not inspect.ismodule(getattr(lazylib, name))]
    assert 20 <= len(names) <= 30


# ---- one digest of all sources ----


@pytest.mark.parametrize("room", [*ROOMS, "."])
def test_a_line_in_any_room_changes_every_key(tmp_path, monkeypatch, room):
    """A stored cell, a checkpoint, a provenance must not outlive a change of the code that made it."""
    copy = tmp_path / "lazylib"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images = Images("made", images, torch.tensor([0, 1]), images, torch.tensor([0, 1]), (0.5,) * 3, (0.25,) * 3)
    net = torch.nn.Linear(1, 1)
    monkeypatch.setattr(sweeps, "source_digest", lambda: source_digest(copy))
    monkeypatch.setattr(classifier, "source_digest", lambda: source_digest(copy))
    monkeypatch.setattr(provenance, "source_digest", lambda: source_digest(copy))

    def keys():
        provenance._code.cache_clear()
        monkeypatch.setattr(sweeps, "_LOADED", source_digest(copy))
        store = tmp_path / "store"
        sweeps.sweep(lambda a: {"x": a}, {"a": [1]}, store=store)
        cells = {path.name for path in store.glob("*.nc")}
        return cells, classifier._key(net, images, Recipe(), 0, "float32"), provenance._code()["lazylib"]

    cells, checkpoint, code = keys()
    file = next(path for path in sorted((copy / room).glob("*.py")))
    file.write_text(file.read_text(encoding="utf-8") + "\n# another line\n", encoding="utf-8")
    new_cells, new_checkpoint, new_code = keys()
    provenance._code.cache_clear()
    assert len(cells) == 1 and len(new_cells) == 2 and checkpoint != new_checkpoint and code != new_code


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "folder" / "file"
    files.write(target, lambda path: path.write_text("whole"))

    def half(path: Path) -> None:
        path.write_text("ha")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        files.write(target, half)
    assert target.read_text() == "whole" and [path.name for path in target.parent.iterdir()] == ["file"]
