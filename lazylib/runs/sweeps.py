"""Grids of runs: each cell is computed once, kept on disk, and combined into one labelled dataset.

A *cell* is one call of `run` at one point of the grid. Its file is named `<key>-<checksum>.nc`: the key says
which code and parameters made it, the checksum (BLAKE2b of the key and the file's bytes) whether it is whole and its
own. Nothing read here can run code.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import itertools
import json
import os
import re
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import torch
import xarray as xr
from tqdm.auto import tqdm

from . import cluster
from .cell_key import identity
from .files import LOADED, digest, read_sealed, remove, source_digest, write, write_sealed
from .rng import noted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Point = dict[str, Any]
_LOADED = LOADED
_DAY = 86400.0  # seconds
REPLICATES = ("seed", "draw")  # dimensions whose values must share no random numbers
_DECODED = {"_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned", "dtype", "coordinates"}
_DRAWN = "drawn"  # attribute of a cell: streams of random numbers and their seeds
_OURS = re.compile(r"\.(cell-\w+\.tmp|[0-9a-f]{32}\.lock|[0-9a-f]{32}-[0-9a-f]{32}-[0-9a-f]{32}\.tmp)")
_AGAIN = 1.0  # seconds until cells that other processes were at are asked for again
_RETRIES = 3  # pools in a row that may break before a cell is finished
_BEGUN = time.monotonic()
_got_on: list[bool] = []  # whether this process has begun a cell of a store


class Paused(Exception):
    """Time of a `sweep` is up; what was reached is on disk, and the same command goes on from there."""


def time_left() -> float:
    """Seconds until this process should pause: LAZYLIB_MINUTES after it loaded lazylib; infinite if that is not set.

    Raises:
        ValueError: LAZYLIB_MINUTES is no positive number.

    Example:
        >>> from lazylib.runs import time_left
        >>> time_left() > 0
        True
    """
    given = os.environ.get("LAZYLIB_MINUTES") or "inf"
    with contextlib.suppress(ValueError):
        if (minutes := float(given)) > 0:
            return 60 * minutes - (time.monotonic() - _BEGUN)
    raise ValueError(f"LAZYLIB_MINUTES must be a positive number of minutes, got {given[:60]!r}")


def sweep(
    run: Callable[..., Any],
    grid: Mapping[str, Sequence],
    fixed: Mapping[str, Any] | None = None,
    store: str | os.PathLike | None = None,
    n_jobs: int | None = None,
    common: Sequence[str] = (),
) -> xr.Dataset:
    """Evaluate `run(**point, **fixed)` at every point of a grid.

    Args:
        run: returns a dict of name → number, string, array, tensor or `xr.DataArray`, or an `xr.Dataset`; the
            same names, dimensions and shapes at every point. Dimensions of an unlabelled array are called
            `<name>_0`, `<name>_1`, … What it returns is kept as it is, NaN and infinity included. Seeds are its
            own business.
        grid: dimension → values, one or more distinct numbers, strings or booleans; `run` gets Python scalars.
        fixed: further arguments, the same at every point.
        store: folder of finished cells; by default that of the environment variable LAZYLIB_STORE, or else none. Each
            is on disk, atomically, before its process starts another, so a sweep that is killed resumes where it was; a
            damaged cell is computed again. Processes with one store, also of several machines with a common disk, share
            the work: none begins a cell that another one is at. A cell is used again only
            if nothing differs in: the point, `fixed`, the bytecode of `run` and of the functions and classes that
            it uses, the values of the globals that these use (of a module or a `SimpleNamespace`, the attributes
            used), and the source of lazylib. Installed packages count by name only, whatever their version.
            Nothing is ever deleted but damaged cells. A run whose code has no value to know it by is refused a store
            that was asked for here, and goes without that of LAZYLIB_STORE.
        n_jobs: processes (-1: one a core). Default: the environment variable LAZYLIB_JOBS, else 1, which is this
            process. Each of several processes computes with one thread. With LAZYLIB_SCHEDULER=tcp://host:port
            the cells go to that Dask scheduler's workers instead, with their own number of threads, and this
            process writes them.
        common: streams of `lazylib.runs.generator` ("data", "init", …) that replicates may share. Two values of a
            dimension called seed or draw are replicates, and share no other: else they were no units of an interval.

    Returns a Dataset whose variables have the dimensions of the grid, in its order, then their own. Attributes
    are those of the first cell; a coordinate of a dimension must be the same in all cells.

    Raises:
        ValueError, TypeError: bad grid or arguments, before anything runs; cells that do not fit together, or that
            are replicates and drew the same random numbers; beside replicates, a dimension on which no number depends.
        RuntimeError: `run` failed at some point; names the first, after all other cells are finished. Or it cannot be
            copied to other processes, or these are killed again and again: cells that were lost with a process are
            computed by new ones, until four times in a row none was finished.
        Paused: the time that LAZYLIB_MINUTES gives is over; no cell of a store begins after it, but the first that
            this process computes, so that however short its time is it gets on.

    Example:
        >>> from lazylib.runs import sweep
        >>> def run(a, b):
        ...     return {"total": a + b}
        >>> sweep(run, {"a": [1, 2], "b": [10, 20]}).total.values
        array([[11, 21],
               [12, 22]])
    """
    grid, fixed = _checked_grid(grid), dict(fixed or {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    _check_arguments(run, points[0], fixed)
    n_jobs, scheduler = _checked_jobs(n_jobs), os.environ.get("LAZYLIB_SCHEDULER")
    time_left()  # refuses nonsense before work

    cells: list[xr.Dataset | None] = [None] * len(points)
    title = getattr(run, "__name__", "sweep")
    store, code = _store_for(store, [_LOADED, source_digest(), sorted(fixed.items()), run], title)
    keys, folder = [""] * len(points), None
    if store is not None:
        folder = _open_store(store)
        keys = [digest(code, identity(sorted(point.items()), {})).hex() for point in points]
        if plans := os.environ.get("LAZYLIB_PLAN"):  # where `python -m lazylib.runs status` looks for what is asked for
            plan = Path(plans) / f"{title}-{code.hex()}.json"
            write(plan, lambda file: file.write_text(json.dumps({"sweep": title, "cells": keys})))
        files: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*-*.nc")):
            files.setdefault(path.name.partition("-")[0], []).append(path)
        cells = [_read(files.get(key, []), point) for key, point in zip(keys, points, strict=True)]

    todo = [i for i, cell in enumerate(cells) if cell is None]
    where = "cluster" if scheduler else "process" if n_jobs != 1 else "here"
    task = functools.partial(_cell, run, fixed, None if scheduler else folder, where, _LOADED)
    failures: dict[int, tuple[str, str]] = {}
    broken = 0  # pools in a row that broke before a cell was finished
    progress = tqdm(total=len(points), initial=len(points) - len(todo), desc=title)
    with progress, _pool(n_jobs, scheduler) as results:
        while todo:
            begun = todo if folder is None else itertools.takewhile(_may_begin, todo)
            others = []  # cells that other processes are at
            try:
                for i, cell, failure in results(task, ((i, points[i], keys[i]) for i in begun)):
                    if failure:
                        failures[i] = failure
                    elif cell is None:
                        others.append(i)
                        continue
                    elif scheduler and folder:
                        _write(cell, points[i], folder, keys[i])  # a cluster's workers need not share our disk
                    cells[i], broken = cell, 0
                    progress.update()
            except BrokenProcessPool as error:
                if "task has failed to un-serialize" in str(error):
                    raise RuntimeError(
                        f"{title} cannot be copied to other processes: what a notebook defines can, except "
                        "functions with functools.cache; leave the cache out, or set n_jobs to 1."
                    ) from error
                broken += 1
                if broken > _RETRIES:
                    raise RuntimeError(
                        f"processes of {title} were killed {broken} times and finished no cell in between, perhaps for "
                        "want of memory: give them more, or set n_jobs lower."
                    ) from None
                # joblib makes a new pool; a worker of the old one may have stored a cell and died before it said so.
                others = [i for i in todo if cells[i] is None and i not in failures]
            todo = sorted(others)
            if todo and time_left() <= 0:
                break
            time.sleep(_AGAIN * bool(todo))
    if failures:
        raise _failed(failures, cells, points, folder)
    done = [cell for cell in cells if cell is not None]
    if left := len(cells) - len(done):
        raise Paused(f"{left} of {len(cells)} cells of {title} are left: run again to go on")
    _check_replicates(done, points, set(common))
    _check_effects(done, points, grid)
    return _combine(done, points, grid)


def _check_replicates(cells: list[xr.Dataset], points: list[Point], common: set[str]) -> None:
    for dim in REPLICATES:
        first: dict[tuple[str, int], Any] = {}  # stream and seed → the replicate that drew it first
        for cell, point in zip(cells, points, strict=True):
            for stream, seed in json.loads(cell.attrs.get(_DRAWN, "[]")) if dim in point else ():
                other = first.setdefault((stream, seed), point[dim])
                if other != point[dim] and stream not in common:
                    raise ValueError(
                        f"replicates must differ, but {dim} = {other} and {dim} = {point[dim]} both drew {stream!r} of "
                        f"seed {seed}: give each seeds of its own, or name the stream in `common`."
                    )


def _check_effects(cells: list[xr.Dataset], points: list[Point], grid: Mapping[str, Sequence]) -> None:
    """ValueError if beside replicates something is swept on which no number depends: a mistake in `run`.

    Times, whose names have "second" in them, tell nothing, nor does a yes or no.
    """
    names = [name for name, v in cells[0].data_vars.items() if "second" not in str(name) and v.dtype.kind in "fc"]
    names = [name for name in names if any(np.isfinite(cell[name]).any() for cell in cells)]
    if not names or not any(dim in grid for dim in REPLICATES):
        return
    for dim in (dim for dim, values in grid.items() if len(values) > 1):
        came_out: dict[tuple, set[bytes]] = {}  # rest of the point → what came out
        for cell, point in zip(cells, points, strict=True):
            rest = tuple(value for name, value in point.items() if name != dim)
            out = b"".join(np.ascontiguousarray(cell[name].values).tobytes() for name in names)
            came_out.setdefault(rest, set()).add(out)
        if all(len(outputs) == 1 for outputs in came_out.values()):
            raise ValueError(f"what is swept must change something, but no number that came out depends on {dim}.")


def _may_begin(_: int) -> bool:
    if _got_on and time_left() <= 0:
        return False
    _got_on.append(True)
    return True


# ---- one cell ----


def _cell(run, fixed, folder, where, loaded, i, point, key) -> tuple[int, xr.Dataset | None, tuple[str, str] | None]:
    """Compute (and store) one cell; returns its index, and the cell or else what went wrong, in a line and in full.

    Neither if another process is at this cell of the store.
    """
    if where != "here" and not source_digest() == _LOADED == loaded:
        raise RuntimeError(
            "all processes must run the same lazylib, but its files differ from what this one "
            "or a worker has loaded: restart Python (and the Dask workers)"
        )
    if where == "process":
        torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            if not stack.enter_context(_alone(folder / f".{key}.lock")):
                return i, None, None
            if (found := _read(sorted(folder.glob(f"{key}-*.nc")), point)) is not None:  # made since the sweep began
                return i, found, None
        try:
            with noted() as drawn:
                cell = _conform(run(**point, **fixed), point)
            cell.attrs[_DRAWN] = json.dumps(sorted(drawn))
        except Paused:
            raise
        except Exception as error:  # as text: not every exception survives the way between processes
            said = str(error).strip().partition("\n")[0]
            return i, None, (f"{type(error).__name__}: {said}".removesuffix(": "), traceback.format_exc().strip())
        if folder is not None:  # outside the try: a full disk stops the sweep, a failed run does not
            _write(cell, point, folder, key)
    return i, cell, None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether no other process holds this lock; it is ours inside the block, and the system frees it if we die.

    Where there are no locks, a cell may be computed twice, with the same result.
    """
    if fcntl is None:
        yield True
        return
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield error.errno not in (errno.EACCES, errno.EAGAIN)
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)  # while it is ours: who waits for it looks for the cell first


