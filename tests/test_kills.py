"""Sweeps, trainings and chapters in pieces, killed at random moments: nothing stays behind, and no bit differs.

`LAZYLIB_KILLS=70 pytest tests/test_kills.py` kills each so often, which takes a while. By default a training is killed
once; a killed sweep is also in test_sweep.py, killed pieces in test_pieces.py and test_visit.py.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lazylib.runs import files
from tests.made_notebooks import code, text, write

KILLS = int(os.environ.get("LAZYLIB_KILLS", "1"))
PATIENCE = 10.0  # seconds in which all that a killed process started must have ended
MARK = "LAZYLIB_KILL_MARK"  # in the environment of a process and of all that it starts
CELLS = """
import os, time
import numpy as np
import torch
from lazylib.runs import generator, sweep
def run(tau, seed):
    time.sleep(0.2)
    return {"x": tau * torch.randn(1000, generator=generator(seed, "x"))}
found = sweep(run, {"tau": [0.1, 1.0], "seed": range(4)}, store="store", n_jobs=2)
found.x.values.tofile("result.tmp")
os.replace("result.tmp", "result")
"""
TRAINING = """
import os
import torch
from lazylib.flows import Recipe, train
from lazylib.nets import Scaled, convnet
from lazylib.problems import Images
torch.manual_seed(0)
x, y = torch.randint(256, (60, 3, 32, 32), dtype=torch.uint8), torch.arange(60) % 3
data = Images("noise", x[:40], y[:40], x[40:], y[40:], (0.5,) * 3, (0.3,) * 3)
model = Scaled(convnet("vgg11", 1 / 32, gain=1.4, classes=3), 10.0)
os.makedirs("store", exist_ok=True)
list(train(model, data, Recipe(epochs=8, batch=4, lr=0.003), precision="float32", checkpoint="store/run.pt"))
torch.cat([w.detach().flatten() for w in model.parameters()]).numpy().tofile("result.tmp")
os.replace("result.tmp", "result")
"""
PIECES = """
import os, sys
from pathlib import Path
from tools import pieces
here = Path.cwd()
os.environ["LAZYLIB_STORE"] = str(here / "store")
pieces.ROOT, pieces.notebooks = here, lambda: [here / "chapters/a.ipynb"]
sys.exit(pieces.main())
"""
# It is executed in the folder chapters, and pauses where starting it took longer than a piece.
CHAPTER = CELLS.replace('"store"', 'os.environ["LAZYLIB_STORE"]').replace('"result', '"../result')
PROGRAMS = {"sweep": CELLS, "training": TRAINING, "pieces": PIECES}


@pytest.fixture(params=PROGRAMS if "LAZYLIB_KILLS" in os.environ else ["training"])
def program(request, tmp_path):
    """Starts a program in a folder of its own, with a copy of lazylib that nobody edits meanwhile."""
    for name in ("lazylib", "tools"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(files.PACKAGE.parent / name, tmp_path / "code" / name, ignore=ignore)
    (tmp_path / "script.py").write_text(PROGRAMS[request.param])
    cells = [code('preset: str = "laptop"', tags=("parameters",)), code(CHAPTER)]
    write(tmp_path / "chapters/a.ipynb", text("# A"), *cells)
    options = ["a", "--into", "out", "--minutes", "0.1"] if request.param == "pieces" else []

    def start(mark):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code"), "OMP_NUM_THREADS": "1", MARK: mark}
        return subprocess.Popen(
            [sys.executable, "script.py", *options],
            cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=open(tmp_path / "said", "ab"),
        )  # fmt: skip

    return start


def marked(mark):
    """The processes that are alive and bear the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it ended meanwhile, or is another's
            pass
    return found


def ended(mark):
    """Wait for all that bear the mark; what is left after the patience is killed, and named."""
    deadline = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    named = [" ".join(process.cmdline())[:200] for process in left]
    for process in left:
        process.kill()
    return named


def test_killed_at_any_moment_it_leaves_nothing_and_goes_on_to_the_same_bits(program, tmp_path):
    """Only the process itself is killed: what it started has to notice."""
    begun = time.monotonic()
    assert program("whole").wait(600) == 0, (tmp_path / "said").read_text()
    took, expected = time.monotonic() - begun, (tmp_path / "result").read_bytes()
    assert ended("whole") == []
    rng, killed, runs = random.Random(0), 0, 0
    while True:
        runs += 1
        process = program(str(runs))
        try:
            process.wait(rng.uniform(0, took) if killed < KILLS else 600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            assert ended(str(runs)) == [], f"after kill {killed}"
            continue
        assert process.returncode == 0, (tmp_path / "said").read_text()
        assert (tmp_path / "result").read_bytes() == expected, f"after kill {killed}"
        if killed >= KILLS:
            break
        shutil.rmtree(tmp_path / "store")  # it had come to its end: from the start once more
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "result").unlink()
    print(f"{killed} kills, {runs} runs, {took:.1f} s a whole one")
