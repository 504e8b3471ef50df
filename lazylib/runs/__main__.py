"""One notebook as many jobs: plan them, run them wherever there is room, collect the executed notebook.

    python -m lazylib.runs plan NOTEBOOK DIR [-p NAME VALUE]... [--jobs N]
    python -m lazylib.runs run DIR [--index K]      a job; all are alike, and share the cells of the notebook's sweeps
    python -m lazylib.runs status DIR               what is done, and by whom
    python -m lazylib.runs collect DIR              execute it once more, from the cells: DIR/executed.ipynb

DIR is on a disk that all jobs see. A job that is killed loses the cell that it was at; started again, also under
another index, it goes on. With LAZYLIB_MINUTES it pauses and ends with 75. `plan` writes an array job for Slurm and
an indexed one for Kubernetes beside the plan, to adapt and to submit.
"""

import argparse
import json
import os
import shlex
import shutil
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from .files import source_digest, write

MORE = 75  # os.EX_TEMPFAIL, which Windows has not
PAUSED = "Paused: "  # how the error of a notebook begins that goes on when it is run again
SLURM = """#!/bin/bash
#SBATCH --job-name=lazylib
#SBATCH --array=0-{last}
#SBATCH --requeue
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --open-mode=append
#SBATCH --output="{log}/job-%a.log"
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK LAZYLIB_MINUTES=50  # below the time above
{python} -m lazylib.runs run {folder} --index $SLURM_ARRAY_TASK_ID
status=$?
[ $status = {more} ] && scontrol requeue ${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
exit $status
"""
KUBERNETES = """apiVersion: batch/v1
kind: Job
metadata: {{name: lazylib}}
spec:
  completions: {jobs}
  parallelism: {jobs}
  completionMode: Indexed
  backoffLimit: {retries}
  template:
    spec:
      restartPolicy: OnFailure
      containers:
        - name: job
          image: IMAGE  # with lazylib and its extra `notebook`
          command: [python, -m, lazylib.runs, run, "{folder}"]
          env: [{{name: OMP_NUM_THREADS, value: "1"}}]
          resources: {{requests: {{cpu: "1", memory: 4Gi}}}}
          volumeMounts: [{{name: disk, mountPath: "{parent}"}}]
      volumes:
        - {{name: disk, persistentVolumeClaim: {{claimName: CLAIM}}}}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m lazylib.runs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="plan|run|status|collect")
    planned = commands.add_parser("plan")
    planned.add_argument("notebook", type=Path, metavar="NOTEBOOK")
    planned.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    planned.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="VALUE as YAML")
    planned.add_argument("--jobs", type=int, default=8, help="jobs of the array (default: 8)")
    planned.set_defaults(do=lambda given: plan(given.notebook, given.folder, dict(given.p), given.jobs))
    for do in (run, status, collect):
        command = commands.add_parser(do.__name__)
        command.add_argument("folder", type=Path, metavar="DIR", help="that of the plan")
        command.set_defaults(do=lambda given, do=do: do(given.folder))
        if do is run:
            index = os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get("JOB_COMPLETION_INDEX") or 0
            command.add_argument("--index", type=int, default=index, help="of the job, by default the scheduler's")
            command.set_defaults(do=lambda given: run(given.folder, given.index))
    given = parser.parse_args(arguments)
    try:
        return given.do(given)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")


def plan(notebook: Path, folder: Path, parameters: dict[str, str], jobs: int) -> int:
    """Write what the jobs need into a new folder; ValueError where the notebook, a parameter or the folder is none."""
    import papermill
    import yaml

    if notebook.suffix != ".ipynb" or not notebook.is_file():
        raise ValueError(f"NOTEBOOK must be a notebook, and there is none at {notebook}.")
    if folder.exists():
        raise ValueError(f"DIR must be a new folder, and {folder} exists.")
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, not {jobs}.")
    known = papermill.inspect_notebook(notebook)
    for name in parameters:
        if name not in known:
            raise ValueError(f"{name} is not a parameter of {notebook.name}: allowed are {', '.join(known)}.")
    try:
        values = {name: yaml.safe_load(value) for name, value in parameters.items()}
    except yaml.YAMLError as error:
        raise ValueError(f"-p takes a VALUE that is YAML: {' '.join(str(error).split())}.") from None
    folder = folder.absolute()
    made: dict[str, Any] = {"cwd": str(notebook.absolute().parent), "parameters": values, "jobs": jobs}
    made |= {"lazylib": source_digest().hex(), "python": sys.executable}
    names = {
        "folder": folder,
        "log": str(folder).replace("%", "%%"),
        "parent": folder.parent,
        "last": jobs - 1,
        "jobs": jobs,
        "retries": 20 * jobs,
    }
    for part in ("cells", "sweeps", "jobs"):
        (folder / part).mkdir(parents=True)
    shutil.copy(notebook, folder / "notebook.ipynb")
    (folder / "array.sbatch").write_text(
        SLURM.format(**names | {"folder": shlex.quote(str(folder))}, python=shlex.quote(sys.executable), more=MORE)
    )
    (folder / "job.yaml").write_text(KUBERNETES.format(**names))
    write(folder / "plan.json", lambda file: file.write_text(json.dumps(made, indent=1)))
    print(
        f"planned in {folder}; submit {jobs} jobs by array.sbatch or job.yaml, or start as many as you like of\n"
        f"    python -m lazylib.runs run {folder} --index 0\nthen: status {folder}, collect {folder}"
    )
    return 0


def run(folder: Path, index: int = 0) -> int:
    """Execute the notebook for its cells; what else it makes goes to the job's own folder. 0, 75 if paused, 1."""
    own = folder.absolute() / "jobs" / str(index)
    aside = {"LAZYLIB_LEDGER": str(own / "ledger"), "LAZYLIB_RESULTS": str(own / "results")}
    _say(own, "running")
    state, reason = _execute(folder, own / "executed.ipynb", aside)
    _say(own, state, reason)
    print(f"job {index}: {state}{f': {reason}' if reason else ''}")
    return {"done": 0, "paused": MORE}.get(state, 1)


