"""Run a notebook's code cells in this process, with parameters as papermill injects them and code replaced.

For tests that plant an error in a chapter: no kernel is started, so a run costs what its cells cost.
"""

import contextlib
import functools
import json
import os
import symtable
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import nbformat
import pytest
from joblib.externals.loky.backend.reduction import dumps
from matplotlib import pyplot as plt

from lazylib.runs import sweeps
from tests import kept_flows

DRAWING = ("plt.", "chapter.rows(", "widgets.explore(")
RECORDS = "__records__"  # name in the namespace: claim → its record


def run_cells(
    path: str | os.PathLike,
    preset: str | None = "smoke",
    patches: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    whole: bool | None = None,
) -> dict[str, Any]:
    """Execute the code cells in order, in one namespace, and return it.

    preset: value of the parameter ``preset``; None leaves the notebook's own.
    patches: old → new, replaced wherever old occurs in a code cell; AssertionError if it occurs nowhere.
    parameters: further parameters, by name.
    whole: False leaves out what no verdict depends on: what is only drawn, and what comes after the last verdict. By
        default that is left out where code was replaced, so that a chapter without errors runs as it is.

    Records of claims go to a temporary folder; `verdicts` of the namespace gives what they say.
    What a cell raises is raised here.
    """
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    sources = [cell.source for cell in cells]
    for old, new in (patches or {}).items():
        assert any(old in source for source in sources), f"{Path(path).name} has no code {old!r} to replace"
        sources = [source.replace(old, new) for source in sources]
    if any("judge(" in source for source in sources) and not (whole if whole is not None else not patches):
        sources = _without_decoration(sources)

    injected = dict(parameters or {}, **({} if preset is None else {"preset": preset}))
    at = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert at or not injected, f"{Path(path).name} has no cell tagged 'parameters'"
    if injected:
        lines = ["# Parameters", *(f"{name} = {value!r}" for name, value in injected.items())]
        sources.insert(at[0] + 1, "\n".join(lines))

    _forget_another(path)
    namespace: dict[str, Any] = {"__name__": "__main__", "In": [""]}
    with _running(sound=not patches) as folder:
        for number, source in enumerate(sources):
            namespace["In"].append(source)
            exec(compile(source, f"{Path(path).name}[{number}]", "exec"), namespace)
        namespace[RECORDS] = records(folder)
    return namespace


def run_again(
    namespace: Mapping[str, Any],
    path: str | os.PathLike,
    patches: Mapping[str, str],
    chosen: Callable[[nbformat.NotebookNode, bool], bool],
) -> dict[str, Any]:
    """Run some cells again, in a copy of the namespace that `run_cells` returned, and return that.

    chosen: function of a code cell, and of whether it has code to replace, that says if it is run. Cells that are only
        drawn, or come after the last verdict, are not.
    patches: as in `run_cells`, all at once, so that two can swap; AssertionError if one is in no cell that is run.
    """
    namespace, found = dict(namespace), set()
    with _running(sound=False) as folder:
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for cell, needed in zip(cells, _without_decoration([cell.source for cell in cells]), strict=False):
            touched = [old for old in patches if old in cell.source]
            if not needed or not chosen(cell, bool(touched)):
                continue
            source = cell.source
            assert "chapter.start(" not in source, "the cell that reads the parameters is for run_cells"
            for k, old in enumerate(touched):
                source = source.replace(old, f"<{k}>")
            for k, old in enumerate(touched):
                source = source.replace(f"<{k}>", patches[old])
            exec(compile(source, Path(path).name, "exec"), namespace)
            found |= set(touched)
        assert found == set(patches), f"the cells run again have no code {set(patches) - found}"
        namespace[RECORDS] = records(folder)
        return namespace


def _without_decoration(sources: list[str]) -> list[str]:
    """The cells, of which those that are only drawn, or come after the last verdict, are empty now."""
    kept, needed = [], set[str]()  # from the last verdict back: what later cells use is not only drawn
    for source in reversed(sources[: 1 + max(i for i, source in enumerate(sources) if "judge(" in source)]):
        made, used = _names(source)
        only_drawn = any(name in source for name in DRAWING) and not made & needed
        needed |= set() if only_drawn else used
        kept.append("" if only_drawn else source)
    return kept[::-1]


