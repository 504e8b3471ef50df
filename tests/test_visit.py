"""A visit of a GPU machine, rehearsed on this one at tiny sizes, cut off at random moments."""

import json
import os
import random
import subprocess
import sys
import time

import psutil
import pytest
import torch

from tools import gpu_paths, visit
from tools.pages import ROOT

TINY = """
[[job]]
name = "sweep"
module = "tests.made_job"
options = "{cells} {seconds}"
least = 1

[[job]]
name = "fails"
module = "tests.made_job"
options = "0 0"
least = 1

[[job]]
name = "long"
module = "tools.plain"
chapter = "08_width_scaling"
preset = "smoke"
least = 10000
"""


@pytest.fixture
def go(monkeypatch, tmp_path):
    """Visit with the jobs of a text, in this process, with a second to spare; the states of the jobs."""
    monkeypatch.setattr(visit, "SPARE", 1.0)

    def run(text, seconds):
        file = tmp_path / "jobs.toml"
        file.write_text(text, encoding="utf-8")
        states = {state["name"]: state for state in visit.visit(visit.jobs(file), tmp_path, seconds)}
        assert json.loads((tmp_path / "visit.json").read_text(encoding="utf-8"))["jobs"].keys() == states.keys()
        return states

    return run


def test_the_jobs_can_run():
    wanted = visit.jobs(ROOT / "tools" / "visit.toml")
    for job in wanted:
        assert (ROOT / f"{job['module'].replace('.', '/')}.py").exists()
        if "chapter" in job:
            text = (ROOT / "chapters" / f"{job['chapter']}.ipynb").read_text(encoding="utf-8")
            assert f'\\"{job["preset"]}\\": {{' in text
    assert wanted[0]["module"] == "tools.gpu_paths" and wanted[1]["chapter"] == "07_cifar_gap"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "must have jobs"),
        ('[[job]]\nname = "a"\nmodule = "b"\n', "must have least"),
        ('[[job]]\nname = "a"\nmodule = "b"\nleast = 1\nchapter = "99_no"\n', "must name a chapter, not '99_no'"),
        ('[[job]]\nname = "a"\nmodule = "b"\nleast = 1\n' * 2, "a name of its own"),
    ],
)
def test_a_job_that_could_not_run_is_refused(tmp_path, text, said):
    file = tmp_path / "jobs.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        visit.jobs(file)


def test_a_visit_cut_off_at_random_goes_on_and_loses_nothing(go, tmp_path):
    """Each visit ends in its time with its state on disk, and the last one has every cell, computed once."""
    rng, visits = random.Random(0), 0
    while visits < 30:
        seconds, begun = rng.uniform(2, 12 if visits else 5), time.monotonic()  # the cells alone take 4.8
        visits += 1
        states = go(TINY.format(cells=12, seconds=0.4), seconds)
        assert time.monotonic() - begun < seconds + 5
        assert states["long"]["state"] == "left" and "it asks for 10000" in states["long"]["said"]
        if states["sweep"]["state"] == "done":
            break
    assert visits > 1 and states["sweep"]["said"] == "12 cells, sum 66"
    assert len(list((tmp_path / "cells").glob("*.nc"))) == 12


def test_a_job_that_fails_does_not_cost_the_others(go):
    states = go(TINY.format(cells=1, seconds=0), 60)
    assert states["fails"]["state"] == "failed" and "no cells" in states["fails"]["said"]
    assert states["sweep"]["state"] == "done" and states["sweep"]["said"] == "1 cells, sum 0"


def test_a_job_that_does_not_stop_is_killed_with_what_it_started(go):
    states = go('[[job]]\nname = "deaf"\nmodule = "tests.made_job"\noptions = "deaf"\nleast = 1\n', 12)
    child = int(states["deaf"]["said"].removeprefix("child "))
    assert states["deaf"]["state"] == "left"
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_command_says_what_is_left(tmp_path):
    file = tmp_path / "jobs.toml"
    file.write_text(TINY.format(cells=1, seconds=0), encoding="utf-8")
    line = [sys.executable, "-m", "tools.visit", "--seconds", "0.5", "--into", str(tmp_path), "--jobs", str(file)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == visit.MORE and done.stdout.count("left: ") == 3, done.stderr


def test_a_damaged_state_is_begun_anew(tmp_path):
    for text in ("", "[]", '{"jobs": {"a": 1}}', '{"jobs": {"a": {"state": "done"}}}'):
        (tmp_path / "visit.json").write_text(text, encoding="utf-8")
        assert visit._states(tmp_path / "visit.json") == {}


def test_a_chapter_runs_without_jupyter(tmp_path):
    """In a Python that has no papermill, nbformat or nbclient to import."""
    hidden = "import sys; sys.modules |= dict.fromkeys(['papermill', 'nbformat', 'nbclient', 'jupyter_client']);"
    run = f"{hidden} sys.argv[1:] = ['06_loss_landscapes', '--preset', 'smoke']; from tools import plain; plain.main()"
    environment = os.environ | {"LAZYLIB_LEDGER": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "L1 " in done.stdout, done.stderr
    assert {path.stem for path in tmp_path.rglob("L*.json")} == {"L1", "L2", "L3"}


@pytest.mark.parametrize("name", [name for name in gpu_paths.PATHS if "tf32" not in name])
def test_a_path_agrees_with_float64(name):
    path, limit = gpu_paths.PATHS[name]
    assert gpu_paths.difference(path, "cpu") <= limit


def test_a_path_that_is_wrong_is_found(monkeypatch, capsys):
    def wrong(device, dtype):
        return gpu_paths.conv_kernel(device, dtype) * (1.01 if dtype == torch.float32 else 1.0)

    monkeypatch.setattr(gpu_paths, "PATHS", {"kernel": (wrong, 1e-3), "none": (lambda *_: 1 / 0, 1e-3)})
    monkeypatch.setattr(sys, "argv", ["gpu_paths"])
    assert gpu_paths.main() == 1
    assert "WRONG kernel" in (said := capsys.readouterr().out) and "WRONG none: ZeroDivisionError" in said
