"""Build the book's pages from executed notebooks; any warning fails.

python -m tools.build --notebooks DIR --out DIR      pages land in OUT/html
"""

import argparse
import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

from lazylib.book.claims import VERDICTS
from lazylib.book.ledger import exported, table
from tools import api, crate, download, frames, lab, minute, tables, teaching, times
from tools.check import problems
from tools.mend import mend
from tools.pages import LEDGER, ROOT, notebooks, pages
from tools.stand_in import literal, under_title, why
from tools.vendor import NotFetched, vendor

BESIDE = ("_toc.yml", "references.bib", "favicon.svg", "picture.svg")  # not pages, but needed for them
STATIC = ROOT / "tools" / "static"
VENDOR = ROOT / "_build" / "vendor"
MARK = ".lazylib-build"  # in a folder whose parts may be removed
EXPORTED = (
    'All of this is also a file: <a href="../_data/ledger.json" download>ledger.json</a>. '
    "The digests of all data and notebooks of these pages are in "
    '<a href="../ro-crate-metadata.json" download>ro-crate-metadata.json</a>.'
)
# Whose scripts, styles and fonts the builder puts into _static.
PACKAGES = "sphinx pydata-sphinx-theme sphinx-book-theme sphinx-copybutton sphinx-design sphinx-togglebutton myst-nb"
OWN_MODEL = "chapters/13_your_model"
CLAIM = re.compile(rf"^([A-Z]\d+) (?:{'|'.join(VERDICTS)})", re.MULTILINE)  # a line of ledger.judge


def stage(executed: Path, into: Path, root: Path = ROOT) -> list[str]:
    """Gather the book's sources in `into`, notebooks from the folder `executed`; returns their faults.

    `executed` is laid out as the book itself (executed/chapters/…).  Raises NotFetched.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for name in BESIDE:
        if (root / name).exists():
            shutil.copy2(root / name, into / name)
    (into / "_config.yml").write_text(configuration(root / "_config.yml"), encoding="utf-8")
    (into / "_static").mkdir()
    for file in (
        STATIC / "book.css",
        STATIC / "book.js",
        lab.FOLDER / "lab.css",
    ):  # the builder adds them to every page
        shutil.copy2(file, into / "_static")
    for name, folder in vendor(VENDOR).items():
        shutil.copytree(folder, into / "_extra" / "vendor" / name)
    write_licences(into / "_extra" / "_static")
    write_made(into / "made", executed, root)
    made = {api.INDEX: api.index, "times": functools.partial(times.page, executed)}
    made |= {f"{api.PREFIX}{room}": functools.partial(api.page, room) for room in api.rooms(root)}
    names = {path.relative_to(root) for path in notebooks(root)}
    faults, boxes, questions, titles = [], minute.asked(root), teaching.asked(root), {}
    for page in pages(root):
        notebook, text = Path(f"{page}.ipynb"), Path(f"{page}.md")
        target = into / (notebook if notebook in names else text)
        target.parent.mkdir(parents=True, exist_ok=True)
        if notebook in names:
            if not (executed / notebook).exists():
                faults.append(f"{notebook} has not been executed: {executed / notebook} does not exist")
                continue
            faults += problems(executed / notebook)
            content = nbformat.read(executed / notebook, as_version=4)
            points = tables.points(content, into / minute.DATA)
            if page == LEDGER:
                content = with_gaps(content, executed, names)
                content.cells.append(nbformat.v4.new_markdown_cell(EXPORTED, id="exported"))
                (into / minute.DATA).mkdir(parents=True, exist_ok=True)
                try:
                    (into / minute.DATA / "ledger.json").write_text(exported(table()), encoding="utf-8")
                except ValueError as error:
                    faults.append(str(error))
            offer = into / download.OFFERED / notebook
            offer.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(content, offer)
            content = frames.plain(with_anchors(content), page, into / "_extra" / "_frames")
            titles[notebook.stem] = content.cells[0].source.splitlines()[0].removeprefix("# "), minute.times(content)
            if box := boxes.get(notebook.stem):
                content = minute.with_box(content, **box)
                if notebook.stem in questions:  # after the box, whose reading time is that of the chapter
                    content = teaching.with_questions(content, questions[notebook.stem]["questions"])
                data = tables.write(notebook.stem, root / "results", into / minute.DATA)
                content = minute.with_end(content, page, data, bool(points), root)
            nbformat.write(content, target)
        elif page in made and not (root / text).exists():
            target.write_text(made[page](), encoding="utf-8")
        else:
            shutil.copy2(root / text, target)
    if titles.keys() >= questions.keys():
        (into / "made" / "teaching.md").write_text(teaching.overview(root, titles), encoding="utf-8")
    return faults


def write_made(folder: Path, executed: Path, root: Path) -> None:
    """What pages include: the lab, whole and small, the ledger's result in one line, the way to one's own model."""
    folder.mkdir()
    (folder / "lab.html").write_text(lab.page(), encoding="utf-8")
    (folder / "lab_small.html").write_text(lab.page(small=True), encoding="utf-8")
    path, summary = executed / f"{LEDGER}.ipynb", ""
    if path.exists():
        outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
        found = (output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
        summary = next(found, "")
    line = f"**What came of it**: {summary} See {{doc}}`the ledger <{LEDGER}>`." if summary else ""
    (folder / "ledger.md").write_text(f"{line}\n", encoding="utf-8")
    where = f"see {{doc}}`{OWN_MODEL}`" if OWN_MODEL in pages(root) else "see [below](#your-own-model)"
    line = f"- **Measure your own model**: `lazylib` takes any torch module, {where}."
    (folder / "measure.md").write_text(f"{line}\n", encoding="utf-8")


def write_licences(static: Path) -> None:
    """The licence texts of what the builder puts into _static, which it leaves out."""
    fonts = static / "vendor" / "fontawesome"
    fonts.mkdir(parents=True)
    shutil.copy2(STATIC / "fontawesome-LICENSE.txt", fonts / "LICENSE.txt")  # of npm's package, version as the theme's
    texts = []
    for name in PACKAGES.split():
        files = importlib.metadata.files(name) or ()
        own = [file for file in files if re.search(r"\.dist-info/(.*/)?LICEN[CS]E[^/]*$", file.as_posix())]
        texts += [f"{name} {importlib.metadata.version(name)}\n\n{file.read_text('utf-8').strip()}\n" for file in own]
    (static / "LICENSES.txt").write_text(f"\n{'-' * 80}\n\n".join(texts), encoding="utf-8")


def configuration(path: Path) -> str:
    """_config.yml without launch buttons while the repository's address is not set: they would lead elsewhere."""
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not given.get("repository", {}).get("url"):
        given.pop("repository", None)
        given.pop("launch_buttons", None)
    return yaml.safe_dump(given, allow_unicode=True, sort_keys=False)


