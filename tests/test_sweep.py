"""Sweeps survive kills and damage, and never reuse a cell that other code or parameters made."""

import importlib
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import xarray as xr

import lazylib.runs.sweeps as module
from lazylib.book import provenance
from lazylib.runs import Paused, cluster, files, generator, sweep, time_left
from lazylib.runs.cell_key import identity
from lazylib.runs.rng import noted

GRID = {"tau": [0.1, 1.0, 10.0], "seed": [0, 1]}


def notebook(source, **variables):
    """Namespace of a notebook that has run this cell; like there, its functions live in no file."""
    namespace = {"__name__": "notebook", "os": os, "np": np, "torch": torch, "lru_cache": lru_cache}
    namespace.update(variables)
    exec(textwrap.dedent(source), namespace)
    return namespace


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Each call of a run leaves a line here (a global counter would itself be a value that run uses)."""
    monkeypatch.setenv("RUN_LOG", str(tmp_path / "log"))
    monkeypatch.delenv("LAZYLIB_JOBS", raising=False)
    monkeypatch.delenv("LAZYLIB_SCHEDULER", raising=False)
    monkeypatch.setattr(module, "_LOADED", module.source_digest())  # someone may edit lazylib while the tests run

    def lines():
        path = tmp_path / "log"
        text = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return text

    return lines


@pytest.fixture
def frozen(tmp_path, log):
    """Environment of a process that imports a copy of lazylib, which nobody edits meanwhile."""
    package = files.PACKAGE
    shutil.copytree(package, tmp_path / "lazylib", ignore=shutil.ignore_patterns("__pycache__"))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


COUNT = """
def count(*point):
    with open(os.environ["RUN_LOG"], "a") as file:
        file.write(" ".join(map(str, point)) + "\\n")
"""
RUN = (
    COUNT
    + """
def run(tau, seed, d=3):
    count(tau, seed)
    draw = np.random.default_rng(seed)
    return {"loss": tau * draw.standard_normal(), "v": tau * np.arange(d), "flag": seed == 1,
            "steps": 10 * seed, "status": "ok" if seed else "diverged", "gap": torch.full((2,), float("nan"))}
"""
)


def test_cells_are_combined_along_named_dimensions(log):
    data = sweep(notebook(RUN)["run"], GRID, fixed={"d": 2})
    assert data.sizes == {"tau": 3, "seed": 2, "v_0": 2, "gap_0": 2}
    for tau in GRID["tau"]:
        for seed in GRID["seed"]:
            cell = data.sel(tau=tau, seed=seed)
            assert cell.loss == tau * np.random.default_rng(seed).standard_normal()
            assert cell.v.values.tolist() == [0, tau] and cell.steps == 10 * seed and cell.flag == (seed == 1)
            assert cell.status == ("ok" if seed else "diverged") and np.isnan(cell.gap).all()
    assert len(log()) == 6


def test_fresh_resumed_and_unstored_results_are_identical(tmp_path, log):
    def run(tau):
        time_to = xr.DataArray([tau, np.inf], dims="t", coords={"t": [0.5, 1.5]}, attrs={"units": "s"})
        extra = xr.Dataset({"half": ("t", np.zeros(2, np.float32))}, attrs={"note": "x"})
        since = ("t", [1.0, 2.0], {"units": "days since 2000-01-01"})
        return extra.assign(time_to=time_to, since=since).assign_coords(who=("t", ["a", "bcd"]))

    store = tmp_path / "s"
    plain, fresh, resumed = (sweep(run, {"tau": [1, 2]}, store=s) for s in (None, store, store))
    for other in (fresh, resumed):
        xr.testing.assert_identical(plain, other)
        assert all(other[name].dtype == plain[name].dtype for name in plain.variables)
    assert plain.time_to.attrs == {"units": "s"} and plain.time_to.dtype == float and "who" in plain.coords
    stored = [xr.load_dataset(path, engine="h5netcdf", decode_times=False) for path in store.iterdir()]
    assert sorted(int(cell.tau) for cell in stored) == [1, 2]  # a file alone says what it is


def test_values_reach_run_as_python_scalars(log):
    seen = []
    sweep(
        lambda tau, m, kind: seen.append((tau, m, kind)) or {"x": 0},
        {"tau": np.logspace(0, 1, 2), "m": torch.tensor([2]), "kind": ["relu"]},
    )
    assert [tuple(map(type, point)) for point in seen] == [(float, int, str)] * 2


# ---- killed, damaged, failed ----

SCRIPT = """
import sys, os, time
import numpy as np
from lazylib.runs import sweep
def run(tau, seed):
    with open(os.environ["RUN_LOG"], "a") as file:
        file.write(f"{tau} {seed}\\n")
    time.sleep(float(os.environ["PAUSE"]))
    return {"loss": tau * np.arange(1000.0) + seed}
if __name__ == "__main__":
    data = sweep(run, {"tau": [0.1, 1.0], "seed": range(5)}, store=sys.argv[1], n_jobs=int(sys.argv[3]))
    data.to_netcdf(sys.argv[2], engine="h5netcdf")
"""


def test_a_killed_sweep_resumes_where_it_was(tmp_path, log, frozen):
    script, store, result = tmp_path / "script.py", tmp_path / "store", tmp_path / "result.nc"
    script.write_text(SCRIPT)
    command, stored = [sys.executable, script, store, result], 0
    for jobs in (2, 1):
        process = subprocess.Popen(
            [*command, str(jobs)], env={**frozen, "PAUSE": "0.3"}, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.time() + 300
        while len(list(store.glob("*.nc"))) < stored + 2 and time.time() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)  # the workers too
        process.wait()
        before, stored = stored, len(list(store.glob("*.nc")))
        assert before + 2 <= stored < 10 and not result.exists()
        assert len(log()) <= stored - before + jobs  # at most the cells in flight are lost

    subprocess.run([*command, "1"], env={**frozen, "PAUSE": "0"}, check=True, stderr=subprocess.DEVNULL)
    assert len(log()) == 10 - stored
    data = xr.load_dataset(result, engine="h5netcdf")
    tau, seed = data.tau.values[:, None, None], data.seed.values[:, None]
    np.testing.assert_array_equal(data.loss.values, tau * np.arange(1000.0) + seed)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path):
    path.write_bytes(b"")


def damage_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_rename(path):
    """The cell of another point in this one's place."""
    other = next(each for each in sorted(path.parent.iterdir()) if each != path)
    checksum = other.stem.partition("-")[2]
    shutil.copy(other, path.with_name(f"{path.stem.partition('-')[0]}-{checksum}.nc"))
    path.unlink()


