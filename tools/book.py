"""The book, whatever happens: what is there, the chapters that changed, the pages, and what became of it all.

python -m tools.book [--preset P] [NAME …]    pages land in _build/html

A chapter that fails, or is not among the names, shows its committed outputs and says so; the ledger does too.
"""

import argparse
import os
import sys
from pathlib import Path

from tools.build import address, make
from tools.execute import choose, execute_changed, interrupted, not_executed, state_of
from tools.pages import LEDGER, ROOT, notebooks
from tools.ready import ready

PRESETS = ("smoke", "laptop", "paper")


def book(chosen: list[Path], preset: str, out: Path, root: Path) -> int:
    """Execute the chosen notebooks and the ledger, build all pages, say in one line what became of it."""
    records = Path(os.environ["LAZYLIB_LEDGER"])
    for notebook in notebooks(root):
        output = out / "executed" / notebook.relative_to(root)
        if notebook not in chosen and not state_of(output):
            not_executed(notebook, output, "not among the chapters that were asked for", records)
    done = execute_changed(chosen, out / "executed", preset, records, root)
    status = make(out / "executed", out, root)
    print(f"The book was not built, see above; {done}" if status else f"The book: {address(out)}; {done}")
    return status or int(bool(done.failed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters to execute, e.g. 03_tau_plateau; default: all"
    )
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="default: laptop")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _toc.yml; default: this project")
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder for the result")
    given = parser.parse_args()
    out, root = given.out.resolve(), given.root.resolve()
    try:
        chosen = choose(given.names, root)
    except ValueError as error:
        parser.error(str(error))
    ledger = [path for path in notebooks(root) if path == root / f"{LEDGER}.ipynb" and path not in chosen]
    os.environ.setdefault("LAZYLIB_LEDGER", str(out / "ledger"))
    try:
        return book(chosen + ledger, given.preset, out, root) if ready("book") else 1
    except KeyboardInterrupt:
        return interrupted("`make book` goes on where it was.")


if __name__ == "__main__":
    sys.exit(main())
