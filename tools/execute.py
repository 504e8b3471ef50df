"""Execute the chapters, and the ledger after them.

python -m tools.execute --into DIR [--preset P] [NAME …]    copies for the book; unchanged ones are skipped
python -m tools.execute --in-place [NAME …]                 the notebooks themselves, for authors

A notebook that fails does not cost the copies of the others: the committed one stands in for its copy
(tools/stand_in.py), and the next time it is tried again.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, current_process, get_context
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from lazylib.book import claims, ledger
from lazylib.runs import write
from lazylib.runs.sweeps import end_with
from tools.check import problems
from tools.clean import clean
from tools.pages import LEDGER, ROOT, notebooks
from tools.stand_in import stand_in

CODE = (
    "lazylib/**/*.py",
    "chapters/claims.toml",
    "results/**/*",
    "requirements.lock",
)  # all that a chapter reads
RECORDS = ROOT / "results" / "ledger"  # what chapters write and the ledger page reads
INTERRUPTED = 130  # the exit status after Ctrl-C, as shells have it


class ChapterFailed(Exception):
    """A chapter stopped with an error; the message names it and gives the error's own sentence, `reason`."""

    def __init__(self, notebook: Path, reason: str, *more: str) -> None:
        lines = reason.splitlines()
        self.reason = textwrap.shorten(lines[0], 300, placeholder=" …")
        super().__init__("\n".join([f"{notebook.name} failed: {self.reason}", *lines[1:], *more]))


class Done(NamedTuple):
    """What became of the notebooks, by name; of those that failed the reason."""

    executed: list[str]
    unchanged: list[str]
    failed: dict[str, str]

    def __str__(self) -> str:
        failed = "; ".join(f"{name} ({reason})" for name, reason in self.failed.items())
        counts = f"{len(self.executed)} executed, {len(self.unchanged)} unchanged, {len(self.failed)} failed"
        return f"{counts}: {failed}" if failed else counts


def fingerprint(notebook: Path, preset: str, records: Path | None) -> str:
    """A hash of everything the result of executing `notebook` depends on; outputs that it holds do not count.

    records: the folder of ledger records that the ledger page shows; None for a chapter, whose top line shows those of
        larger runs of its claims, unless it is such a run.
    """
    content = nbformat.read(notebook, as_version=4)
    parts = [
        preset,
        sys.version,
        *(f"{cell.cell_type} {cell.metadata} {cell.source}" for cell in content.cells),
    ]
    files = [path for pattern in CODE for path in sorted(ROOT.glob(pattern)) if RECORDS not in path.parents]
    if records:
        files += sorted({*RECORDS.rglob("*.json"), *records.rglob("*.json")})
    elif preset not in ledger.LARGER:
        own = [claim["id"] for claim in claims.claims().values() if claim["chapter"] == notebook.stem]
        files += [RECORDS / label / f"{id}.json" for label in ledger.LARGER for id in own]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in files:
        if path.is_file():
            digest.update(f"\0{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class PeakMemory:
    """The largest resident memory, in MiB, of this process's children together in the `with` block: `mib`.

    And the least that the machine had free meanwhile: `free`.
    """

    def __enter__(self) -> "PeakMemory":
        self.mib, self.free = 0.0, psutil.virtual_memory().available / 2**20
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._watch.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.25):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it ended meanwhile
                    pass
            self.mib = max(self.mib, total / 2**20)
            self.free = min(self.free, psutil.virtual_memory().available / 2**20)