def damage_dangling(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_bit, damage_rename, damage_dangling])
def test_a_damaged_cell_is_found_and_computed_again(tmp_path, log, damage):
    run = notebook(RUN)["run"]
    before = sweep(run, GRID, store=tmp_path / "s")
    victim = sorted((tmp_path / "s").iterdir())[2]
    damage(victim)
    log()
    with pytest.warns(UserWarning, match=r"stored cell of tau=.*, seed=\d is damaged"):
        after = sweep(run, GRID, store=tmp_path / "s")
    assert len(log()) == 1
    xr.testing.assert_identical(before, after)
    sweep(run, GRID, store=tmp_path / "s")
    assert log() == [] and len(list((tmp_path / "s").iterdir())) == 6


def test_a_write_that_dies_before_the_rename_leaves_no_cell(tmp_path, log, monkeypatch):
    def die(*paths):
        raise OSError("no space left")

    run = notebook(RUN)["run"]
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError, match="no space left"):
        sweep(run, GRID, store=tmp_path / "s")
    assert len(log()) == 1 and list((tmp_path / "s").iterdir()) == []  # and it stops at once
    monkeypatch.undo()


def test_leftovers_of_killed_sweeps_go_but_not_those_of_a_running_one(tmp_path, log):
    old, young = tmp_path / ".cell-old.tmp", tmp_path / ".cell-young.tmp"
    old.write_text("")
    young.write_text("")
    os.utime(old, (0, 0))
    sweep(lambda a: {"x": a}, {"a": [1]}, store=tmp_path)
    assert not old.exists() and young.exists()


def test_a_failed_cell_is_named_after_the_others_are_stored(tmp_path, log):
    source = (
        COUNT
        + """
def run(tau, seed):
    count(tau, seed)
    if os.environ.get("BROKEN") and tau == 1.0 and seed == 0:
        raise ZeroDivisionError("planted")
    return {"loss": tau + seed}
"""
    )
    run = notebook(source)["run"]
    os.environ["BROKEN"] = "1"
    try:
        said = r"1 of 6 cells \(the others are stored\), first at tau=1.0, seed=0: ZeroDivisionError: planted"
        with pytest.raises(RuntimeError, match=said):
            sweep(run, GRID, store=tmp_path)
    finally:
        del os.environ["BROKEN"]
    assert len(log()) == 6
    assert sweep(run, GRID, store=tmp_path).loss.sel(tau=1.0, seed=0) == 1.0
    assert log() == ["1.0 0"]


class Lines(Exception):
    def __str__(self):
        return "the first line\nsecond line"


@pytest.mark.parametrize(
    ("error", "line"),
    [("Lines()", "Lines: the first line"), ("ValueError()", "ValueError"), ("KeyError('a')", "KeyError: 'a'")],
)
def test_the_error_of_a_sweep_has_the_words_of_the_first_failure(tmp_path, log, error, line):
    source = f"def run(a):\n    error = {error}\n    error.add_note('a note')\n    raise error"
    run = notebook(source, Lines=Lines)["run"]
    with pytest.raises(RuntimeError) as told:
        sweep(run, {"a": [1, 2]})
    assert str(told.value) == f"run failed in 2 of 2 cells (no store), first at a=1: {line}"
    assert "a note" in told.value.__notes__[0]


def test_the_error_of_a_sweep_counts_what_was_not_begun(tmp_path, log, monkeypatch):
    monkeypatch.setattr(module, "_got_on", [])
    left = iter([1.0, 1.0, 1.0, -1.0])
    monkeypatch.setattr(module, "time_left", lambda: next(left))
    run = notebook("def run(a):\n    return {'x': 1 / (a - 2)}")["run"]
    said = r"^run failed in 1 of 4 cells \(2 are stored, 1 not begun\), first at a=2: ZeroDivisionError"
    with pytest.raises(RuntimeError, match=said):
        sweep(run, {"a": [1, 2, 3, 4]}, store=tmp_path)


def test_of_two_files_of_a_cell_the_whole_one_counts(tmp_path, log):
    run = notebook(RUN)["run"]
    before = sweep(run, GRID, store=tmp_path)
    for path in sorted(tmp_path.iterdir())[:3]:
        for twin in ("0" * 32, "f" * 32):
            (tmp_path / f"{path.name.partition('-')[0]}-{twin}.nc").write_bytes(path.read_bytes()[:-1])
    log()
    with pytest.warns(UserWarning, match="is damaged"):
        after = sweep(run, GRID, store=tmp_path)
    assert log() == []
    xr.testing.assert_identical(before, after)


def test_a_damaged_cell_in_a_folder_that_cannot_be_changed_is_no_error(tmp_path, log, monkeypatch):
    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    run = notebook(RUN)["run"]
    sweep(run, GRID, store=tmp_path)
    damage_bit(sorted(tmp_path.iterdir())[2])
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.warns(UserWarning, match="is damaged"):
        assert module._read(sorted(tmp_path.iterdir())[2:3], {"tau": 1.0}) is None


