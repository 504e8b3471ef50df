"""What the book or the tests need and what there is, as a table; what cannot work is said before work starts.

python -m tools.ready book|test
"""

import argparse
import http.client
import os
import platform
import shutil
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
from packaging.specifiers import SpecifierSet

from tools.build import VENDOR
from tools.pages import ROOT
from tools.vendor import NotFetched, vendor

DISK = 0.5  # GiB: 0.1 for the book, 0.35 for CIFAR-10 while it is unpacked
MEMORY = 4.0  # GiB: chapter 10 takes 3.6 at most
BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # what the pages are tested in; any of them


class Row(NamedTuple):
    """A line of the table: what is needed, what was found, what follows; and a sentence if it stops all."""

    what: str
    found: str
    so: str = ""
    stop: str = ""


def ready(purpose: str) -> bool:
    """Print the table for a purpose, "book" or "test"; False, and why, if what was asked for cannot work."""
    rows = [python(), disk(), memory(), *data(purpose), browser(), packages()]
    widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
    for row in rows:
        so = "this cannot work, see below" if row.stop else row.so
        print(f"{row.what:<{widths[0]}}  {row.found:<{widths[1]}}  {so}".rstrip())
    print(flush=True)
    for row in rows:
        if row.stop:
            print(f"`make {purpose}` cannot work: {row.stop}", file=sys.stderr)
    return not any(row.stop for row in rows)


def python() -> Row:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, allowed = platform.python_version(), project["requires-python"]
    stop = "" if found in SpecifierSet(allowed) else f"Python must be {allowed}, and this is {found}."
    return Row("Python", found, stop=stop)


def disk() -> Row:
    free = shutil.disk_usage(ROOT).free / 2**30
    stop = "" if free >= DISK else f"{DISK} GiB of disk must be free in {ROOT}."
    return Row("free disk", f"{free:.1f} GiB", stop=stop)


def memory() -> Row:
    free = psutil.virtual_memory().available / 2**30
    so = "" if free >= MEMORY else f"{MEMORY:.0f} GiB are wanted: chapter 10, which takes 3.6, may fail"
    return Row("free memory", f"{free:.1f} GiB", so)


def data(purpose: str) -> list[Row]:
    """A row for each image set: where it is, or what follows where it is not."""
    from lazylib.problems import images  # takes seconds, because of torch

    rows = []
    for name, entry in images.SETS.items():
        place = images.where(name)
        if place:
            rows.append(Row(entry.title, _short(place)))
        elif name == "cifar10":
            rows.append(Row(entry.title, "missing", _without_cifar10(purpose, entry.addresses[0])))
        else:
            rows.append(Row(entry.title, "missing", "only larger presets need it; `make data` loads it"))
    return rows


def _without_cifar10(purpose: str, address: str) -> str:
    if purpose == "test":
        return "the outputs of chapter 7 are not compared; `make data` loads it"
    if os.environ.get("LAZYLIB_OFFLINE"):
        hindrance = "LAZYLIB_OFFLINE is set"
    elif not (hindrance := unreachable(address)):
        return "chapter 7 loads it"
    return f"{hindrance}: chapter 7 runs on the sample of Fashion-MNIST, and its claims count as not tested"


def unreachable(address: str) -> str:
    """Why nothing can be loaded from an address, asked once; empty if it can be."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=3).close()
    except (OSError, http.client.HTTPException) as error:
        return f"{urlsplit(address).hostname} is out of reach ({getattr(error, 'reason', None) or error})"
    return ""


def browser() -> Row:
    found = browser_path()
    so = "" if found else "`make test` leaves out the pages in a browser; Debian's package: chromium"
    return Row("browser", found or "none", so)


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def packages() -> Row:
    """What the pages need in a browser, fetched if it is not there yet."""
    try:
        vendor(VENDOR)
    except NotFetched as error:
        return Row("packages of the pages", "missing", stop=str(error))
    return Row("packages of the pages", _short(VENDOR))


def _short(path: Path) -> str:
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("purpose", choices=("book", "test"))
    return 0 if ready(parser.parse_args().purpose) else 1


if __name__ == "__main__":
    sys.exit(main())
