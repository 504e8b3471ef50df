"""Execute the chapters, and the ledger after them.

python -m tools.execute --into DIR [--preset P] [NAME …]    copies for the book; unchanged ones are skipped
python -m tools.execute --in-place [NAME …]                 the notebooks themselves, for authors

A notebook that fails does not cost the copies of the others: the committed one stands in for its copy
(tools/stand_in.py), and the next time it is tried again.
"""

import argparse
import hashlib
import json
import logging
import os
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from lazylib.book import claims, ledger
from lazylib.runs import write
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
    start = time.monotonic()
    with PeakMemory() as peak:
        try:
            papermill.execute_notebook(
                notebook,
                unfinished,
                parameters={} if preset is None else {"preset": preset},
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar={"desc": notebook.stem},
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

    For one that fails the committed notebook stands in, and the others go on.
    """
    done = Done([], [], {})
    for number, notebook in enumerate(chosen, start=1):
        output = into / notebook.relative_to(root)
        key = fingerprint(notebook, preset, records if notebook == root / f"{LEDGER}.ipynb" else None)
        state = state_of(output)
        if (state.get("fingerprint"), state.get("cifar10")) == (key, has_cifar10(notebook)):
            print(f"[{number}/{len(chosen)}] {notebook.name}: unchanged since it was executed", flush=True)
            done.unchanged.append(notebook.stem)
            continue
        print(f"[{number}/{len(chosen)}] {notebook.name}", flush=True)
        _state(output).unlink(missing_ok=True)
        try:
            cost = execute(notebook, output, None if preset == "laptop" else preset)
        except ChapterFailed as error:
            print(error, file=sys.stderr, flush=True)
            done.failed[notebook.stem] = error.reason
            not_executed(notebook, output, error.reason, records)
            continue
        new = {"fingerprint": key, "cifar10": has_cifar10(notebook), "preset": preset, "page": _page(output), **cost}
        write(_state(output), lambda file, new=new: file.write_text(json.dumps(new), encoding="utf-8"))
        done.executed.append(notebook.stem)
        print(f"    {cost['seconds']} s, {cost['peak_mib']} MiB at most", flush=True)
    return done


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