def test_every_one_of_300_flipped_bits_of_a_cell_is_found(tmp_path, log):
    run = notebook(RUN)["run"]
    sweep(run, {"tau": [1.0], "seed": [0]}, store=tmp_path / "s")
    (path,) = (tmp_path / "s").iterdir()
    content = path.read_bytes()
    for k in range(300):
        damaged = bytearray(content)
        damaged[k * len(content) // 300] ^= 1 << k % 8
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged"):
            assert module._read([path], {"tau": 1.0, "seed": 0}) is None
    path.write_bytes(content)
    assert module._read([path], {"tau": 1.0, "seed": 0}) is not None


def test_a_store_is_a_folder_of_the_reader_s(tmp_path, log, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sweep(notebook(RUN)["run"], GRID, store="~/cells")
    assert len(list((tmp_path / "cells").iterdir())) == 6 and not (tmp_path / "~").exists()
    log()
    with pytest.raises(ValueError, match="^store must be the path of a folder, or None for no store, got ''"):
        sweep(notebook(RUN)["run"], GRID, store="")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="^store must be a folder, but .*file/in cannot be made"):
        sweep(notebook(RUN)["run"], GRID, store=tmp_path / "file/in")
    assert log() == []


# ---- what enters the key ----

BASE = (
    COUNT
    + """
def scale(x):
    return factor * x
class Net:
    def __call__(self, x):
        return 2 * x
@lru_cache
def cached(x):
    return x + 1
def outer(shift):
    return lambda x: x + shift
shifted = outer(1)
net = Net()
def run(a, b=1):
    count(a)
    inner = [scale(x) for x in range(2)]
    # a comment
    return {"x": a + sum(inner) + b + p.width + net(a) + shifted(a) + cached(a) + float(table["k"][0].sum())}
"""
)


def variables():
    return {
        "factor": 2.0,
        "unused": 1,
        "p": types.SimpleNamespace(width=5, taus=[1, 2]),
        "table": {"k": [torch.arange(3.0)]},
    }


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("return {", "return {'y': 1,", {}),  # run itself
        ("b=1", "b=2", {}),  # a default
        ("factor * x", "factor + x", {}),  # a function that it calls
        ("return 2 * x", "return 3 * x", {}),  # the class of an object that it uses
        ("return x + 1", "return x + 2", {}),  # a function under a decorator
        ("outer(1)", "outer(2)", {}),  # a value in a closure
        ("", "", {"factor": 3.0}),  # a global of a function that it calls
        ("", "", {"factor": 2}),  # an int is not a float
        ("", "", {"p": types.SimpleNamespace(width=6, taus=[1, 2])}),
        ("", "", {"table": {"k": [torch.tensor([0.0, 1.0, 2.5])]}}),
        ("", "", {"table": {"k": [torch.arange(3.0).double()]}}),
    ],
)
def test_other_code_or_other_globals_make_other_cells(tmp_path, log, old, new, changed):
    sweep(notebook(BASE, **variables())["run"], {"a": [1]}, store=tmp_path)
    assert old in BASE and log() == ["1"]
    sweep(notebook(BASE.replace(old, new), **{**variables(), **changed})["run"], {"a": [1]}, store=tmp_path)
    assert log() == ["1"]


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("", "", {}),
        ("# a comment", "# another comment\n", {}),
        ("", "", {"unused": 2}),
        ("", "", {"p": types.SimpleNamespace(width=5, taus=[1, 2, 3])}),  # an attribute that run does not use
    ],
)
def test_what_run_does_not_use_changes_nothing(tmp_path, log, old, new, changed):
    first = sweep(notebook(BASE, **variables())["run"], {"a": [1]}, store=tmp_path)
    log()
    run = notebook(BASE.replace(old, new), **{**variables(), **changed})["run"]
    again = sweep(run, {"a": [1]}, store=tmp_path)
    assert log() == []
    xr.testing.assert_identical(first, again)


def test_a_namespace_passed_on_whole_counts_whole(tmp_path, log):
    source = (
        COUNT
        + """
def helper(q):
    return q.depth
def run(a):
    count(a)
    return {"x": a + p.width + helper(p)}
"""
    )
    for depth in (1, 2):
        run = notebook(source, p=types.SimpleNamespace(width=1, depth=depth))["run"]
        assert sweep(run, {"a": [1]}, store=tmp_path).x == 2 + depth and log() == ["1"]


def test_points_and_fixed_arguments_make_cells_and_a_larger_grid_reuses_them(tmp_path, log):
    run = notebook(RUN)["run"]
    sweep(run, GRID, store=tmp_path)
    assert len(log()) == 6
    larger = sweep(run, {"seed": [2, 1, 0], "tau": np.array([0.1, 1, 10])}, store=tmp_path)
    assert log() == ["0.1 2", "1.0 2", "10.0 2"] and larger.loss.dims == ("seed", "tau")
    xr.testing.assert_equal(larger.loss, sweep(run, {"seed": [2, 1, 0], "tau": GRID["tau"]}).loss)
    log()
    sweep(run, GRID, fixed={"d": 4}, store=tmp_path)
    assert len(log()) == 6


def test_a_module_of_the_readers_counts_by_the_functions_used(tmp_path, log, monkeypatch):
    own = types.ModuleType("own_model")
    own.__file__ = str(tmp_path / "own_model.py")
    monkeypatch.setitem(sys.modules, "own_model", own)
    source = COUNT + "def run(a):\n    count(a)\n    return {'x': own_model.f(a)}"
    for f, calls in (("x + 1", ["1"]), ("x + 2", ["1"]), ("x + 2", [])):
        exec(f"def f(x): return {f}", vars(own))
        sweep(notebook(source, own_model=own)["run"], {"a": [1]}, store=tmp_path / "s")
        assert log() == calls