def _failed(failures: dict, cells: list, points: list[Point], folder: Path | None) -> RuntimeError:
    """The error of a sweep, with what the first of the failures said, and what became of the other cells."""
    first = min(failures)
    line, full = failures[first]
    stored = sum(cell is not None for cell in cells)
    left = len(cells) - stored - len(failures)
    others = "no store" if folder is None else f"{stored} are stored" if left else "the others are stored"
    error = RuntimeError(
        f"run failed in {len(failures)} of {len(points)} cells ({others}{f', {left} not begun' * bool(left)}), "
        f"first at {_text(points[first])}: {line}"
    )
    error.add_note(full)
    return error


def _conform(result: Any, point: Point) -> xr.Dataset:
    """The result of a run as a Dataset of numbers, booleans and text in memory."""
    if isinstance(result, xr.Dataset):
        cell = result.load()
    elif isinstance(result, Mapping) and all(isinstance(name, str) for name in result):
        parts = [xr.Dataset({name: _variable(name, value)}) for name, value in result.items()]
        cell = xr.merge(parts, join="exact", compat="equals", combine_attrs="override")
    else:
        raise TypeError(f"run must return a dict of names to values or an xarray.Dataset, not {type(result).__name__}")
    cell = cell.drop_encoding()  # of a file that it was read from, by which the store would round it
    for name, variable in cell.variables.items():
        if means := _DECODED & variable.attrs.keys():
            raise ValueError(
                f"{name!r} must not have the attribute {min(means)}, by which a file's numbers are changed"
            )
    taken = set(point) & (set(cell.variables) | set(cell.dims))
    if taken:
        raise ValueError(f"run must not return the names of the grid's dimensions, got {sorted(taken)}")
    text = {name: cell[name].astype(str) for name in cell.variables if _is_text(cell[name].values)}
    cell = cell.assign(text).set_coords(list(cell.coords))
    for name, variable in cell.variables.items():
        if variable.dtype.kind not in "biufU":
            raise TypeError(f"run must return numbers, booleans or text, but {name!r} has dtype {variable.dtype}")
    return cell


