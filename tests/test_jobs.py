"""A notebook as many jobs: planned, run by several processes that are killed and started again, and collected."""

import json
import os
import random
import re
import subprocess
import sys
import time

import nbformat
import pytest
import yaml

from lazylib.runs import __main__ as jobs
from lazylib.runs import files
from tests.made_notebooks import code, text, write
from tests.test_kills import MARK, ended

KILLS = int(os.environ.get("LAZYLIB_KILLS", "3"))
SLOW = """
import time
from lazylib.runs import sweep
def run(tau, seed):
    time.sleep({seconds})
    with open("begun", "a") as file:
        file.write(f"{{tau}} {{seed}}\\n")
    return {{"x": tau * seed}}
"""
SWEEPS = """
found = sweep(run, {"tau": taus, "seed": range(6)})
print(found.x.sum().item(), more)
"""


@pytest.fixture
def notebook(tmp_path):
    def make(seconds=0.0):
        parameters = code("taus: list = [0.5]  # scales\nmore: int = 0", tags=("parameters",))
        cells = [parameters, code(SLOW.format(seconds=seconds)), code(SWEEPS)]
        return write(tmp_path / "book/a.ipynb", text("# A"), *cells)

    return make


def said(capsys):
    return capsys.readouterr().out.splitlines()


def call(*arguments):
    return jobs.main([str(each) for each in arguments])


def test_planned_run_and_collected(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {**os.environ})
    folder = tmp_path / "plan"
    assert call("plan", notebook(), folder, "-p", "taus", "[1.0, 2.0]", "-p", "more", "3", "--jobs", "5") == 0
    assert f"python -m lazylib.runs run {folder} --index 0" in said(capsys)[1]
    assert call("status", folder) == jobs.MORE and said(capsys) == []
    assert call("run", folder, "--index", "1") == 0 and call("status", folder) == 0
    assert said(capsys)[:2] == ["job 1: done", "run: 12 of 12 cells"]
    assert call("collect", folder) == 0
    cells = nbformat.read(folder / "executed.ipynb", as_version=4).cells
    assert cells[-1].outputs[-1].text == "45.0 3\n"
    assert len((tmp_path / "book/begun").read_text().split("\n")) == 13  # each cell once, by the job


def test_what_is_written_for_schedulers(notebook, tmp_path, capsys):
    folder = tmp_path / "plan"
    call("plan", notebook(), folder, "--jobs", "5")
    script = (folder / "array.sbatch").read_text()
    assert "--array=0-4" in script and f"run {folder} --index $SLURM_ARRAY_TASK_ID" in script
    subprocess.run(["bash", "-n", folder / "array.sbatch"], check=True)
    job = yaml.safe_load((folder / "job.yaml").read_text())["spec"]
    assert job["completions"] == job["parallelism"] == 5 and job["completionMode"] == "Indexed"
    assert job["template"]["spec"]["containers"][0]["command"][-2:] == ["run", str(folder)]


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_job_knows_its_index_from_its_scheduler(name, notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {**os.environ, name: "7"})
    call("plan", notebook(), tmp_path / "plan")
    call("run", tmp_path / "plan")
    assert said(capsys)[-1] == "job 7: done"