USES = {  # how run comes by pkg/sub.py, and in which file the change is
    "attribute": ("import pkg.sub", "return {'x': pkg.sub.f(a)}", "sub"),
    "alias": ("import pkg.sub as sub", "m = sub\n    return {'x': m.f(a)}", "sub"),
    "getattr": ("import pkg.sub as sub", "return {'x': getattr(sub, 'f')(a)}", "sub"),
    "import": ("", "import pkg.sub\n    return {'x': pkg.sub.f(a)}", "sub"),
    "import as": ("", "import pkg.sub as sub\n    return {'x': sub.f(a)}", "sub"),
    "from": ("", "from pkg.sub import f\n    return {'x': f(a)}", "sub"),
    "from package": ("", "from pkg import sub\n    return {'x': sub.f(a)}", "sub"),
    "nested": ("", "def g():\n        import pkg.sub as s\n        return s\n    return {'x': g().f(a)}", "sub"),
    "relative": ("from pkg.sub import far", "return {'x': far(a)}", "other"),
    "relative, alias": ("import pkg.sub", "return {'x': (pkg.sub.near)(a)}", "other"),
    "constant": ("import pkg.sub as sub", "return {'x': sub.f(a)}", "constant"),
    "function's attribute": ("import pkg.sub as sub", "return {'x': sub.f.more + a}", "sub"),
    "class": ("from pkg.sub import Net", "return {'x': Net()(a)}", "other"),
    "class's dunder": ("from pkg.sub import Net", "return {'x': Net()[a]}", "sub"),
    "object": ("from pkg.sub import net", "return {'x': net(a)}", "other"),
    "object's module": ("import pkg, pkg.sub", "q = pkg\n    return {'x': q.sub.net(a)}", "other"),
    "metaclass": ("from pkg.sub import Net", "return {'x': Net + a}", "sub"),
}  # fmt: skip
SUB = """
from functools import partial
from . import other
K = {constant}
class Meta(type):
    def __add__(cls, x): return x + {sub}
class Net(metaclass=Meta):
    __getitem__ = partial(lambda x, i: x + i, {sub})
    def __call__(self, x): return other.f(x)
net = Net()
def f(x): return x + {sub} + K
f.more = {sub}
def far(x):
    from .other import f
    return f(x)
near = other.f
"""


def test_a_changed_module_of_the_readers_gives_no_stale_cell(tmp_path, log, monkeypatch):
    """Whatever way run comes by it. One process is enough: each change is loaded anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    for how, (first, then, where) in USES.items():
        found = []
        for value in (1, 1, 5):
            values = {"sub": 1, "constant": 1, "other": 1, where: value}
            (tmp_path / "pkg/sub.py").write_text(SUB.format(**values))
            (tmp_path / "pkg/other.py").write_text(f"def f(x): return x + {values['other']}")
            for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
                del sys.modules[name]
            importlib.invalidate_caches()
            run = notebook(COUNT + f"{first}\ndef run(a):\n    count(a)\n    {then}\n")["run"]
            found.append(sweep(run, {"a": [1]}, store=tmp_path / how).x.item())
        assert log() == ["1", "1"] and found[0] == found[1] == found[2] - 4, how
    for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
        del sys.modules[name]


LOOKS = {  # how run comes by f, and by what
    "eval('f')(a)": "eval",
    "globals()['f'](a)": "globals",
    "importlib.import_module('m').f(a)": "import_module",
    "importlib.__import__('m').f(a)": "__import__",
    "getattr(importlib, 'import_module')('m').f(a)": "import_module",
    "builtins.eval('f')(a)": "builtins.eval",
    "getattr(builtins, 'eval')('f')(a)": "builtins.eval",
    "[b := builtins, b.eval('f')(a)][1]": "builtins.eval",
    "__builtins__['eval']('f')(a)": "__builtins__",
    "run.__globals__['f'](a)": "__globals__",
    "sys.modules['m'].f(a)": "sys.modules",
    "system.modules['m'].f(a)": "sys.modules",
    "os.sys.modules['m'].f(a)": "sys.modules",
    "loaded['m'].f(a)": "all modules",
    "sys.maxsize + len(torch.modules())": "sys.modules",  # both words are there: rather refused than stale
    "of_text('f')(a)": "eval",
    "tools['e']('f')(a)": "eval",
    "(lambda: __import__('sys'))().f": "__import__",
}
IMPORTS = {
    "import sys\n    return {'x': sys.modules['m'].f(a)}": "sys.modules",
    "import sys as s\n    return {'x': (lambda: s.modules['m'].f(a))()}": "sys.modules",
    "from sys import path, modules as s\n    return {'x': s['m'].f(a)}": "sys.modules",
    "from builtins import eval as e\n    return {'x': e('f')(a)}": "builtins.eval",
    "import builtins as b\n    return {'x': b.eval('f')(a)}": "builtins.eval",
}


@pytest.mark.parametrize(
    ("then", "what"), [*((f"return {{'x': {look}}}", what) for look, what in LOOKS.items()), *IMPORTS.items()]
)
def test_code_that_hides_what_it_uses_is_refused(tmp_path, log, then, what):
    first = "import builtins, importlib, sys\nimport sys as system\nfrom sys import modules as loaded"
    run = notebook(f"{first}\nf, of_text, tools = abs, eval, {{'e': eval}}\ndef run(a):\n    {then}\n")["run"]
    with pytest.raises(TypeError, match=rf"must be told from its code, but \w+ may call {what}\b"):
        sweep(run, {"a": [1]}, store=tmp_path)


@pytest.mark.parametrize(
    "look",
    ["len(sys.path)", "len(list(net.modules()))", "net.eval()(torch.ones(1)).item()", "builtins.abs(a)", "sys.maxsize",
     "getattr(sys, 'maxsize')", "len(importlib.util.__name__)"],
)  # fmt: skip
def test_what_only_looks_like_it_is_not(tmp_path, log, look):
    first = "import builtins, importlib.util, sys\nnet = torch.nn.Linear(1, 1)"
    run = notebook(f"{first}\ndef run(a):\n    return {{'x': {look}}}\n")["run"]
    assert sweep(run, {"a": [1]}, store=tmp_path).x == run(1)["x"]


def test_a_tensor_that_is_trained_is_not_one_that_is_not(tmp_path, log):
    for trained in (False, True):
        run = notebook("def run(a):\n    return {'x': w.requires_grad}", w=torch.ones(1, requires_grad=trained))["run"]
        assert sweep(run, {"a": [1]}, store=tmp_path).x.item() is trained


def test_an_object_without_a_value_is_refused_by_name(tmp_path, log):
    run = notebook("def run(a):\n    return {'x': guard.locked()}", guard=threading.Lock())["run"]
    with pytest.raises(TypeError, match="'guard' is a lock: make it inside run"):
        sweep(run, {"a": [1]}, store=tmp_path)
    assert sweep(run, {"a": [1]}).x.item() is False  # no store, no key


CELLS = """
import os, sys, types, torch, numpy as np
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in [{before!r}, '''
import os, types, torch, numpy as np, math
from lazylib.runs import sweep
p = types.SimpleNamespace(names={{"a", "b", "c", "d"}}, at=np.arange(3), dtype=torch.float32)
linear = torch.nn.Linear(2, 2)
with torch.no_grad():
    linear.weight.fill_(0.5); linear.bias.zero_()
''', '''
{comment}
def run(tau):
    with open(os.environ["RUN_LOG"], "a") as file:
        file.write(str(tau))
    if tau in {{1, 2, 3, "never"}}:
        return {{"x": float(linear(torch.ones(2, dtype=p.dtype)).sum()) * tau + len(p.names) + math.pi}}
    return {{"x": float(p.at.sum())}}
''', 'data = sweep(run, {{"tau": [1, 5]}}, store=os.environ["STORE"], n_jobs={jobs})']:
    shell.run_cell(cell, store_history=True).raise_error()