def _variable(name: str, value: Any) -> xr.DataArray:
    if isinstance(value, xr.DataArray):
        return value.load()
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return xr.DataArray(array, dims=[f"{name}_{k}" for k in range(array.ndim)])


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind in "OT" and all(isinstance(entry, str) for entry in array.flat)


def _combine(cells: list[xr.Dataset], points: list[Point], grid: dict[str, list]) -> xr.Dataset:
    """Stack the cells along the dimensions of the grid. Strict: joining unequal cells would invent NaNs."""

    def layout(cell):
        return {
            name: (v.dims, v.shape, "text" if v.dtype.kind == "U" else "number")
            for name, v in sorted(cell.variables.items())
        }

    first = cells[0]
    shared = [name for name in first.variables if name in first.dims]
    for point, cell in zip(points, cells, strict=True):
        if layout(cell) != layout(first):
            raise ValueError(
                "run must return the same names, dimensions and shapes at every point, but "
                f"{_text(point)} gives {layout(cell)} and "
                f"{_text(points[0])} gives {layout(first)}"
            )
        for name in shared:
            if not cell.variables[name].equals(first.variables[name]):
                raise ValueError(
                    f"coordinate {name!r} must be the same at every point, but differs between "
                    f"{_text(points[0])} and {_text(point)}; return it as a variable instead"
                )
    shape = tuple(len(values) for values in grid.values())

    def stacked(name):
        own = first.variables[name]
        array = np.stack([cell.variables[name].values for cell in cells])  # (cells, *own)
        return (*grid, *own.dims), array.reshape(shape + own.shape), own.attrs

    variables = {name: first.variables[name] if name in shared else stacked(name) for name in first.variables}
    coords = {name: variables.pop(name) for name in list(first.coords)}
    attrs = {name: value for name, value in first.attrs.items() if name != _DRAWN}
    return xr.Dataset(variables, {**grid, **coords}, attrs)


