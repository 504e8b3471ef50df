"""How notebooks are compared, and what is not tested on this machine: it is said, and counted in a closing line."""

from collections import Counter

import pytest
from nbval.plugin import IPyNbCell

from lazylib.problems import images
from tools.close import close

NEEDS = "needs-"  # tag of a cell whose output is compared only where this data set is: needs-cifar10


def pytest_collection_modifyitems(items):
    """Cells that need a data set run everywhere, since later ones build on them; their outputs are not compared."""
    for item in items:
        tags = getattr(item, "cell", {}).get("metadata", {}).get("tags", [])
        for name in (tag.removeprefix(NEEDS) for tag in tags if tag.startswith(NEEDS)):
            if images.where(name) is None:
                _run_only(item, f"{images.SETS[name].title} is not on this machine: `make data` loads it")


def _run_only(item, reason):
    run = item.runtest
    item.options["check"] = False

    def runtest():
        run()
        pytest.skip(f"run, but its output is not compared, because {reason}")

    item.runtest = runtest


def _compare(cell, test, ref, skip_compare=None, strictly=IPyNbCell.compare_outputs):
    """nbval's comparison; where it finds a difference, numbers may still be as close as processors give them."""
    if strictly(cell, test, ref, skip_compare):
        return True
    found, stored = _texts(test), _texts(ref)
    return found.keys() == stored.keys() and all(close(found[kind], stored[kind]) for kind in found)


def _texts(outputs):
    """What outputs say, by kind: the stream's name, or the type of data."""
    texts = {}
    for output in outputs:
        kinds = {output["name"]: output["text"]} if output["output_type"] == "stream" else output.get("data", {})
        for kind, text in kinds.items():
            if kind.startswith("text/") or kind in ("stdout", "stderr"):
                texts[kind] = texts.get(kind, "") + text
    return texts


IPyNbCell.compare_outputs = _compare


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    counted = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
    terminalreporter.write_line(f"Skipped: {counted}." if counted else "Skipped: nothing.")
