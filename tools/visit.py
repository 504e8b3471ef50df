"""Use a machine that is there for minutes: jobs in order of worth, in a time budget, with results to take along.

python -m tools.visit --seconds S --into DIR [--jobs FILE]

Each job is a process of its own. It gets the time that is left, pauses by itself when that is up, and is killed, with
all that it started, if it does not; what it had reached stays in DIR, and the next visit with that DIR goes on there:

DIR/cells      finished cells of sweeps and checkpoints of trainings
DIR/results    what chapters kept in results/ meanwhile
DIR/ledger     the records of their claims
DIR/logs       what the jobs printed
DIR/visit.json each job's state, seconds and last line, and the device

Exits with 0 when all jobs are done, 75 if some are left, 1 if one failed.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lazylib.book.provenance import provenance
from lazylib.runs import write

ROOT = Path(__file__).resolve().parent.parent
MORE = 75  # os.EX_TEMPFAIL, which Windows has not
SPARE = 10.0  # seconds that a job is asked to end before its time is up, to write what it has
DONE, LEFT, FAILED = "done", "left", "failed"


def jobs(path: Path) -> list[dict[str, Any]]:
    """The jobs of a file such as visit.toml; ValueError for one that could not run."""
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("job", [])
    for job in found:
        missing = {"name", "module", "least"} - job.keys()
        if missing:
            raise ValueError(f"a job of {path.name} must have {', '.join(sorted(missing))}: {job}.")
        if "chapter" in job and not (ROOT / "chapters" / f"{job['chapter']}.ipynb").exists():
            raise ValueError(f"the job {job['name']!r} must name a chapter, not {job['chapter']!r}.")
    if len({job["name"] for job in found}) < len(found) or not found:
        raise ValueError(f"{path.name} must have jobs, each with a name of its own.")
    return found


def command(job: dict[str, Any]) -> list[str]:
    chapter = [job["chapter"], "--preset", job.get("preset", "paper")] if "chapter" in job else []
    return [sys.executable, "-m", job["module"], *chapter, *shlex.split(job.get("options", ""))]


def run(job: dict[str, Any], into: Path, seconds: float) -> tuple[str, str]:
    """Run one job for so long at most; its state and the last line that it printed."""
    paths, begun = {"LAZYLIB_STORE": into / "cells", "LAZYLIB_LEDGER": into / "ledger"}, time.time()
    minutes = max(seconds - 2 * SPARE, 1.0) / 60
    environment = os.environ | {name: str(path) for name, path in paths.items()}
    environment |= {
        "LAZYLIB_MINUTES": str(minutes),
        "LAZYLIB_JOBS": str(job.get("at_once", 1)),
        "PYTHONUNBUFFERED": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    log = into / "logs" / f"{job['name'].replace('/', '-')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command(job), cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = _wait(process, log, seconds - SPARE)
        finally:
            _kill(process)
    for kept in (ROOT / "results").glob("*.nc"):
        if kept.stat().st_mtime >= begun:
            (into / "results").mkdir(exist_ok=True)
            shutil.copy2(kept, into / "results")
    lines = [line for line in _lines(log) if line.strip()]
    last = lines[-1].strip()[-200:] if lines else ""
    return {0: DONE, MORE: LEFT, None: LEFT}.get(status, FAILED), last


def _wait(process: subprocess.Popen, log: Path, seconds: float) -> int | None:
    """Its exit status, None if it did not end in time; what it prints is shown as it comes."""
    end, shown = time.monotonic() + seconds, 0
    while True:
        status = process.poll()
        lines = _lines(log)
        for line in lines[shown:]:
            print(f"    {line.rstrip()[-150:]}", flush=True)
        shown = len(lines)
        if status is not None:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.2)


def _lines(log: Path) -> list[str]:
    """Whole lines; a bar that is drawn over and over counts by what it showed last."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.rsplit("\r", 1)[-1] for line in text[: text.rfind("\n") + 1].split("\n")[:-1]]


def _kill(process: subprocess.Popen) -> None:
    """The process, and what it started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def visit(wanted: list[dict[str, Any]], into: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Run the jobs that are not done; yields the state of each, which is on disk before."""
    end, file = time.monotonic() + seconds, into / "visit.json"
    into.mkdir(parents=True, exist_ok=True)
    states = _states(file)
    for job in wanted:
        left, name = end - time.monotonic(), job["name"]
        state = states.get(name, {"state": LEFT, "seconds": 0.0, "said": ""})
        if state["state"] != DONE:
            if left < job["least"]:
                state = {**state, "said": f"not begun: {max(left, 0):.0f} s were left, it asks for {job['least']}"}
            else:
                print(f"{name} ({left:.0f} s left)", flush=True)
                begun = time.monotonic()
                found, said = run(job, into, left)
                took = state["seconds"] + time.monotonic() - begun
                state = {"state": found, "seconds": round(took, 1), "said": said}
        states[name] = state
        where = provenance("cuda" if _has_gpu() else "cpu")
        content = json.dumps(
            {"device": where["device"], "date": where["date"], "jobs": states}, indent=1, ensure_ascii=False
        )
        write(file, lambda path, content=content: path.write_text(content, encoding="utf-8"))
        yield {"name": name, **state}


def _states(file: Path) -> dict[str, Any]:
    """What earlier visits reached; nothing where there was none, or its file is damaged."""
    try:
        states = json.loads(file.read_text(encoding="utf-8"))["jobs"]
        return {name: state for name, state in states.items() if {"state", "seconds", "said"} <= state.keys()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, required=True, help="all jobs together; less than the machine's own limit"
    )
    parser.add_argument("--into", type=Path, required=True, help="folder of results, that of an earlier visit to go on")
    parser.add_argument("--jobs", type=Path, default=ROOT / "tools" / "visit.toml", help="default: tools/visit.toml")
    given = parser.parse_args()
    if not (math.isfinite(given.seconds) and given.seconds > 0):
        parser.error(f"seconds must be positive, not {given.seconds}")
    try:
        wanted = jobs(given.jobs)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    states = []
    for state in visit(wanted, given.into.resolve(), given.seconds):
        states.append(state["state"])
        print(f"{state['state']}: {state['name']}, {state['seconds']:.0f} s: {state['said']}", flush=True)
    return 1 if FAILED in states else MORE if LEFT in states else 0


if __name__ == "__main__":
    sys.exit(main())
