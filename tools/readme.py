"""Put the last measurements into README.md, between its marks <!-- NAME --> and <!-- /NAME -->.

    python -m tools.readme

Nothing is measured here: `make bench` and `make book` do, and this takes what they left in _build. A block
whose source is missing stays as it was, and this is said.
"""

import base64
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat

from lazylib.book import ledger
from tools.bench import machine
from tools.execute import cost_of
from tools.pages import ROOT, chapters

BUILD = ROOT / "_build"
PICTURE_TAG = "readme"  # of the cell whose figure README.md shows
LEGEND = "✓ holds, ≈ right direction, other size, ✗ does not hold, ? undecided, – not tested."


def bench() -> str | None:
    """The tables of the last `make bench`."""
    path = BUILD / "bench.md"
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


def times() -> str | None:
    """What executing each chapter took in the last `make book`."""
    lines = ["| chapter | preset | seconds | peak memory, MiB |", "|---|---|---|---|"]
    for chapter in chapters():
        cost = cost_of(BUILD / "executed" / chapter.relative_to(ROOT))
        if not cost:
            return None
        lines.append(f"| {chapter.stem} | {cost['preset']} | {cost['seconds']:.0f} | {cost['peak_mib']} |")
    return "\n".join([*lines, "", f"Measured on {machine()}."])


def claims() -> str | None:
    """The ledger in short: a chapter a line, with the verdict on each of its claims."""
    rows = ledger.table()
    if not any(row["live"] or row["larger"] for row in rows):
        return None
    lines = ["| chapter | claims |", "|---|---|"]
    for stem in dict.fromkeys(row["chapter"] for row in rows):
        own = [row for row in rows if row["chapter"] == stem]
        title = f"[{own[0]['title']}](chapters/{stem}.ipynb)" if own[0]["link"] else own[0]["title"]
        verdicts = " · ".join(f"{row['id']} {ledger.SYMBOLS[row['verdict']]}" for row in own)
        lines.append(f"| {title} | {verdicts} |")
    return "\n".join([*lines, "", f"{ledger.summary(rows)}. {LEGEND}"])


def picture() -> str | None:
    """The figure of the cell tagged `readme`, written to picture.png or picture.svg; a link to it."""
    for chapter in chapters():
        for cell in nbformat.read(chapter, as_version=4).cells:
            if PICTURE_TAG not in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                for kind, name in (("image/svg+xml", "picture.svg"), ("image/png", "picture.png")):
                    if kind in output.get("data", {}):
                        data = output.data[kind]
                        (ROOT / name).write_bytes(data.encode() if kind.endswith("xml") else base64.b64decode(data))
                        return f"![{cell.metadata['mystnb']['image']['alt']}]({name})"
    return None


BLOCKS: dict[str, Callable[[], str | None]] = {
    "picture": picture,
    "ledger": claims,
    "times": times,
    "bench": bench,
}


def fill(text: str, name: str, content: str) -> str:
    """`text` with `content` between the marks of block `name`; ValueError unless both marks are there."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"README.md must have {start} and, after it, {end}, each once")
    return re.sub(
        f"{re.escape(start)}.*?{re.escape(end)}",
        lambda _: f"{start}\n{content}\n{end}",
        text,
        flags=re.DOTALL,
    )


def main(path: Path = ROOT / "README.md") -> int:
    text = path.read_text(encoding="utf-8")
    for name, source in BLOCKS.items():
        content = source()
        if content is None:
            print(f"{name}: nothing measured yet, left as it was")
        else:
            text = fill(text, name, content)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