def collect(folder: Path) -> int:
    """Execute the notebook once more; all cells that are done come from the store. 0, 75 if paused, 1."""
    output = folder.absolute() / "executed.ipynb"
    state, reason = _execute(folder, output, {})
    print(f"executed: {output}" if state == "done" else f"{state}: {reason}")
    return {"done": 0, "paused": MORE}.get(state, 1)


def status(folder: Path) -> int:
    """Print of each sweep that a job has come to how many cells are done, and what each job does. 0 if all is done."""
    _planned(folder)
    have = {path.name.partition("-")[0] for path in (folder / "cells").glob("*-*.nc")}
    for file in sorted((folder / "sweeps").glob("*.json")):
        found = json.loads(file.read_text())
        print(f"{found['sweep']}: {len(have & set(found['cells']))} of {len(found['cells'])} cells")
    states = []
    for file in sorted((folder / "jobs").glob("*/state.json"), key=lambda file: int(file.parent.name)):
        said = json.loads(file.read_text())
        here = said["host"] == socket.gethostname() and not psutil.pid_exists(said["pid"])
        states.append("killed" if said["state"] == "running" and here else said["state"])
        print(f"job {file.parent.name}: {states[-1]} on {said['host']}, {said['since']}{said['reason']}")
    return 0 if "done" in states else MORE


def _planned(folder: Path) -> dict[str, Any]:
    """What was planned; ValueError where nothing was."""
    try:
        return json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"DIR must be a folder that `plan` made, and {folder} has no plan.json.") from None


def _execute(folder: Path, output: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Execute the planned notebook into `output`: done, paused or failed, and why."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    planned, folder = _planned(folder), folder.absolute()
    if planned["lazylib"] != source_digest().hex():
        raise ValueError("lazylib is another one than that of the plan, and would not find its cells: plan again.")
    os.environ |= {"LAZYLIB_STORE": str(folder / "cells"), "LAZYLIB_PLAN": str(folder / "sweeps"), **environment}
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            folder / "notebook.ipynb", output, planned["parameters"], cwd=planned["cwd"], progress_bar=False,
            kernel_name="python3", log_output=False, extra_arguments=["--IPKernelApp.log_level=50"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".partition("\n")[0][:300]
        return ("paused", reason.removeprefix(PAUSED)) if reason.startswith(PAUSED) else ("failed", reason)
    return "done", ""


def _say(own: Path, state: str, reason: str = "") -> None:
    said = {"state": state, "host": socket.gethostname(), "pid": os.getpid(), "reason": f": {reason}" if reason else ""}
    said["since"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    write(own / "state.json", lambda file: file.write_text(json.dumps(said)))


if __name__ == "__main__":
    sys.exit(main())