def _names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell makes for others, and those that it has from others."""
    tables = [symtable.symtable(source, "cell", "exec")]
    made = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_referenced()}
    for table in tables:  # it grows
        tables += table.get_children()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return made, used - made


@contextlib.contextmanager
def _running(sound: bool) -> Iterator[str]:
    """Cells may run: records go to the folder that this yields, nothing is shown, and figures are closed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"LAZYLIB_LEDGER": folder}),
        mock.patch.object(sweeps, "_check_arguments", _fit_for_processes),
        # a world in which α, say, does nothing is to be told by limbs; that a sweep refuses it has its own test
        mock.patch.object(sweeps, "_check_effects", sweeps._check_effects if sound else lambda *_: None),
        mock.patch.dict(_now, sound=sound),
        mock.patch("lazylib.runs.sweep", _kept),
        kept_flows.keeping(),
        mock.patch.object(sweeps, "_write", functools.partial(_keep, sweeps._write, sweeps._read)),
        mock.patch.object(sweeps, "_read", lambda files, _: _cells[files[0].name].copy(deep=True) if files else None),
        mock.patch("lazylib.book.widgets.explore"),  # dozens of pictures that no verdict depends on
        matplotlib.rc_context(),
    ):
        matplotlib.use("agg")
        try:
            yield folder
        finally:
            plt.close("all")


_now = {"sound": True}  # whether the cells run as they are
STORE = tempfile.TemporaryDirectory()  # of finished cells, for as long as this process lives


def _kept(
    run: Callable,
    grid: Mapping,
    fixed: Mapping | None = None,
    store: Any = None,
    n_jobs: Any = None,
    common: Sequence[str] = (),
) -> Any:
    """A sweep that takes from a store the cells that an error does not touch: their keys hold all they are made of.

    Every sweep of a chapter can have a store; one with an error planted may contain what has no key.
    """
    try:
        return sweeps.sweep(run, grid, fixed, store or STORE.name, n_jobs, common)
    except TypeError as error:
        if not _now["sound"] and store is None and "without store" in str(error):
            return sweeps.sweep(run, grid, fixed, None, n_jobs, common)
        raise


_cells = dict[str, Any]()  # name of its file → a cell
_written = set[tuple]()  # variables of cells that were written


@functools.lru_cache(maxsize=1)  # nothing is done for the chapter of the last call
def _forget_another(path: str | os.PathLike) -> None:
    """Let the flows go that are kept of another chapter than this one."""
    kept_flows.forget()


def _keep(write: Callable, read: Callable, cell: Any, point: Mapping, folder: Path, key: str) -> None:
    """Keep a finished cell in memory, under the name of an empty file that says it is there.

    The first with these variables is written and read as a reader's are, and what was read is kept.
    """
    kind = tuple(sorted((name, v.dims, v.dtype.kind) for name, v in cell.variables.items()))
    if kind not in _written:
        _written.add(kind)
        with tempfile.TemporaryDirectory() as place:
            write(cell, point, Path(place), key)
            cell = read([*Path(place).iterdir()], point)
    file = folder / f"{key}-kept.nc"
    file.touch()
    _cells[file.name] = cell.copy(deep=True)


_check = sweeps._check_arguments


def _fit_for_processes(run: Callable, *arguments: Any) -> None:
    """What a chapter sweeps must be copied to other processes, in which the book runs it; here it runs in this one."""
    _check(run, *arguments)
    dumps(run)


def records(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Claim → its record, from a folder of records."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in Path(folder).rglob("*.json")]
    return {record["id"]: record for record in found}


def verdicts(namespace: Mapping[str, Any]) -> dict[str, str]:
    """Claim → verdict, from the namespace that `run_cells` or `run_again` returned."""
    return {id: record["verdict"] for id, record in namespace[RECORDS].items()}


def refused() -> contextlib.AbstractContextManager:
    """A block that must end in the error of a run that uses the same random numbers or inputs twice."""
    return pytest.raises((ValueError, RuntimeError), match="replicates must differ|test inputs must not be")


def answers(namespace: Mapping[str, Any], id: str) -> dict[str, str]:
    """Limb of a claim → its answer."""
    return {name: limb["answer"] for name, limb in namespace[RECORDS][id]["limbs"].items()}


def told(namespace: Mapping[str, Any], sound: Mapping[str, Any]) -> set[str]:
    """What tells an error from the sound run: "P1.rises" for a limb of P1, "P1" for runs of it that failed.

    A limb tells it by the answer "no" where the sound run has another; by any other where the sound run has "no", so
    that a limb that fails is seen to be able to hold; and, marked "P1.rises?", by an interval that now holds both.
    """
    found = set()
    for id, record in namespace[RECORDS].items():
        before = sound[RECORDS][id]["limbs"] if id in sound[RECORDS] else {}
        if record["verdict"] == "does not hold" and not record["limbs"]:
            found.add(id)
        for name, limb in record["limbs"].items():
            now, then = limb["answer"], before.get(name, {"answer": "open"})["answer"]
            if (now == "no") != (then == "no"):
                found.add(f"{id}.{name}")
            elif now == "open" != then:
                found.add(f"{id}.{name}?")
    return found
