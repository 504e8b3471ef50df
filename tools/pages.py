"""Which pages the book has, and in which order."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
MADE = re.compile(r"times|api/\w+")  # pages that tools.build writes
LEDGER = "chapters/ledger"  # shows the records of all chapters, so it is executed after them


def pages(root: Path = ROOT) -> list[str]:
    """Every page of `root`/_toc.yml in reading order, paths without suffix; first the introduction."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))

    def files(entries: list[dict]) -> list[str]:
        found = []
        for entry in entries:
            found += [entry["file"]] if "file" in entry else []
            found += files(entry.get("chapters", [])) + files(entry.get("sections", []))
        return found

    return [toc["root"], *files(toc.get("parts", [])), *files(toc.get("chapters", []))]


def notebooks(root: Path = ROOT) -> list[Path]:
    """The notebooks among the pages in order of execution: as they are read, the ledger last.

    Raises FileNotFoundError for a page that is in _toc.yml and not on disk.
    """
    found = []
    for page in pages(root):
        notebook, text = root / f"{page}.ipynb", root / f"{page}.md"
        if notebook.exists():
            found.append(notebook)
        elif not text.exists() and not MADE.fullmatch(page):
            raise FileNotFoundError(f"_toc.yml names {page}, but there is neither {notebook.name} nor {text.name}")
    return sorted(found, key=lambda path: path == root / f"{LEDGER}.ipynb")


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks with parameters and claims: all but the ledger."""
    return [path for path in notebooks(root) if path != root / f"{LEDGER}.ipynb"]
