"""The page that says what executing each chapter takes, from what the executions measured."""

from pathlib import Path

import nbformat

from lazylib.book import ledger
from tools.execute import cost_of
from tools.pages import ROOT, chapters


def page(executed: Path) -> str:
    """The source of the page: this build's chapters, and the records of the runs at paper scale.

    executed: folder of the executed notebooks, with a JSON file of what each took beside it.
    """
    rows = ledger.table()
    lines = []
    for chapter in chapters():
        here = cost_of(executed / chapter.relative_to(ROOT))
        now = f"{here['seconds']:.0f} s, {here['peak_mib']} MiB ({here['preset']})" if here else "not measured"
        paper = [r["paper"] for r in rows if r["chapter"] == chapter.stem and r["paper"]]
        seconds = max((record["seconds"] or 0 for record in paper), default=0)
        then = f"{seconds:.0f} s on {paper[0]['device']}, {paper[0]['date']}" if seconds else "not run"
        title = nbformat.read(chapter, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
        lines.append(f"| {{doc}}`{title} </{chapter.relative_to(ROOT).with_suffix('')}>` | {now} | {then} |")
    return "\n".join(
        [
            "# Execution times",
            "",
            "What executing the chapters takes: wall time, and the most memory that their processes held at once."
            " *Not measured* stands where this copy of the book was built from notebooks that had been executed"
            " before.",
            "",
            "| chapter | this copy | paper scale |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )
