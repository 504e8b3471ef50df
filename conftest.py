"""What is not tested here is said: outputs that need a data set, and a closing line that counts all skips."""

from collections import Counter

import pytest

from lazylib.problems import images

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


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    counted = "; ".join(f"{count} × {reason}" for reason, count in reasons.items())
    terminalreporter.write_line(f"Skipped: {counted}." if counted else "Skipped: nothing.")
