"""The book run again: what counts as reproduced, the bundle, and metadata by the specifications. No chapter is run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_output

from lazylib.book import ledger
from lazylib.book.claims import claims
from lazylib.book.stats import Estimate
from tests.made_notebooks import code, text, write
from tools import crate, moved, verify
from tools.execute import execute
from tools.pages import ROOT, chapters

# Judged as chapter 1 judges its claims, with numbers that are made here.
JUDGED = """\
from lazylib.book import ledger
from lazylib.book.stats import Estimate
ledger.start("laptop", {"n": 50})
ledger.untested("K1", "nothing was run")
ledger.judge("K2", {"fall": Estimate(-1.0, -1.01, -0.99, 4), "constant": 1.0})
ledger.judge("K3", {"exponent": {"q = 2": 0.001, "q = 3": 0.0}, "flat": 0.002})
ledger.untested("K4", "nothing was run")"""
NAME = "01_kappa_criterion"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A book of one chapter, executed and committed."""
    root = tmp_path_factory.mktemp("book")
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters: [{{file: chapters/{NAME}}}]\n")
    (root / "index.md").write_text("# Book")
    shutil.copy2(ROOT / "requirements.lock", root)
    write(root / f"chapters/{NAME}.ipynb", text("# Kappa"), code(JUDGED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAZYLIB_LEDGER", str(root / "records"))
        execute(root / f"chapters/{NAME}.ipynb", root / f"chapters/{NAME}.ipynb")
    return root


@pytest.fixture
def book(made, tmp_path):
    return shutil.copytree(made, tmp_path / "book")


@pytest.fixture
def run(book, monkeypatch, capfd):
    """Runs `make verify`'s program on the made book; returns its status, the result and the last line."""

    def again(into="bundle", *names):
        monkeypatch.setenv("LAZYLIB_LEDGER", str(book / "reader"))  # which it must leave alone
        monkeypatch.setattr(sys, "argv", ["verify", "--into", str(book / into), "--root", str(book), *names])
        status = verify.main()
        assert not (book / "reader").exists()
        last = capfd.readouterr().out.strip().splitlines()[-1]
        return status, json.loads((book / into / "verify.json").read_text(encoding="utf-8")), last

    return again


def test_what_was_not_changed_is_reproduced_and_the_bundle_is_whole(book, run):
    status, result, last = run()
    assert (status, result["reproduced"], result["whole_ledger"]) == (0, True, False)
    said = f"Reproduced: 4 of {len(claims())} claims, verdicts, answers and numbers"
    assert last == result["outcome"] == f"{said}; {len(claims()) - 4} more claims were not asked for"
    row = next(row for row in result["claims"] if row["id"] == "K2")
    assert row["reproduced"] and row["now"] == row["committed"] and row["now"]["verdict"] == "holds"
    assert row["now"]["limbs"]["fall"] == {"answer": "yes", "measured": "−1.000 [−1.010, −0.990]; 4 problems"}
    assert result["sources_sha256"][f"chapters/{NAME}.ipynb"] == digest(book / f"chapters/{NAME}.ipynb")
    assert result["sources_sha256"]["requirements.lock"] == digest(book / "requirements.lock")
    assert result["environment"]["versions"]["torch"] and result["environment"]["not_as_locked"] == []
    assert result["costs"][NAME]["seconds"] > 0
    page = (book / "bundle/report.md").read_text(encoding="utf-8")
    assert f"**{last}.**" in page and "## K2 reproduced" in page
    assert "| fall | yes −1.000 [−1.010, −0.990]; 4 problems | yes −1.000 [−1.010, −0.990]; 4 problems | ✓ |" in page
    assert (book / f"bundle/executed/chapters/{NAME}.ipynb").exists() and (
        book / "bundle/ledger/laptop/K2.json"
    ).exists()
    is_a_crate(book / "bundle")
    is_for_a_codechecker(book / "bundle")
    is_for_zenodo(book / "bundle", f"{last}.")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_a_crate(folder):
    """What RO-Crate 1.1 asks of descriptor, root and files; digests are those of the files."""
    whole = json.loads((folder / "ro-crate-metadata.json").read_text(encoding="utf-8"))
    assert whole["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in whole["@graph"]}
    assert len(entities) == len(whole["@graph"])
    descriptor, root = entities["ro-crate-metadata.json"], entities["./"]
    assert descriptor["@type"] == "CreativeWork" and descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset" and root["name"] and root["description"]
    assert len(root["datePublished"]) == 10 and entities[root["license"]["@id"]]["name"] == "MIT"
    files = [entity for entity in whole["@graph"] if entity["@type"] == "File"]
    assert root["hasPart"] == [{"@id": entity["@id"]} for entity in files] and files
    for entity in files:
        path = folder / entity["@id"]
        assert entity["sha256"] == digest(path) and entity["contentSize"] == str(path.stat().st_size)
        assert "/" in entity["encodingFormat"]

    def named(value):
        if isinstance(value, dict):
            yield from [value["@id"]] if value.keys() == {"@id"} else named(list(value.values()))
        elif isinstance(value, list):
            for each in value:
                yield from named(each)

    assert set(named(whole["@graph"])) <= entities.keys() | {"https://w3id.org/ro/crate/1.1"}
    assert all(entity.get("name") for id, entity in entities.items() if id != "ro-crate-metadata.json")
    return entities


def is_for_a_codechecker(folder):
    """What the specification of codecheck.yml asks of an author; what only a checker can give is not there."""
    lines = (folder / "codecheck.yml").read_text(encoding="utf-8")
    given = yaml.safe_load(lines)
    assert lines.startswith("---\n") and given["version"] == "https://codecheck.org.uk/spec/config/1.0/"
    assert given["paper"]["title"] == crate.citation()["title"] and given["paper"]["authors"][0]["name"]
    names = [each["file"] for each in given["manifest"]]
    assert {"report.md", "verify.json"} < set(names) and all((folder / name).is_file() for name in names)
    assert all(each["comment"] for each in given["manifest"]) and given["summary"].startswith("Reproduced: 4")
    assert not given.keys() & {"codechecker", "report", "certificate"}


def is_for_zenodo(folder, summary):
    """What the citation says, but that this is the data of a run; the crate names it."""
    given = json.loads((folder / ".zenodo.json").read_text(encoding="utf-8"))
    own = {"upload_type": "dataset", "title": f"{crate.citation()['title']}: run again", "description": summary}
    assert given == {**crate.zenodo(crate.citation()), **own}
    assert ".zenodo.json" in (folder / "ro-crate-metadata.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "new", "differs"),
    [
        ('"constant": 1.0', '"constant": 0.5', "K2 (verdict, constant)"),
        ("Estimate(-1.0, -1.01, -0.99, 4)", "Estimate(-1.0, -1.5, -0.5, 4)", "K2 (verdict, fall)"),
        ('"q = 2": 0.001', '"q = 2": 0.01', "K3 (exponent)"),  # the same answer, another number
        ('"flat": 0.002', '"flat": 0.03', "K3 (flat)"),  # beyond the claim: the verdict stays
        ('"K4", "nothing was run"', '"K4", "no time"', "K4 (reason)"),
        ('ledger.untested("K4", "nothing was run")', "", "K4 (verdict)"),
    ],
)
def test_a_planted_difference_is_named(book, run, line, new, differs):
    path = book / f"chapters/{NAME}.ipynb"
    page = nbformat.read(path, as_version=4)
    assert page.cells[1].source.count(line) == 1
    page.cells[1].source = page.cells[1].source.replace(line, new)  # the outputs stay, as they were committed
    nbformat.write(page, path)
    status, result, last = run()
    assert (status, result["reproduced"]) == (1, False) and last.startswith(f"Not reproduced: {differs};")
    id = differs[:2]
    assert [row["id"] for row in result["claims"] if row["reproduced"] is False] == [id]
    report = (book / "bundle/report.md").read_text(encoding="utf-8")
    assert f"## {id} NOT reproduced" in report
    assert all(f"\n- {name}: " in report for name in differs[4:-1].split(", "))


def test_a_chapter_that_fails_is_named_and_what_it_had_recorded_does_not_count(book, run):
    path = book / f"chapters/{NAME}.ipynb"
    page = nbformat.read(path, as_version=4)
    page.cells[1].source += "\nraise ValueError('tau must be positive.')"
    nbformat.write(page, path)
    status, result, last = run()
    assert status == 1 and last.startswith("Not reproduced: K1 (verdict), K2 (verdict), K3 (verdict), K4 (verdict)")
    assert f"{NAME} failed" in last and result["failed"] == {NAME: "ValueError: tau must be positive."}
    assert "ValueError: tau must be positive." in (book / "bundle/report.md").read_text(encoding="utf-8")


def test_nothing_old_is_taken_for_new(book, run, capfd):
    (book / "old").mkdir()
    with pytest.raises(SystemExit):
        run("old")
    assert "a folder that does not exist yet" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        run("new", "01_kapa")
    assert "no such chapter: 01_kapa" in capfd.readouterr().err and not (book / "new").exists()


def test_the_environment_is_a_new_one():
    """What make would do: nothing of the reader's own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "-B", "-n", "verify", "CHAPTERS=02_trajectories"]
    said = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True).stdout
    aside, first, *_, last = said.splitlines()
    assert aside.startswith("test ! -d _build/verify/bundle || mv _build/verify/bundle _build/verify-")
    assert first == "rm -rf _build/verify" and ".venv" not in said and "_build/ledger" not in said
    assert "_build/verify/venv/bin/python -m pip install --quiet --require-hashes --no-deps" in said
    assert last == "_build/verify/venv/bin/python -m tools.verify --into _build/verify/bundle 02_trajectories"


# --- what is compared ---


def test_the_committed_outputs_say_everything_that_the_rules_ask():
    """Of every claim, the verdict, and of every limb an answer and a measure, unless it was not judged at all."""
    said = {id: each for path in chapters() for id, each in verify.committed(path).items()}
    assert said.keys() == claims().keys()
    for id, each in said.items():
        assert each.limbs.keys() == claims()[id]["limbs"].keys() or (not each.limbs and each.detail), id
        assert all(measured and "asked" not in measured for _, measured in each.limbs.values()), id


def test_the_live_run_counts_and_not_a_stored_one_below_it(tmp_path):
    lines = "K3 holds; paper: −q\n  ✓ exponent of κ in λ, plus q: 0.01; asked −0.02 to 0.02\n\nstored\n"
    stored = "K3 does not hold: 1 of 2 runs fell asleep; paper: −q\n"
    path = write(tmp_path / "a.ipynb", code("", new_output("stream", name="stdout", text=lines + stored)))
    assert verify.committed(path) == {"K3": verify.Said("holds", "", {"exponent": ("yes", "0.01")})}


def test_committed_and_recorded_are_the_same_words(monkeypatch, tmp_path, capsys):
    """Two ways to the same: what judge prints, read again, and what it records."""
    ledger.start("laptop", {"n": 50})
    ledger.judge("K3", {"exponent": {"q = 2": 0.001, "q = 3": -1e-9}, "flat": Estimate(0.0, -0.1, 0.1, 3)})
    output = new_output("stream", name="stdout", text=capsys.readouterr().out)
    row = next(row for row in ledger.table() if row["id"] == "K3")
    assert verify.committed(write(tmp_path / "a.ipynb", code("", output))) == {"K3": verify.recorded(row)}


SAID = verify.Said("holds", "", {"a": ("yes", "1.00 [0.90, 1.10]; 4 problems"), "b": ("no", "no")})


@pytest.mark.parametrize(
    ("now", "differ"),
    [
        (SAID, []),
        (SAID._replace(limbs={**SAID.limbs, "a": ("yes", "1.03 [0.91, 1.12]; 4 problems")}), []),
        (SAID._replace(limbs={**SAID.limbs, "a": ("yes", "1.20 [0.90, 1.10]; 4 problems")}), ["a"]),
        (SAID._replace(limbs={**SAID.limbs, "a": ("yes", "1.00 [0.90, 1.10]; 5 problems")}), ["a"]),
        (SAID._replace(limbs={**SAID.limbs, "a": ("open", "1.00 [0.90, 1.10]; 4 problems")}), ["a"]),
        (SAID._replace(limbs={"a": SAID.limbs["a"]}), ["b"]),
        (SAID._replace(limbs={**SAID.limbs, "c": ("yes", "1")}), ["c"]),
        (SAID._replace(verdict="undecided"), ["verdict"]),
        (SAID._replace(detail="one run failed"), ["reason"]),
        (None, ["verdict"]),
    ],
)
def test_what_differs(now, differ):
    assert list(verify.differences(SAID, now)) == list(verify.differences(now, SAID)) == differ


def test_packages_that_are_not_as_locked_are_named(tmp_path):
    lock = 'numpy==1.0 \\\n    --hash=sha256:00\nno-such.package==2.0\nabsent==1 ; sys_platform == "nowhere"\n'
    (tmp_path / "requirements.lock").write_text(lock)
    found = verify.environment(tmp_path)["not_as_locked"]
    assert len(found) == 2 and found[0].endswith("locked ==1.0") and found[0].startswith("numpy: 2.")
    assert found[1] == "no-such.package: missing, locked ==2.0"


# --- metadata ---


def test_zenodo_says_what_the_citation_says():
    stored = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    work = crate.citation()
    assert stored == crate.zenodo(work), "python -m tools.crate writes it"
    assert stored["title"] == work["title"] and stored["version"] == work["version"]
    assert stored["license"] == work["license"] == "MIT" and stored["creators"][0]["name"]
    changed = crate.zenodo({**work, "version": "9.9", "authors": [{"family-names": "Doe", "given-names": "Jane"}]})
    assert changed["version"] == "9.9" and changed["creators"] == [{"name": "Doe, Jane"}] and changed != stored


def test_a_crate_names_its_files_as_addresses(tmp_path):
    (tmp_path / "a b.csv").write_text("1")
    crate.crate(tmp_path, "Name", "Text", [tmp_path / "a b.csv"])
    whole = json.loads((tmp_path / "ro-crate-metadata.json").read_text())
    assert whole["@graph"][2]["@id"] == "a%20b.csv" and whole["@graph"][2]["encodingFormat"] == "text/csv"


def test_how_far_measures_move(tmp_path):
    """Numbers by their size, truths by being others, rounding not at all; an answer that turned is named."""
    for name, fall, constant in (("a", -1.0, 1.3), ("b", -1.01, 1.3)):
        shown = {"fall": ("yes", {"": {"value": fall, "low": -1.25, "high": -0.9}}), "constant": ("no", {"": constant})}
        limbs = {limb: {"answer": answer, "cases": cases} for limb, (answer, cases) in shown.items()}
        (tmp_path / name).mkdir()
        (tmp_path / name / "K2.json").write_text(json.dumps({"id": "K2", "limbs": limbs}))
    turned = (tmp_path / "b/K2.json").read_text().replace('"no"', '"yes"')
    (tmp_path / "c").mkdir()
    (tmp_path / "c/K2.json").write_text(turned.replace("1.3", "2.6"))
    a, b, c = (tmp_path / name for name in "abc")
    assert moved.moves(a, b) == {"K2.fall": (pytest.approx(0.01 / 1.25), ""), "K2.constant": (0.0, "")}
    rows = moved.table(a, {"b": b, "c": c}).splitlines()
    near, far = "at most 0.8 % (K2.fall)", "1 by more than 5 %: K2.constant 100 %; answers: K2.constant no → yes"
    assert rows[0] == "| chapter | limbs | b | c |" and rows[2:] == [f"| {NAME} | 2 | {near} | {far} |"]
    assert moved.move(3e-14, 5e-12) == moved.move(True, True) == moved.move(float("inf"), float("inf")) == 0
    assert moved.move(True, False) == moved.move(0.0, 1.0) == moved.move(1.0, None) == float("inf")
    with pytest.raises(ValueError, match="a folder of records is needed"):
        moved.measures(tmp_path)
