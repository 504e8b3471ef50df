"""Execute the chapters, and the ledger after them.

python -m tools.execute --into DIR [--preset P] [NAME …]    copies for the book; unchanged ones are skipped
python -m tools.execute --in-place [NAME …]                 the notebooks themselves, for authors
"""

import argparse
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.exceptions import PapermillExecutionError

from tools.check import problems
from tools.clean import clean
from tools.pages import LEDGER, ROOT, notebooks

CODE = (
    "lazylib/**/*.py",
    "chapters/claims.toml",
    "results/**/*",
    "requirements.txt",
)  # all that a chapter reads
RECORDS = ROOT / "results" / "ledger"  # what chapters write and the ledger page reads


class ChapterFailed(Exception):
    """A chapter stopped with an error; the message names it and gives the error's own sentence."""


def fingerprint(notebook: Path, preset: str, records: Path | None) -> str:
    """A hash of everything the result of executing `notebook` depends on; outputs that it holds do not count.

    records: the folder of ledger records that the ledger page shows; None for a chapter.
    """
    content = nbformat.read(notebook, as_version=4)
    parts = [
        preset,
        sys.version,
        *(f"{cell.cell_type} {cell.metadata} {cell.source}" for cell in content.cells),
    ]
    files = [path for pattern in CODE for path in sorted(ROOT.glob(pattern)) if RECORDS not in path.parents]
    files += sorted({*RECORDS.rglob("*.json"), *records.rglob("*.json")}) if records else []
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in files:
        if path.is_file():
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class PeakMemory:
    """The largest resident memory, in MiB, of this process's children together in the `with` block."""

    def __enter__(self) -> "PeakMemory":
        self.mib = 0.0
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
                extra_arguments=["--IPKernelApp.log_level=40"],  # errors only: nothing shall break the bar
            )
        except PapermillExecutionError as error:
            raise ChapterFailed(
                f"{notebook.name} failed with {error.ename}: {error.evalue}\n"
                f"What was executed until then is in {unfinished}"
            ) from None
    cost = {"seconds": round(time.monotonic() - start, 1), "peak_mib": round(peak.mib)}
    nbformat.write(clean(nbformat.read(unfinished, as_version=4)), unfinished)
    faults = problems(unfinished)
    if faults:
        raise ChapterFailed("\n".join(["The executed notebook is not fit for a page:", *faults]))
    os.replace(unfinished, output)
    return cost


def execute_changed(chosen: list[Path], into: Path, preset: str, records: Path) -> None:
    """Execute those of the `chosen` notebooks whose result in `into` is missing or out of date."""
    for number, notebook in enumerate(chosen, start=1):
        is_ledger = notebook == ROOT / f"{LEDGER}.ipynb"
        output = into / notebook.relative_to(ROOT)
        state = output.with_suffix(".json")
        key = fingerprint(notebook, preset, records if is_ledger else None)
        if output.exists() and state.exists() and json.loads(state.read_text())["fingerprint"] == key:
            print(f"[{number}/{len(chosen)}] {notebook.name}: unchanged since it was executed", flush=True)
            continue
        print(f"[{number}/{len(chosen)}] {notebook.name}", flush=True)
        state.unlink(missing_ok=True)
        cost = execute(notebook, output, None if preset == "laptop" else preset)
        state.write_text(json.dumps({"fingerprint": key, "preset": preset, **cost}))
        print(f"    {cost['seconds']} s, {cost['peak_mib']} MiB at most", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters to execute, e.g. 03_tau_plateau; default: all"
    )
    parser.add_argument("--into", type=Path, help="folder for the executed copies")
    parser.add_argument(
        "--in-place", action="store_true", help="put the outputs into the notebooks themselves"
    )
    parser.add_argument("--preset", default="laptop", help="smoke, laptop (default) or paper")
    given = parser.parse_args()
    if given.in_place == bool(given.into):
        parser.error("give either --into DIR or --in-place")
    chosen = [path for path in notebooks() if not given.names or path.stem in given.names]
    unknown = set(given.names) - {path.stem for path in chosen}
    if unknown:
        parser.error(
            f"no such chapter: {', '.join(sorted(unknown))}; there are {[path.stem for path in notebooks()]}"
        )
    try:
        if given.into:
            records = Path(os.environ.get("LAZYLIB_LEDGER", RECORDS))
            execute_changed(chosen, given.into.resolve(), given.preset, records)
        else:
            for notebook in chosen:
                execute(notebook, notebook)
    except ChapterFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