# ---- the store ----


def _store_for(store: Any, made_of: list, title: str) -> tuple[Any, bytes]:
    """The store of a sweep, given or that of LAZYLIB_STORE, and what its cells are known by; None without one."""
    given = store if store is not None else os.environ.get("LAZYLIB_STORE", "").strip() or None
    if given is None:
        return None, b""
    try:
        return given, identity(["lazylib", *made_of], {})
    except TypeError as error:
        if store is not None:
            raise
        warnings.warn(f"the cells of {title} are not stored: {error}", stacklevel=3)
        return None, b""


def _open_store(store: str | os.PathLike) -> Path:
    if not os.fspath(store):
        raise ValueError(f"store must be the path of a folder, or None for no store, got {store!r}")
    folder = Path(store).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"store must be a folder, but {store} is a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"store must be a folder, but {folder} cannot be made ({error.strerror})") from None
    for leftover in filter(_OURS.fullmatch, os.listdir(folder)):  # of killed sweeps; a young one may be in use
        with contextlib.suppress(OSError):
            if time.time() - (folder / leftover).stat().st_mtime > _DAY:
                (folder / leftover).unlink()
    return folder


def _write(cell: xr.Dataset, point: Point, folder: Path, key: str) -> None:
    """One file, complete or absent, whatever kills us: renamed after the data have reached the disk."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".cell-", suffix=".tmp") as place:
        cell.assign_coords(point).to_netcdf(place.name, engine="h5netcdf")
        data = Path(place.name).read_bytes()
    write_sealed(folder, key, ".nc", data)


def _read(files: list[Path], point: Point) -> xr.Dataset | None:
    """The stored cell, from the first of its files whose bytes are those that were written; others are removed."""
    for path in files:
        data = read_sealed(path)
        if data is None:
            warnings.warn(f"the stored cell of {_text(point)} is damaged, it is computed again", stacklevel=3)
            remove(path)
            continue
        # Units like "s" or "days since …" are the reader's text: decoding them would change the numbers to times.
        cell = xr.load_dataset(io.BytesIO(data), engine="h5netcdf", decode_times=False)
        return _conform(cell.drop_vars(list(point)), point)
    return None


# ---- arguments and workers ----


def _checked_grid(grid: Mapping[str, Sequence]) -> dict[str, list]:
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(f"grid must be a dict of at least one dimension to its values, got {grid!r}")
    checked = {}
    for name, values in grid.items():
        expected = f"grid[{name!r}] must be one or more distinct numbers, or strings, or booleans"
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise ValueError(f"{expected}, got {values!r}")
        values = [value.item() if hasattr(value, "item") else value for value in values]
        kinds = {type(value) for value in values}
        if kinds == {int, float}:
            values, kinds = [float(value) for value in values], {float}
        if len(kinds) != 1 or not kinds <= {bool, int, float, str} or len(set(values)) < len(values):
            raise ValueError(f"{expected}, got {values!r}")
        if any(value != value for value in values):
            raise ValueError(f"{expected}, not NaN, got {values!r}")
        checked[name] = values
    return checked


def _check_arguments(run: Callable, point: Point, fixed: Mapping[str, Any]) -> None:
    twice = sorted(set(point) & set(fixed))
    if twice:
        raise ValueError(f"a parameter must be either in grid or in fixed, got {', '.join(twice)} in both")
    if not callable(run):
        raise TypeError(f"run must be a function, got {run!r}")
    try:
        inspect.signature(run).bind(**point, **fixed)
    except TypeError as error:
        names = ", ".join([*point, *fixed])
        raise TypeError(f"run must accept the names of grid and fixed ({names}), but: {error}") from None


def _checked_jobs(n_jobs: int | None) -> int:
    name = "n_jobs" if n_jobs is not None else "LAZYLIB_JOBS"
    given = n_jobs if n_jobs is not None else os.environ.get("LAZYLIB_JOBS") or 1
    with contextlib.suppress(TypeError, ValueError):
        jobs = int(given)
        if not isinstance(given, (bool, float)) and (jobs == -1 or jobs >= 1):
            return jobs
    raise ValueError(f"{name} must be a number of processes, 1 or more, or -1 for one a core, got {given!r}")


@contextlib.contextmanager
def _pool(n_jobs: int, scheduler: str | None) -> Iterator[Callable]:
    """Where cells are computed: a function (task, arguments) → results as they come, in this process, in local ones or
    on a Dask cluster."""
    if scheduler:
        with cluster.workers(scheduler) as results:
            yield results
        return
    # One thread a process for BLAS too; torch's are set in _cell.
    local = {"initializer": _end_with, "initargs": (os.getpid(),), "inner_max_num_threads": 1}
    with joblib.parallel_config(backend="loky", **(local if n_jobs != 1 else {})), warnings.catch_warnings():
        # A process that keeps a data set for its next cell has grown: loky starts another one in its place.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        pool = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1, max_nbytes=None)
        yield lambda task, arguments: pool(joblib.delayed(task)(*each) for each in arguments)


def _end_with(parent: int) -> None:
    """End this process soon after its parent: one that is killed cannot end its workers."""

    def watch() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _text(point: Point) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in point.items())