def with_anchors(notebook: NotebookNode) -> NotebookNode:
    """`notebook` with the anchor claim-<id> before the cell that checks a claim, for the ledger's links."""
    cells = []
    for cell in notebook.cells:
        printed = [output.text for output in cell.get("outputs", []) if output.output_type == "stream"]
        claims = CLAIM.findall("\n".join(printed))
        if claims:
            anchors = "".join(f'<span id="claim-{id}"></span>' for id in claims)
            cells.append(nbformat.v4.new_markdown_cell(anchors, id=f"anchors-{len(cells)}"))
        cells.append(cell)
    notebook.cells = cells
    return notebook


def with_gaps(ledger: NotebookNode, executed: Path, names: set[Path]) -> NotebookNode:
    """The ledger with a line under its title for each of the notebooks that was not executed; in place."""
    reasons = {name: reason for name in sorted(names) if (reason := why(executed / name))}
    lines = [f"- {{doc}}`/{name.with_suffix('')}`: {literal(reason)}" for name, reason in reasons.items()]
    first = "Not executed in this copy of the book, so that *live here* has nothing of their claims:"
    return under_title(ledger, "\n".join([":::{warning}", first, "", *lines, ":::"])) if lines else ledger


def make(executed: Path, out: Path, root: Path = ROOT) -> int:
    """Make `out`/html from the notebooks in `executed`, or print what is wrong; returns the exit status."""
    try:
        faults = stage(executed, out / "source", root)
    except NotFetched as error:
        faults = [str(error)]
    if faults:
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    status = build(out / "source", out)
    if status == 0:
        describe(out / "html")
    return status


def describe(site: Path) -> None:
    """Put an RO-Crate beside the pages: their data and the notebooks that they offer, with digests."""
    files = [*site.glob("_data/*"), *site.glob("_sources/**/*.ipynb"), site / "index.html"]
    title = crate.citation()["title"]
    crate.crate(site, title, "The pages of the book, with the ledger, stored results and notebooks.", files)


def address(out: Path) -> str:
    return (out / "html" / "index.html").as_uri()


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
    mend(work / "_build" / "html")
    shutil.rmtree(out / "html", ignore_errors=True)
    shutil.move(work / "_build" / "html", out / "html")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", type=Path, required=True, help="folder of the executed notebooks")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _toc.yml; default: this project")
    given = parser.parse_args()
    out = given.out.resolve()
    taken = [name for name in ("source", "pages", "html") if (out / name).exists()]  # what is made anew
    if taken and out != ROOT / "_build" and not (out / MARK).exists():
        parser.error(f"--out must be a folder of earlier builds, or have no {', '.join(taken)}, not {out}")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    status = make(given.notebooks.resolve(), out, given.root.resolve())
    if status == 0:
        print(f"The book: {address(out)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