def test_the_script_of_the_array_runs_and_asks_to_be_queued_again(notebook, tmp_path, monkeypatch):
    """By a scontrol that notes what it was asked, with time for one cell."""
    folder = tmp_path / "plan"
    call("plan", notebook(), folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "bin/scontrol").chmod(0o755)
    script = (folder / "array.sbatch").read_text()
    (tmp_path / "short").write_text(script.replace("LAZYLIB_MINUTES=50", "LAZYLIB_MINUTES=1e-6"))
    task = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "9", "SLURM_CPUS_PER_TASK": "1"}
    path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHONPATH": str(files.PACKAGE.parent)}
    run = lambda file: subprocess.run(["bash", file], env={**os.environ, **task, **path}).returncode  # noqa: E731
    assert run(tmp_path / "short") == jobs.MORE
    assert (tmp_path / "asked").read_text() == "requeue 9_2\n"
    assert len(list((folder / "cells").glob("*.nc"))) == 1
    assert run(folder / "array.sbatch") == 0 and len(list((folder / "cells").glob("*.nc"))) == 6


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["none.ipynb", "new"], r"NOTEBOOK must be a notebook, and there is none at none\.ipynb\."),
        (["{notebook}", "book"], r"DIR must be a new folder, and book exists\."),
        (["{notebook}", "new", "-p", "tau", "1"], r"tau is not a parameter of a\.ipynb: allowed are taus, more\."),
        (["{notebook}", "new", "-p", "taus", "[1"], r"-p takes a VALUE that is YAML: .*\."),
        (["{notebook}", "new", "--jobs", "0"], r"--jobs must be at least 1, not 0\."),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_sentence(
    arguments, sentence, notebook, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [each.format(notebook=notebook()) for each in arguments]
    with pytest.raises(SystemExit, match="2"):
        call("plan", *arguments)
    error = capsys.readouterr().err
    assert re.fullmatch(sentence + "\n", error) and not (tmp_path / "new").exists()


def test_other_code_than_the_plan_s_is_refused(notebook, tmp_path, capsys):
    call("plan", notebook(), tmp_path / "plan")
    planned = json.loads((tmp_path / "plan/plan.json").read_text())
    (tmp_path / "plan/plan.json").write_text(json.dumps({**planned, "lazylib": "00"}))
    for command in ("run", "collect"):
        with pytest.raises(SystemExit, match="2"):
            call(command, tmp_path / "plan")
        assert capsys.readouterr().err.startswith("lazylib is another one than that of the plan")
    with pytest.raises(SystemExit, match="2"):
        call("status", tmp_path)
    assert capsys.readouterr().err == f"DIR must be a folder that `plan` made, and {tmp_path} has no plan.json.\n"


def test_a_job_that_fails_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {**os.environ})
    bad = write(tmp_path / "a.ipynb", code("taus = 1", tags=("parameters",)), code("raise ValueError('a bad day')"))
    call("plan", bad, tmp_path / "plan")
    assert call("run", tmp_path / "plan") == 1
    assert said(capsys)[-1] == "job 0: failed: ValueError: a bad day"
    assert call("status", tmp_path / "plan") == jobs.MORE and said(capsys)[-1].endswith(": ValueError: a bad day")


def test_jobs_that_are_killed_and_queued_again_share_the_work(notebook, tmp_path, monkeypatch, capsys):
    """A scheduler that kills and requeues at random; LAZYLIB_KILLS says how often. Nothing is left of a killed job, and
    the cells are to the byte those of one job that nobody disturbed."""
    monkeypatch.setattr(os, "environ", {**os.environ, "PYTHONPATH": str(files.PACKAGE.parent), "OMP_NUM_THREADS": "1"})
    cells = ["-p", "taus", str([round(0.1 * k, 1) for k in range(1, 3 + KILLS // 3)])]
    call("plan", notebook(0.3), tmp_path / "plan", *cells)
    start = lambda k, mark: subprocess.Popen(  # noqa: E731
        [sys.executable, "-m", "lazylib.runs", "run", tmp_path / "plan", "--index", str(k)],
        env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    marks = [f"{tmp_path} {k}" for k in range(2)]
    rng, killed, running = random.Random(0), 0, {k: start(k, marks[k]) for k in range(2)}
    while killed < KILLS and any(process.poll() is None for process in running.values()):
        time.sleep(rng.uniform(1, 6))
        k = rng.choice(list(running))
        if running[k].poll() is None:
            running[k].kill()
            running[k].wait()
            killed += 1
            assert ended(marks[k]) == [], f"after kill {killed}"
            running[k] = start(k, marks[k])
    assert [process.wait(600) for process in running.values()] == [0, 0] and killed
    assert [ended(mark) for mark in marks] == [[], []]
    assert call("status", tmp_path / "plan") == 0
    begun = (tmp_path / "book/begun").read_text().splitlines()
    asked = json.loads(cells[-1])
    assert set(begun) == {f"{tau} {seed}" for tau in asked for seed in range(6)}
    assert len(begun) <= len(set(begun)) + killed  # twice at most where it was killed before it was stored
    assert call("collect", tmp_path / "plan") == 0
    call("plan", tmp_path / "book/a.ipynb", tmp_path / "calm", *cells)
    assert call("run", tmp_path / "calm") == 0 and call("collect", tmp_path / "calm") == 0
    stored, calm = (
        {path.name: path.read_bytes() for path in (tmp_path / folder / "cells").glob("*.nc")}
        for folder in ("plan", "calm")
    )
    assert stored == calm and len(calm) == len(set(begun))
    shown, expected = (
        nbformat.read(tmp_path / folder / "executed.ipynb", as_version=4).cells[-1].outputs[-1].text
        for folder in ("plan", "calm")
    )
    assert shown == expected


def test_a_folder_may_have_a_blank_in_its_name(tmp_path, monkeypatch):
    path = write(tmp_path / "n.ipynb", code("preset: str = 'smoke'", tags=["parameters"]))
    folder = tmp_path / "my runs"
    jobs.plan(path, folder, {}, 2)
    script = (folder / "array.sbatch").read_text()
    assert f'#SBATCH --output="{folder}/job-%a.log"' in script and f"run '{folder}' --index" in script