"""


def test_cells_of_a_notebook_are_known_again_in_another_session(tmp_path, log, frozen):
    for before, comment, jobs, calls in (("1", "", 1, "15"), ("x = 2\nx", "# moved", 2, "")):
        environment = {
            **frozen,
            "STORE": str(tmp_path / "s"),
            "IPYTHONDIR": str(tmp_path / "ipython"),
            "PYTHONHASHSEED": str(jobs),
        }
        script = CELLS.format(before=before, comment=comment, jobs=jobs)
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "".join(log()) == calls


EDITED = """
import sys
from pathlib import Path
exec(sys.stdin.read())
for text in ("A = 1", "A = 1", "A = 2"):
    Path("lazylib/another.py").write_text(text)
    for name in [name for name in sys.modules if name.startswith("lazylib")]:
        del sys.modules[name]
    from lazylib.runs import sweep
    sweep(run, {"a": [1]}, store="store")
    count("-")
from lazylib.runs import sweep
Path("lazylib/another.py").write_text("A = 1")  # edited after it was loaded: not the code of the first cell
sweep(run, {"a": [1]}, store="store")
"""


def test_other_code_of_lazylib_makes_other_cells(tmp_path, log, frozen):
    source = "import os\n" + COUNT + "def run(a):\n    count(a)\n    return {'x': a}\n"
    command = [sys.executable, "-c", EDITED]
    done = subprocess.run(command, input=source, text=True, capture_output=True, cwd=tmp_path, env=frozen)
    assert done.returncode == 0, done.stderr
    assert log() == ["1", "-", "-", "1", "-", "1"]


def test_nothing_stored_can_run_code(tmp_path, log):
    """A pickle in the place of a cell, with the right key and checksum, is not unpickled."""

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    run = notebook(RUN)["run"]
    sweep(run, {"tau": [1.0], "seed": [0]}, store=tmp_path / "s")
    (cell,) = (tmp_path / "s").iterdir()
    bomb = pickle.dumps(Bomb())
    cell.unlink()
    files.write_sealed(tmp_path / "s", cell.stem.partition("-")[0], ".nc", bomb)
    with pytest.raises((ValueError, OSError)):
        sweep(run, {"tau": [1.0], "seed": [0]}, store=tmp_path / "s")
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # the bomb was live


# ---- other processes ----

PROCESSES = """
import functools, os, sys, torch, numpy as np, xarray as xr
import lazylib.runs.sweeps as module
from lazylib.runs import sweep
exec(sys.stdin.read())
def place(a):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # the next cell in this worker must not notice
    return {"threads": threads, "pid": os.getpid()}
if __name__ == "__main__":
    grid = {"tau": [0.1, 1.0, 10.0], "seed": [0, 1]}
    here = sweep(run, grid)
    os.environ["LAZYLIB_JOBS"] = "2"
    xr.testing.assert_identical(here, sweep(run, grid, store="store"))
    count("-")
    sweep(run, grid, store="store", n_jobs=1)
    data = sweep(place, {"a": [1, 2, 3]})
    assert (data.threads == 1).all() and os.getpid() not in data.pid
    @functools.cache
    def kept():
        return 1
    def cached(a):
        return {"b": kept()}
    try:
        sweep(cached, {"a": [1, 2]})
    except RuntimeError as error:
        print(error)
    module._LOADED = b"other"  # as if our lazylib were not that of the workers
    try:
        sweep(run, grid)
    except RuntimeError as error:
        print(error)