def execute(notebook: Path, output: Path, preset: str | None = None) -> dict[str, float]:
    """Execute `notebook` into `output`, which appears only if all went well; returns seconds and MiB.

    preset: passed as the chapter's parameter; None leaves the chapter's own.
    Raises ChapterFailed; what was executed until then is beside `output`, with `.failed` in its name.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".failed.ipynb")
    alone = current_process().name == "MainProcess"  # the bars of several would write over each other
    start = time.monotonic()
    with PeakMemory() as peak:
        try:
            papermill.execute_notebook(
                notebook,
                unfinished,
                parameters={} if preset is None else {"preset": preset},
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar={"desc": notebook.stem} if alone else False,
                extra_arguments=["--IPKernelApp.log_level=50"],  # nothing shall break the bar, nor Ctrl-C
            )
        except PapermillExecutionError as error:
            reason = f"{error.ename}: {error.evalue}".removesuffix(": ")
            until = f"What was executed until then is in {unfinished}"
            raise ChapterFailed(notebook, reason, until) from None
        except RuntimeError as error:  # nbclient's DeadKernelError, or jupyter_client's of a kernel's start
            raise ChapterFailed(
                notebook,
                f"{error}, which happens where memory runs out: it held at most {peak.mib:.0f} MiB, "
                f"and at least {peak.free:.0f} MiB were free.",
            ) from None
    cost = {"seconds": round(time.monotonic() - start, 1), "peak_mib": round(peak.mib)}
    nbformat.write(clean(nbformat.read(unfinished, as_version=4)), unfinished)
    faults = problems(unfinished)
    if faults:
        raise ChapterFailed(notebook, f"it is not fit for a page: {faults[0]}", *faults[1:])
    os.replace(unfinished, output)
    return cost


def execute_changed(chosen: list[Path], into: Path, preset: str, records: Path, root: Path = ROOT) -> Done:
    """Execute those of the `chosen` notebooks whose result in `into` is missing or out of date.

    Those of small presets run `side_by_side`, because sweeps alone do not fill the cores; the sweeps of one alone take
    them. The ledger comes last. For one that fails the committed notebook stands in, and the others go on.
    """
    done, most = Done([], [], {}), side_by_side()
    given = None if preset == "laptop" else preset

    def task(notebook: Path) -> "_Task":
        shown = records if notebook == root / f"{LEDGER}.ipynb" else None
        return _Task(notebook, into / notebook.relative_to(root), preset, given, shown)

    def finish(task: "_Task", state: dict | None, reason: str) -> None:
        name = task.notebook.stem
        if state is None:
            done.failed[name] = reason
            return not_executed(task.notebook, task.output, reason, records)
        new = {**state, "cifar10": has_cifar10(task.notebook), "page": _page(task.output)}
        write(_state(task.output), lambda file: file.write_text(json.dumps(new), encoding="utf-8"))
        done.executed.append(name)

    last = [notebook for notebook in chosen if notebook == root / f"{LEDGER}.ipynb"]  # it shows what the others found
    for part in ([notebook for notebook in chosen if notebook not in last], last):
        changed = []
        for each in map(task, part):
            state = state_of(each.output)
            if (state.get("fingerprint"), state.get("cifar10")) == (each.key(), has_cifar10(each.notebook)):
                print(f"{each.notebook.stem}: unchanged since it was executed", flush=True)
                done.unchanged.append(each.notebook.stem)
            else:
                changed.append(each)
        jobs = 1 if preset in ledger.LARGER else min(most, len(changed))
        left = changed if jobs < 2 else _attempt_side_by_side(changed, jobs, max(1, most // jobs), finish)
        for each in left:
            finish(each, *_attempt(each))
    return done


class _Task(NamedTuple):
    """A notebook to execute."""

    notebook: Path
    output: Path
    preset: str
    given: str | None  # the preset as a parameter, where it is not the notebook's own
    records: Path | None  # see `fingerprint`

    def key(self) -> str:
        return fingerprint(self.notebook, self.preset, self.records)


def side_by_side() -> int:
    """How many chapters to execute at a time: LAZYLIB_JOBS, 1 if that is not set. Raises ValueError for nonsense."""
    given = os.environ.get("LAZYLIB_JOBS") or "1"
    if given == "-1":
        return os.cpu_count() or 1
    if not (given.isdecimal() and int(given)):
        raise ValueError(f"LAZYLIB_JOBS must be a number of processes, 1 or more, or -1 for one a core, got {given!r}")
    return int(given)


def _attempt(task: _Task) -> tuple[dict | None, str]:
    """The state of a notebook that was executed, or None and why it failed; says what it costs, or why it failed."""
    print(f"{task.notebook.stem} …", flush=True)
    _state(task.output).unlink(missing_ok=True)
    key = task.key()  # of what is executed now
    try:
        cost = execute(task.notebook, task.output, task.given)
    except ChapterFailed as error:
        print(error, file=sys.stderr, flush=True)
        return None, error.reason
    print(f"{task.notebook.stem}: {cost['seconds']} s, {cost['peak_mib']} MiB at most", flush=True)
    return {"fingerprint": key, "preset": task.preset, **cost}, ""


def _attempt_side_by_side(tasks: list[_Task], jobs: int, own: int, finish: Callable) -> list[_Task]:
    """Attempt the tasks in as many processes, with `own` processes each for sweeps; returns those that came to no end,
    because one of these processes was killed."""
    left = list(tasks)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _beside_others, (own, os.getpid())) as pool:
        try:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process, not for those it starts
            running = {pool.submit(_attempt_in_a_thread, task): task for task in tasks}
            signal.signal(signal.SIGINT, before)
            for future in as_completed(running):
                with contextlib.suppress(BrokenProcessPool):
                    finish(running[future], *future.result())
                    left.remove(running[future])
        except BaseException:
            _end_now(pool)
            raise
    return left


def _beside_others(own: int, parent: int) -> None:
    """In a process that executes a chapter beside others."""
    os.environ["LAZYLIB_JOBS"] = str(own)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def _attempt_in_a_thread(task: _Task) -> tuple[dict | None, str]:
    """As `_attempt`; in the main thread nbclient would take the signals for itself."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_attempt, task).result()


