"""Build the book's pages from executed notebooks; any warning fails.

python -m tools.build --notebooks DIR --out DIR      pages land in OUT/html
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.check import problems
from tools.pages import ROOT, notebooks, pages

BESIDE = (
    "_config.yml",
    "_toc.yml",
    "references.bib",
    "favicon.svg",
    "_extra",
)  # not pages, but needed for them


def stage(executed: Path, into: Path, root: Path = ROOT) -> list[str]:
    """Gather the book's sources in `into`, notebooks from the folder `executed`; returns their faults.

    `executed` is laid out as the book itself (executed/chapters/…).
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name in BESIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, into / name)
        elif (root / name).exists():
            shutil.copy2(root / name, into / name)
    faults = []
    names = {path.relative_to(root) for path in notebooks(root)}
    for page in pages(root):
        name = Path(f"{page}.ipynb")
        is_notebook = name in names
        source = executed / name if is_notebook else root / f"{page}.md"
        name = name if is_notebook else Path(f"{page}.md")
        if not source.exists():
            faults.append(f"{name} has not been executed: {source} does not exist")
            continue
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, into / name)
        faults += problems(source) if is_notebook else []
    return faults


def build(source: Path, out: Path) -> int:
    """Turn `source` into `out`/html; returns the builder's exit status, not 0 after any warning."""
    work = source.parent / "pages"
    shutil.rmtree(work, ignore_errors=True)  # so that a page which is gone does not stay
    # Its warnings come on stderr. On stdout it names the folder `work`, where the pages do not stay.
    status = subprocess.run(
        [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build",
         "-W", "-n", "--keep-going", "--all", "--quiet", "--path-output", str(work), str(source)],
        stdout=subprocess.DEVNULL,
    ).returncode  # fmt: skip
    if status:
        return status
    shutil.rmtree(out / "html", ignore_errors=True)
    shutil.move(work / "_build" / "html", out / "html")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--notebooks", type=Path, required=True, help="folder of the executed notebooks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _toc.yml; default: this project")
    given = parser.parse_args()
    out = given.out.resolve()
    faults = stage(given.notebooks.resolve(), out / "source", given.root.resolve())
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    status = build(out / "source", out)
    if status == 0:
        print(f"The book: {(out / 'html' / 'index.html').as_uri()}")
    return status


if __name__ == "__main__":
    sys.exit(main())