"""


def test_processes_give_what_this_process_gives_if_they_run_the_same_lazylib(tmp_path, log, frozen):
    command = [sys.executable, "-c", PROCESSES]
    done = subprocess.run(command, input=RUN, text=True, capture_output=True, cwd=tmp_path, env=frozen)
    assert done.returncode == 0, done.stderr
    lines = log()
    assert len(lines) == 13 and lines[-1] == "-"
    copied, same = done.stdout.splitlines()
    assert copied.startswith("cached cannot be copied to other processes") and same.startswith(
        "all processes must run the same lazylib"
    )


@pytest.mark.parametrize("threads", [1, 2])  # joblib computes here where a cluster has one
def test_a_dask_cluster_gives_what_this_process_gives(threads, tmp_path, log, monkeypatch):
    distributed = pytest.importorskip("distributed")
    run = notebook(RUN)["run"]
    here = sweep(run, GRID)
    log()
    monkeypatch.setattr(cluster, "_used", [])
    with local_cluster(distributed, n_workers=1, threads_per_worker=threads) as workers:
        monkeypatch.setenv("LAZYLIB_SCHEDULER", workers.scheduler_address)
        asked, submit = [], distributed.Client.submit
        monkeypatch.setattr(distributed.Client, "submit", lambda *a, **k: asked.append(1) or submit(*a, **k))
        xr.testing.assert_identical(here, sweep(run, GRID, store=tmp_path / "s"))
    assert len(log()) == len(asked) == 6
    assert provenance.provenance()["device"] == f"Dask workers: {cluster.processor()}"
    monkeypatch.delenv("LAZYLIB_SCHEDULER")
    sweep(run, GRID, store=tmp_path / "s")
    assert log() == []


def local_cluster(distributed, **options):
    return distributed.LocalCluster(
        processes=False, dashboard_address=None, protocol="tcp", host="127.0.0.1", **options
    )


def test_a_worker_that_comes_late_is_waited_for(log, monkeypatch, capsys):
    """Under a batch system the workers come when there is room for them."""
    distributed = pytest.importorskip("distributed")
    with local_cluster(distributed, n_workers=0) as workers:
        monkeypatch.setenv("LAZYLIB_SCHEDULER", workers.scheduler_address)
        monkeypatch.setenv("LAZYLIB_WAIT", "0.01")
        with pytest.raises(
            ConnectionError, match=r"^no worker came to .* in 0.01 minutes: start some, or let LAZYLIB_"
        ):
            sweep(notebook(RUN)["run"], GRID)
        assert "waiting for a worker of tcp://" in capsys.readouterr().err
        monkeypatch.setenv("LAZYLIB_WAIT", "1")
        timer = threading.Timer(2, lambda: workers.scale(1))
        timer.start()
        assert sweep(notebook(RUN)["run"], GRID).sizes["tau"] == 3
        timer.join()
    assert len(log()) == 6


@pytest.mark.parametrize(
    "name, given, error, sentence",
    [
        ("LAZYLIB_SCHEDULER", "nonsense://here", ValueError, "LAZYLIB_SCHEDULER must be the address.*nonsense://here"),
        ("LAZYLIB_SCHEDULER", "tcp://127.0.0.1:9", ConnectionError, "none answers at 'tcp://127.0.0.1:9'"),
        ("LAZYLIB_WAIT", "soon", ValueError, "LAZYLIB_WAIT must be a positive number of minutes, got 'soon'"),
    ],
)
def test_a_cluster_that_is_none_is_named(name, given, error, sentence, log, monkeypatch):
    monkeypatch.setenv("LAZYLIB_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setenv(name, given)
    with pytest.raises(error, match=sentence):
        sweep(notebook(RUN)["run"], GRID)


KILLED = """
import os, signal, sys, time
from pathlib import Path
from lazylib.runs import sweep
def run(a):
    with open("begun", "a") as file:
        file.write(f"{a}\\n")
    if a == 3:
        while len(Path("begun").read_text().split()) < 4:
            time.sleep(0.1)
        time.sleep(1)  # until the others are done
        if os.environ["ALWAYS"] or not os.path.exists("marker"):
            Path("marker").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"x": a**2}
try:
    print(sweep(run, {"a": [0, 1, 2, 3]}, store=sys.argv[1] or None, n_jobs=2).x.values.tolist())
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(("store", "always"), [("store", ""), ("", "always")])
def test_cells_that_were_lost_with_a_killed_process_are_computed_by_another(tmp_path, frozen, store, always):
    """As the system kills where memory is short; the cells that were finished are not computed again."""
    command, environment = [sys.executable, "-c", KILLED, store], {**frozen, "ALWAYS": always}
    done = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    killed = "processes of run were killed 4 times and finished no cell in between, perhaps for want of memory: "
    said = f"{killed}give them more, or set n_jobs lower.\n" if always else "[0, 1, 4, 9]\n"
    begun = sorted((tmp_path / "begun").read_text().split())
    assert done.stdout == said and begun[:3] == ["0", "1", "2"]
    assert begun[3:] == ["3"] * (4 if always else 2)


# ---- processes that share a store ----


def test_the_store_of_the_environment_is_taken(tmp_path, log, monkeypatch):
    monkeypatch.setenv("LAZYLIB_STORE", str(tmp_path / "s"))
    run = notebook(RUN)["run"]
    xr.testing.assert_identical(sweep(run, GRID), sweep(run, GRID))
    assert len(log()) == 6 and len(list((tmp_path / "s").iterdir())) == 6


def test_a_run_without_a_value_goes_without_the_store_of_the_environment(tmp_path, monkeypatch):
    """Where it was asked for, it is refused (above)."""
    monkeypatch.setenv("LAZYLIB_STORE", str(tmp_path / "s"))
    thing = threading.Lock()
    with pytest.warns(UserWarning, match="the cells of <lambda> are not stored: "):
        found = sweep(lambda a: {"x": a, "locked": thing.locked()}, {"a": [1, 2]})
    assert found.x.values.tolist() == [1, 2] and not (tmp_path / "s").exists()


TOGETHER = """
import os, sys, time
import numpy as np
from lazylib.runs import sweep
def run(a):
    time.sleep(0.2)
    with open("begun", "a") as file:
        file.write(f"{a}\\n")
    return {"x": a**2}
found = sweep(run, {"a": list(range(12))}, store="store", n_jobs=int(sys.argv[1]))
print(found.x.values.tolist())
"""


def test_processes_with_one_store_share_the_work(tmp_path, frozen):
    (tmp_path / "script.py").write_text(TOGETHER)
    start = lambda jobs: subprocess.Popen(  # noqa: E731
        [sys.executable, "script.py", jobs], cwd=tmp_path, env=frozen, text=True, stdout=subprocess.PIPE
    )
    shared = [start("1"), start("1"), start("2")]
    said = [process.communicate(timeout=300)[0] for process in shared]
    assert said == [f"{[a**2 for a in range(12)]}\n"] * 3
    assert sorted(map(int, (tmp_path / "begun").read_text().split())) == list(range(12))  # each once
    assert not list((tmp_path / "store").glob(".*"))


# ---- bad input, before any work ----