def _end_now(pool: ProcessPoolExecutor) -> None:
    """End the processes of the pool and their kernels, whatever else is pressed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in active_children():
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    each.kill()
        process.kill()


def not_executed(notebook: Path, output: Path, reason: str, records: Path) -> None:
    """Let the committed `notebook` stand in at `output`, and remove what earlier runs recorded of its claims.

    The committed records, of larger runs, stay.
    """
    _state(output).unlink(missing_ok=True)  # so that it is executed the next time
    stand_in(notebook, output, reason)
    for claim in claims.claims().values():
        if claim["chapter"] == notebook.stem and records.resolve() != RECORDS:
            for record in records.glob(f"*/{claim['id']}.json"):
                record.unlink()


def state_of(output: Path) -> dict:
    """What is known of the execution that gave `output`; nothing if none came to its end, or its page is damaged."""
    try:
        state = json.loads(_state(output).read_text(encoding="utf-8"))
        return state if isinstance(state, dict) and state.get("page") == _page(output) else {}
    except (OSError, ValueError):  # there is none, or it is damaged
        return {}


def cost_of(output: Path) -> dict | None:
    """Seconds, MiB and preset of the execution that gave `output`; None where they are not known."""
    state = state_of(output)
    known = all(isinstance(state.get(name), (int, float)) for name in ("seconds", "peak_mib"))
    return state if known and isinstance(state.get("preset"), str) else None


def _page(output: Path) -> str:
    return hashlib.sha256(output.read_bytes()).hexdigest()


def _state(output: Path) -> Path:
    return output.with_suffix(".json")


def has_cifar10(notebook: Path) -> bool:
    """Whether the notebook asks for CIFAR-10 and it is there; else another set may have taken its place."""
    content = nbformat.read(notebook, as_version=4)
    if not any("cifar10" in cell.source for cell in content.cells if cell.cell_type == "code"):
        return False
    from lazylib.problems import images  # takes seconds

    return images.where("cifar10") is not None


def choose(names: list[str], root: Path = ROOT) -> list[Path]:
    """The notebooks of these names, or all, in order of execution. Raises ValueError for an unknown name."""
    known = {path.stem: path for path in notebooks(root)}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no such chapter: {', '.join(unknown)}; there are {', '.join(known)}")
    return [path for name, path in known.items() if not names or name in names]


def interrupted(so: str) -> int:
    """Say what follows from Ctrl-C, and nothing else; returns the exit status."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it would report the cell that was cut off
    print(f"\nInterrupted: {so}", file=sys.stderr)
    return INTERRUPTED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters to execute, e.g. 03_tau_plateau; default: all"
    )
    parser.add_argument("--into", type=Path, help="folder for the executed copies")
    parser.add_argument("--in-place", action="store_true", help="put the outputs into the notebooks themselves")
    parser.add_argument("--preset", default="laptop", help="smoke, laptop (default) or paper")
    given = parser.parse_args()
    if given.in_place == bool(given.into):
        parser.error("give either --into DIR or --in-place")
    try:
        chosen = choose(given.names)
        side_by_side()  # refuses nonsense before work
    except ValueError as error:
        parser.error(str(error))
    try:
        if given.into:
            records = Path(os.environ.get("LAZYLIB_LEDGER", RECORDS))
            done = execute_changed(chosen, given.into.resolve(), given.preset, records)
            print(done)
            return 1 if done.failed else 0
        for notebook in chosen:
            execute(notebook, notebook)
    except ChapterFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted("what was executed stays.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
