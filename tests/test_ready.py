"""The table before `make book` and `make test`: each thing is missing once, and what follows is read."""

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from lazylib.problems import images
from tools import ready, vendor
from tools.pages import ROOT

GIB = 2**30
Disk, Memory = namedtuple("Disk", "free"), namedtuple("Memory", "available")


@pytest.fixture
def machine(monkeypatch):
    """A machine that has everything; a test takes one thing away."""
    monkeypatch.delenv("LAZYLIB_OFFLINE", raising=False)
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda path: Disk(9 * GIB))
    monkeypatch.setattr(ready.shutil, "which", {"google-chrome": "/bin/chrome"}.get)
    monkeypatch.setattr(ready.psutil, "virtual_memory", lambda: Memory(8 * GIB))
    monkeypatch.setattr(images, "where", lambda name: ROOT / "data" / name)
    monkeypatch.setattr(ready, "vendor", lambda cache: {})
    monkeypatch.setattr(ready, "unreachable", lambda address: pytest.fail(f"asked {address}"))
    return monkeypatch


def table(purpose: str, capsys) -> tuple[bool, str, str]:
    good = ready.ready(purpose)
    shown = capsys.readouterr()
    return good, shown.out, shown.err


@pytest.mark.parametrize("purpose", ["book", "test"])
def test_where_all_is_there_nothing_follows(machine, capsys, purpose):
    good, shown, said = table(purpose, capsys)
    rows = [line.split("  ") for line in shown.strip().splitlines()]
    assert good and not said and all(len(list(filter(None, row))) == 2 for row in rows), shown
    assert {entry.title for entry in images.SETS.values()} < {row[0] for row in rows}
    here = sys.version.split()[0]
    for found in (here, "9.0 GiB", "8.0 GiB", "data/cifar10", "/bin/chrome", "_build/vendor"):
        assert any(found == row[-1].strip() for row in rows), f"{found} is not in\n{shown}"


def test_little_memory_and_no_browser_are_said_and_stop_nothing(machine, capsys):
    machine.setattr(ready.psutil, "virtual_memory", lambda: Memory(3.2 * GIB))
    machine.setattr(ready.shutil, "which", lambda name: None)
    good, shown, said = table("test", capsys)
    assert good and not said
    assert "3.2 GiB" in shown and "4 GiB are wanted: chapter 10" in shown
    assert "leaves out the pages in a browser; Debian's package: chromium" in shown


MISSING = {  # LAZYLIB_OFFLINE, why the address cannot be reached, purpose → what the table says
    ("", "", "book"): "chapter 7 loads it",
    ("", "a.example is out of reach (x)", "book"): "is out of reach (x): chapter 7 runs on the sample",
    ("1", None, "book"): "LAZYLIB_OFFLINE is set: chapter 7 runs on the sample",
    ("", None, "test"): "the outputs of chapter 7 are not compared; `make data` loads it",
}


@pytest.mark.parametrize(("offline", "hindrance", "purpose"), MISSING)
def test_without_cifar10_the_table_says_what_takes_its_place(machine, capsys, offline, hindrance, purpose):
    machine.setattr(images, "where", lambda name: None if name == "cifar10" else ROOT)
    machine.setenv("LAZYLIB_OFFLINE", offline)
    if hindrance is not None:  # else nothing may be asked
        machine.setattr(ready, "unreachable", lambda address: hindrance)
    good, shown, _ = table(purpose, capsys)
    (row,) = (line for line in shown.splitlines() if line.startswith("CIFAR-10"))
    assert good and "missing" in row and MISSING[offline, hindrance, purpose] in row


def test_fashion_mnist_is_for_larger_presets(machine, capsys):
    machine.setattr(images, "where", lambda name: None if name == "fashion" else ROOT)
    good, shown, _ = table("book", capsys)
    assert good and shown.count("missing") == 1
    assert "only larger presets need it; `make data` loads it" in shown


def refused(cache: Path) -> dict:
    raise vendor.NotFetched("made@1.0 could not be fetched from the npm registry.")


CANNOT = {  # where something is planted, and what → the sentence
    (ready.platform, "python_version", lambda: "3.14.0"): "Python must be >=3.11,<3.14, and this is 3.14.0.",
    (ready.shutil, "disk_usage", lambda path: Disk(0.4 * GIB)): "0.5 GiB of disk must be free",
    (ready, "vendor", refused): "made@1.0 could not be fetched from the npm registry.",
}


@pytest.mark.parametrize(("place", "name", "planted"), CANNOT)
def test_what_cannot_work_is_said_in_one_sentence(machine, capsys, place, name, planted):
    machine.setattr(place, name, planted)
    machine.setattr(sys, "argv", ["ready", "test"])
    assert ready.main() == 1
    shown = capsys.readouterr()
    assert shown.out.count("this cannot work") == 1
    (sentence,) = shown.err.splitlines()
    assert sentence.startswith("`make test` cannot work: ") and CANNOT[place, name, planted] in sentence


def test_an_address_is_asked_whether_it_answers(tmp_path):
    (tmp_path / "data.tar").write_text("data")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert ready.unreachable(f"{address}/data.tar") == ""
        assert ready.unreachable(f"{address}/gone.tar") == "127.0.0.1 is out of reach (File not found)"
        server.shutdown()
    assert ready.unreachable(f"{address}/data.tar").startswith("127.0.0.1 is out of reach (")


def test_without_a_network_it_is_known_in_seconds_that_the_pages_lack_packages(tmp_path, monkeypatch):
    """npm itself, at a port where nothing listens; left alone it would try for more than a minute."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(vendor.NotFetched, match=r"again where there is a network \(ECONNREFUSED\)"):
        vendor.vendor(tmp_path)
    assert time.monotonic() - start < 30


def test_the_table_comes_before_the_tests():
    """As make runs it: the table of this machine, with nothing to load."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.ready", "test"],
        cwd=ROOT, env={**os.environ, "LAZYLIB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    first, *_ = done.stdout.splitlines()
    assert done.returncode == 0 and first.split() == ["Python", sys.version.split()[0]], done