@pytest.mark.parametrize(
    "grid, fixed, sentence",
    [
        ({}, {}, "at least one dimension to its values, got {}"),
        ({"tau": [], "seed": [0]}, {}, r"grid\['tau'\] must be one or more distinct numbers.*got \[\]"),
        ({"tau": 0.1, "seed": [0]}, {}, r"grid\['tau'\].*got 0.1"),
        ({"tau": "0.1", "seed": [0]}, {}, r"grid\['tau'\].*got '0.1'"),
        ({"tau": [1, "1"], "seed": [0]}, {}, r"grid\['tau'\].*got \[1, '1'\]"),
        ({"tau": [1, 1.0], "seed": [0]}, {}, r"grid\['tau'\].*distinct"),
        ({"tau": [float("nan")], "seed": [0]}, {}, "not NaN"),
        ({"tau": [[1]], "seed": [0]}, {}, r"grid\['tau'\].*got \[\[1\]\]"),
        ({"tau": [1]}, {}, "must accept the names.*missing a required argument: 'seed'"),
        ({"tua": [1], "seed": [0]}, {}, "must accept the names"),
        ({"tau": [1], "seed": [0]}, {"tau": 2}, "got tau in both"),
    ],
)
def test_sweep_refuses(log, grid, fixed, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        sweep(notebook(RUN)["run"], grid, fixed)
    assert log() == []


@pytest.mark.parametrize("jobs", ["many", "0", "-2", "1.5"])
def test_a_bad_number_of_processes_is_refused(log, monkeypatch, jobs):
    monkeypatch.setenv("LAZYLIB_JOBS", jobs)
    with pytest.raises(ValueError, match=f"LAZYLIB_JOBS must be a number of processes.*got '{jobs}'"):
        sweep(notebook(RUN)["run"], GRID)
    with pytest.raises(ValueError, match="n_jobs must be a number of processes.*got 0"):
        sweep(notebook(RUN)["run"], GRID, n_jobs=0)
    assert log() == []


def test_a_store_that_is_a_file_is_refused(tmp_path, log):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="store must be a folder"):
        sweep(notebook(RUN)["run"], GRID, store=tmp_path / "file")
    assert log() == []


@pytest.mark.parametrize(
    "run, sentence",
    [
        (lambda a: 1.0, "must return a dict.*not float"),
        (lambda a: {"x": None}, "'x' has dtype object"),
        (lambda a: {"a": 1.0}, "must not return the names of the grid's dimensions, got \\['a'\\]"),
        (lambda a: {"x": np.zeros(int(a))}, "same names, dimensions and shapes at every point, but a=2"),
        (lambda a: {"x": 1.0} if a == 1 else {"y": 1.0}, "same names"),
        (lambda a: {"x": "text" if a == 1 else 1.0}, "same names"),
        (lambda a: {"x": xr.DataArray([1.0], dims="t", coords={"t": [a]})}, "coordinate 't' must be the same"),
    ],
)
def test_cells_that_do_not_fit_are_refused(log, run, sentence):
    with pytest.raises((ValueError, RuntimeError), match=sentence):
        sweep(run, {"a": [1, 2]})


def squares(x):
    return {"y": x * x}


def test_a_sweep_pauses_in_time_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_got_on", [])
    left = iter([1.0, 1.0, -1.0])  # asked before work and before the second cell and the third
    monkeypatch.setattr(module, "time_left", lambda: next(left))
    with pytest.raises(Paused, match="^1 of 3 cells of squares are left"):
        sweep(squares, {"x": [1, 2, 3]}, store=tmp_path)
    assert len(list(tmp_path.glob("*.nc"))) == 2
    monkeypatch.setattr(module, "time_left", lambda: 1.0)
    assert sweep(squares, {"x": [1, 2, 3]}, store=tmp_path).y.values.tolist() == [1, 4, 9]
    monkeypatch.setattr(module, "time_left", lambda: -1.0)
    assert sweep(squares, {"x": [1, 2, 3]}).y.size == 3  # with nowhere to go on from there is no pausing


def test_however_short_a_piece_is_it_gets_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time_left", lambda: -1.0)
    for left in (2, 1):
        monkeypatch.setattr(module, "_got_on", [])  # a new process
        with pytest.raises(Paused, match=f"^{left} of 3 cells"):
            sweep(squares, {"x": [1, 2, 3]}, store=tmp_path)
        with pytest.raises(Paused, match=f"^{left} of 3 cells"):  # one cell a process, not one a sweep
            sweep(squares, {"x": [1, 2, 3]}, store=tmp_path)
    monkeypatch.setattr(module, "_got_on", [])
    assert sweep(squares, {"x": [1, 2, 3]}, store=tmp_path).y.values.tolist() == [1, 4, 9]


@pytest.mark.parametrize("minutes", ["0", "-5", "nan", "ten", "1e", "1,5", "9" * 5000 + "x"])
def test_nonsensical_minutes_are_refused_before_work(log, monkeypatch, minutes):
    monkeypatch.setenv("LAZYLIB_MINUTES", minutes)
    with pytest.raises(ValueError, match="^LAZYLIB_MINUTES must be a positive number of minutes, got .{1,70}$"):
        sweep(notebook(RUN)["run"], GRID)
    assert log() == []


ORPHANS = """
import os, time
from lazylib.runs import sweep
def run(a):
    with open("pids", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(300)
sweep(run, {"a": [1, 2, 3]}, store="store", n_jobs=2)
"""


def test_workers_end_with_a_main_process_that_is_killed(tmp_path, log):
    (tmp_path / "script.py").write_text(ORPHANS)
    path = os.pathsep.join([str(files.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    main = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    pids = tmp_path / "pids"
    deadline = time.time() + 300
    while not (pids.exists() and len(pids.read_text().splitlines()) == 2) and time.time() < deadline:
        time.sleep(0.1)
    family = [psutil.Process(main.pid), *psutil.Process(main.pid).children(recursive=True)]
    assert {int(pid) for pid in pids.read_text().split()} <= {process.pid for process in family}
    main.kill()
    main.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()
    assert alive == []


def test_the_time_left_counts_from_the_start(monkeypatch):
    assert time_left() == math.inf
    monkeypatch.setenv("LAZYLIB_MINUTES", "1e9")
    assert 0 < time_left() < 6e10
    monkeypatch.setenv("LAZYLIB_MINUTES", "1e-9")
    assert time_left() < 0


def test_the_code_of_a_notebook_counts_whatever_program_runs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/site-packages/pytest/__main__.py", raising=False)
    for factor in (2, 3):
        namespace = {"__name__": "__main__"}
        exec(f"def run(x):\n    return {{'y': {factor} * x}}", namespace)
        assert sweep(namespace["run"], {"x": [1]}, store=tmp_path).y.item() == factor


def test_a_tensor_counts_by_its_values_whatever_its_strides():
    """One entry of a transposed matrix has the strides of the matrix, which a view of its bytes does not take."""
    matrix = torch.arange(9.0).reshape(3, 3)
    one = matrix.mT[2:3, :1]
    assert one.reshape(-1).stride() != (1,)
    assert identity(one, {}) == identity(torch.tensor([[2.0]]), {}) != identity(torch.tensor([[1.0]]), {})
    assert identity(matrix.mT, {}) == identity(matrix.mT.contiguous(), {})


# ---- replicates ----


def of_seed(seed, a):
    return {"x": torch.rand(2, generator=generator(seed, "data")) + a}


def of_zero(seed, a):
    return {"x": torch.rand(2, generator=generator(0, "data")) + seed * a}


def of_draw(draw, a):
    return of_seed(draw, a)


def of_one_draw(draw, a):
    return of_zero(draw, a)


@pytest.mark.parametrize("dim", ["seed", "draw"])
@pytest.mark.parametrize("stored", [False, True])
def test_replicates_share_no_random_numbers(tmp_path, dim, stored):
    store = tmp_path / "store" if stored else None
    run, same = {"seed": (of_seed, of_zero), "draw": (of_draw, of_one_draw)}[dim]
    grid = {dim: [0, 3], "a": [1, 2]}
    assert sweep(run, grid, store=store).x.shape == (2, 2, 2)
    for _ in range(2):  # what a store keeps, too
        with pytest.raises(
            ValueError, match=f"replicates must differ, but {dim} = 0 and {dim} = 3 both drew 'data' of"
        ):
            sweep(same, grid, store=store)
    found = sweep(same, grid, store=store, common=["data"])
    assert found.x.shape == (2, 2, 2) and not found.attrs
    sweep(same, {"a": [1, 2]}, {dim: 0})  # no replicates


def test_beside_replicates_what_is_swept_changes_some_number():
    def run(seed, tau, alpha=1.0):
        return {"x": np.array([seed * tau, 1.0 + seed]), "seconds": alpha, "large": alpha > 1.5}

    grid = {"seed": [1, 2], "tau": [0.1, 1.0], "alpha": [1.0, 2.0]}
    with pytest.raises(ValueError, match="swept must change something, but no number that came out depends on alpha"):
        sweep(run, grid)
    assert sweep(run, {**grid, "alpha": [1.0]}).x.shape == (2, 2, 1, 2)
    assert sweep(run, {"tau": [0.1], "alpha": [1.0, 2.0]}, {"seed": 1}).x.shape == (1, 2, 2)  # no replicates
    with pytest.raises(ValueError, match="depends on seed"):
        sweep(lambda seed, tau: {"x": tau}, {"seed": [1, 2], "tau": [0.1, 1.0]})
    assert sweep(
        lambda seed: {"large": True, "n": 3, "time": np.inf}, {"seed": [1, 2]}
    ).large.all()  # these tell nothing


def test_what_threads_draw_is_told_apart():
    """A Dask worker may run cells side by side."""
    both, found = threading.Barrier(2), {}

    def cell(seed):
        with noted() as drawn:
            both.wait(10)
            generator(seed, "data")
            both.wait(10)
        found[seed] = drawn

    threads = [threading.Thread(target=cell, args=[seed]) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: {("data", 1)}, 2: {("data", 2)}}


def test_what_an_inner_sweep_draws_counts_for_the_outer_one():
    def outer(seed):
        return {"x": sweep(of_zero, {"seed": [0]}, {"a": 1}).x.sum()}

    with pytest.raises(ValueError, match="seed = 0 and seed = 1 both drew 'data' of seed 0"):
        sweep(outer, {"seed": [0, 1]})


def test_seeds_that_overlap_are_found():
    """Eight runs a trial, of which the next trial uses seven again."""

    def run(seed):
        return {"x": torch.stack([torch.rand(1, generator=generator(k, "init")) for k in range(seed, seed + 8)])}

    with pytest.raises(ValueError, match="seed = 0 and seed = 1 both drew 'init' of seed 1"):
        sweep(run, {"seed": [0, 1]})
    assert sweep(run, {"seed": [0, 8]}).x.shape == (2, 8, 1)


def scaled(how):
    x = xr.DataArray(np.array([1.23, 2.34]), dims="i")
    if how == "attribute":
        x.attrs["scale_factor"] = 2.0
    else:
        x.encoding = {"dtype": "int16", "scale_factor": 0.1}
    return {"x": x}


def test_a_store_gives_back_the_numbers_that_it_was_given(tmp_path):
    for _ in range(2):
        assert sweep(scaled, {"how": ["encoding"]}, store=tmp_path).x.values.tolist() == [[1.23, 2.34]]
    with pytest.raises((ValueError, RuntimeError), match="'x' must not have the attribute scale_factor"):
        sweep(scaled, {"how": ["attribute"]}, store=tmp_path)


def test_a_store_leaves_hidden_files_of_others_alone(tmp_path):
    others = [tmp_path / name for name in (".draft.tmp", ".poetry.lock", ".cell.tmp")]
    for other in others:
        other.write_text("mine")
        os.utime(other, (0, 0))
    sweep(lambda a: {"x": a}, {"a": [1]}, store=tmp_path)
    assert all(other.read_text() == "mine" for other in others)
