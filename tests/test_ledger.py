"""The ledger: verdicts, records that survive, and the table."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from lazylib.book import ledger, provenance
from lazylib.book.stats import Estimate
from lazylib.runs import files

IDS = (
    "K1 K2 K3 K4 T1 T2 T3 T4 P1 P2 P3 P4 P5 S1 S2 A1 L1 L2 C1 C2 C3 C4 W1 B1 B2 B3 B4 "
    "G1 G2 G3 G4 G5 G6 G7 G8 G9 G10 G11 G12 G13 G14"
).split()


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    """A book with the claims, no chapters and no records."""
    (tmp_path / "book/chapters").mkdir(parents=True)
    shutil.copy(ledger._repository() / "chapters/claims.toml", tmp_path / "book/chapters")
    monkeypatch.setattr(ledger, "_repository", lambda: tmp_path / "book")
    return tmp_path / "book"


@pytest.fixture(autouse=True)
def root(book, monkeypatch):
    """The book's own folder of records."""
    monkeypatch.delenv("LAZYLIB_LEDGER", raising=False)
    ledger.start("laptop", {"taus": [0.1, 1.0]})
    return book / "results/ledger"


def read(path):
    return json.loads(path.read_text())


def test_claims_file_is_complete():
    claims = ledger.claims()
    assert sorted(claims) == sorted(IDS) and len(ledger._claims_file()["claim"]) == len(IDS)
    for claim in claims.values():
        assert claim.keys() <= {"id", "work", "place", "statement", "reference", "chapter"}
        assert claim["work"] in ("COB", "BG", "GSJW") and claim["statement"].endswith(".")
        assert claim["chapter"] in ledger._claims_file()["chapters"]
    assert claims["P4"]["place"] == "fig. 2b" and claims["K2"]["reference"] == -1
    chapters = [claim["chapter"] for claim in claims.values()]
    assert chapters == sorted(chapters)  # the table groups by chapter, in order


def test_works_are_in_the_bibliography():
    bib = (Path(__file__).parents[1] / "references.bib").read_text()
    keys = re.findall(r"^@\w+\{(\w+),$", bib, re.MULTILINE)
    assert len(keys) == len(set(keys)) and {claim["work"] for claim in ledger.claims().values()} <= set(keys)


def test_check_prints_one_line_and_records(root, capsys):
    ledger.check("K2", True, value=-0.99812, ci=(-1.001, -0.9951), seeds=10, detail="α from 1 to 1e4")
    line = "K2 holds: −0.9981 [−1.001, −0.9951], 10 seeds; paper: −1 (α from 1 to 1e4)\n"
    assert capsys.readouterr().out == line
    record = read(root / "laptop/K2.json")
    assert record["value"] == -0.99812 and record["ci"] == [-1.001, -0.9951] and record["seeds"] == 10
    assert record["verdict"] == "holds" and record["label"] == "laptop"
    assert record["parameters"] == {"taus": [0.1, 1.0]} and record["seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]) and record["device"]
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert re.fullmatch("[0-9a-f]{16}", record["code"]["lazylib"])
    assert [path.name for path in (root / "laptop").iterdir()] == ["K2.json"]  # no temporary file is left


@pytest.mark.parametrize(
    "holds, verdict",
    [
        (True, "holds"),
        (False, "does not hold"),
        (np.True_, "holds"),
        (np.False_, "does not hold"),
        (torch.tensor(False), "does not hold"),
        ("caveat", "holds with a caveat"),
        ("undecided", "undecided"),
        ("not run", "not run at this scale"),
    ],
)
def test_verdicts(root, holds, verdict):
    ledger.check("K1", holds, value=1.0)
    assert read(root / "laptop/K1.json")["verdict"] == verdict
    assert verdict in ledger.verdict_line("K1")


@pytest.mark.parametrize(
    ("answers", "beyond", "holds"),
    [
        ([True, np.True_], [], True),
        ([True], [False], "caveat"),
        ([True], [None], "caveat"),
        ([True, None], [True], "undecided"),
        ([None, False], [True], False),
        ([True, np.False_], [True], False),
    ],
)
def test_one_no_is_enough_and_an_open_answer_leaves_a_claim_open(answers, beyond, holds):
    assert ledger.together(answers, beyond) is holds or ledger.together(answers, beyond) == holds == "undecided"
    with pytest.raises(ValueError, match="at least one answer"):
        ledger.together([])


def test_an_estimate_brings_interval_and_seeds(root, capsys):
    ledger.check("K4", "caveat", Estimate(np.float64(-0.5), -0.52, -0.48, 20))
    record = read(root / "laptop/K4.json")
    assert (record["value"], record["ci"], record["seeds"]) == (-0.5, [-0.52, -0.48], 20)
    assert "−0.5 [−0.52, −0.48], 20 seeds" in capsys.readouterr().out
    ledger.check("K4", True, Estimate(-0.5, float("nan"), float("nan"), 1))  # one seed: no interval
    assert read(root / "laptop/K4.json")["ci"] is None


def test_runs_that_failed_are_counted_and_not_judged(root, capsys):
    ledger.judge("K1", np.array([True, True]), lambda: dict(holds=True, value=1.0))
    assert read(root / "laptop/K1.json")["verdict"] == "holds"
    ledger.judge("K1", [np.array([[True, False]]), xr.DataArray([False])], lambda: 1 / 0, "fell asleep")
    assert "K1 does not hold: 2 of 3 runs fell asleep" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("Z9", True, 1.0), r"a claim must be one of K1, .*, not 'Z9'\."),
        (("K1", "maybe", 1.0), r"K1: holds must be True, False, .*, not 'maybe'\."),
        (("K1", float("nan"), 1.0), r"K1: holds must be .*, not nan\."),
        (("K1", None, 1.0), r"K1: holds must be .*, not None\."),
        (("K1", 1, 1.0), r"K1: holds must be .*, not 1\."),
        (("K1", True), r"K1: the value must be a finite number.*, not None\."),
        (("K1", True, float("nan")), r"K1: the value must be .*, not nan\."),
        (("K1", True, np.float64("inf")), r"K1: the value must be .*, not inf\."),
        (("K1", True, torch.tensor(float("nan"))), r"K1: the value must be .*, not nan\."),
        (("K1", True, np.array([1.0, 2.0])), r"K1: the value must be .*, not array.*\."),
        (("K1", True, " "), r"K1: the value must be .*, not ' '\."),
        (("K1", True, 1.0, (float("nan"), 2.0)), r"K1: the interval must be .* not \(nan, 2.0\)\."),
        (("K1", True, Estimate(float("nan"), 1.0, 2.0, 3)), r"K1: the value must be .*, not nan\."),
        (("K1", True, 1.0, (2.0, 1.0)), r"K1: the interval must be .* not \(2.0, 1.0\)\."),
    ],
)
def test_bad_checks_record_nothing(root, capsys, arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        ledger.check(*arguments)
    assert not root.exists() and capsys.readouterr().out == ""


def test_changed_runs_never_reach_the_paper_folder(root):
    ledger.start("paper", {})
    ledger.check("K1", True, 1.0)
    before = (root / "paper/K1.json").read_bytes()
    ledger.start("paper, changed", {})
    ledger.check("K1", False, 2.0)
    assert (root / "paper/K1.json").read_bytes() == before
    assert read(root / "paper-changed/K1.json")["value"] == 2.0


def test_a_failed_write_leaves_the_old_record(root, monkeypatch):
    ledger.check("K1", True, 1.0)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="K1 is not recorded: .*No space left"):
        ledger.check("K1", False, 2.0)
    assert read(root / "laptop/K1.json")["value"] == 1.0


def test_a_place_that_cannot_be_written_only_warns(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="K1 is not recorded: .* cannot be written"):
        ledger.check("K1", True, 1.0)
    assert "K1 holds: 1" in capsys.readouterr().out and "holds" in ledger.verdict_line("K1")
    assert all(row["live"] is None for row in ledger.table())


def test_verdict_line_is_of_this_run_only(root):
    ledger.check("K1", True, 1.0)
    ledger.check("K2", False, 1.0)
    line = ledger.verdict_line("K1", "K2", "K3")
    assert line.startswith("**K1** ✓ holds · **K2** ✗ does not hold · **K3** – not run yet (preset: laptop;")
    assert "[ledger](ledger.ipynb)" in line
    ledger.start("laptop", {})  # another run: the stored records must not speak for it
    assert "✓" not in ledger.verdict_line("K1", "K2")
    with pytest.raises(ValueError, match="not 'K9'"):
        ledger.verdict_line("K9")


def test_table_has_every_claim_and_prefers_the_paper_scale(root):
    ledger.check("K1", True, 1.0)
    ledger.check("K2", True, 2.0)
    ledger.start("paper", {})
    ledger.check("K2", False, 3.0)
    rows = {row["id"]: row for row in ledger.table("laptop")}
    assert list(rows) == list(ledger.claims())
    assert rows["K1"]["verdict"] == "holds" and rows["K1"]["paper"] is None
    assert rows["K2"]["verdict"] == "does not hold" and rows["K2"]["live"]["verdict"] == "holds"
    assert rows["G14"]["verdict"] == "not run yet"
    assert ledger.summary(list(rows.values())) == "41 claims: 1 × holds, 1 × does not hold, 39 × not run yet"
    assert all(row["live"] is None for row in ledger.table("smoke"))


def test_verdict_line_says_where_a_larger_run_found_otherwise(root):
    ledger.start("cpu", {})
    for id, holds in (("K1", False), ("K2", True), ("K3", "not run")):
        ledger.check(id, holds, 1.0)
    assert "larger" not in ledger.verdict_line("K1", "K2", "K3")
    ledger.start("laptop", {})
    for id in ("K1", "K2", "K3"):
        ledger.check(id, True, 1.0)
    line = ledger.verdict_line("K1", "K2", "K3")
    assert line.endswith("[ledger](ledger.ipynb)). In a larger run (cpu): **K1** ✗ does not hold")


def test_the_largest_run_that_decided_a_claim_gives_the_verdict(root):
    runs = {"laptop": (True, True, "not run"), "cpu": ("caveat", "not run", False), "paper": (False, None, None)}
    for scale, verdicts in runs.items():
        ledger.start(scale, {})
        for id, holds in zip(("K1", "K2", "K3"), verdicts, strict=True):
            if holds is not None:
                ledger.check(id, holds, 1.0)
    rows = {row["id"]: row for row in ledger.table()}
    assert [rows[id]["verdict"] for id in ("K1", "K2", "K3")] == ["does not hold", "holds", "does not hold"]
    assert [rows[id]["larger"]["label"] for id in ("K1", "K2", "K3")] == ["paper", "cpu", "cpu"]
    assert rows["K2"]["paper"] is None and rows["K4"]["larger"] is None


def test_the_environment_moves_live_records_only(root, tmp_path, monkeypatch):
    ledger.start("paper", {})
    ledger.check("K1", True, 1.0)
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "elsewhere"))
    ledger.check("K1", False, 2.0)
    assert read(root / "paper/K1.json")["value"] == 1.0
    row = ledger.table("paper")[0]
    assert (row["live"]["value"], row["paper"]["value"]) == (2.0, 1.0)


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:40], lambda text: "", lambda text: "[]", lambda text: text.replace('"device"', '"devil"')],
)
def test_damaged_records_count_as_not_run(root, damage):
    ledger.check("K1", True, 1.0)
    path = root / "laptop/K1.json"
    path.write_text(damage(path.read_text()))
    with pytest.warns(UserWarning, match="K1 counts as not run: the record .*K1.json"):
        assert ledger.table()[0]["verdict"] == "not run yet"


WRONG = {
    "id": ["K2", None, 3],
    "verdict": ["maybe", None, ["holds"], "not run yet"],
    "value": [math.nan, math.inf, True, [1.0], {}, "", None],
    "ci": [[1.0], [1.0, math.nan], [2.0, 1.0], "12", [1.0, "a"], {"0": 1, "1": 2}, 3, [None, None]],
    "seeds": [0, -1, 2.5, "3", True, math.nan],
    "seconds": [-1.0, math.nan, "1", [1]],
    "detail": [None, 3],
    "device": [None, ["cpu"]],
    "date": [20, None],
    "label": [None, ["laptop"]],
}


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_that_check_would_not_write_makes_no_record(root, entry):
    ledger.check("K1", True, 1.0, ci=(0.5, 1.5), seeds=3)
    path = root / "laptop/K1.json"
    record = read(path)
    for wrong in WRONG[entry]:
        path.write_text(json.dumps({**record, entry: wrong}))
        with pytest.warns(UserWarning, match="^K1 counts as not run: the record [^\n]*K1.json (is|has) [^\n]*$"):
            rows = ledger.table()
        assert rows[0]["live"] is None and rows[0]["verdict"] == "not run yet"
        assert ledger.html(rows) and ledger.summary(rows)


def test_a_record_of_300_flipped_bits_is_refused_or_as_it_was_written(root):
    """A flip in a text or a digit cannot be told; whatever is taken has the kinds that a page shows."""
    ledger.check("K1", True, 1.0, ci=(0.5, 1.5), seeds=3, detail="a detail")
    path = root / "laptop/K1.json"
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(300):
            damaged = bytearray(content)
            damaged[k * len(content) // 300] ^= 1 << k % 8
            path.write_bytes(damaged)
            found = ledger._read(path, "laptop", "K1")
            assert ledger._record_html(found, "holds")
            assert found is None or (found["id"], found["label"], found["verdict"]) == ("K1", "laptop", "holds")


def test_every_committed_record_is_read():
    folder = Path(__file__).parents[1] / "results/ledger"
    paths = [path for label in ledger.LARGER for path in sorted((folder / label).glob("*.json"))]
    assert len(paths) > 20
    for path in paths:
        assert ledger._read(path, path.parent.name, path.stem)["id"] == path.stem


def test_html_says_it_in_words_and_links_existing_chapters_only(book):
    (book / "chapters/01_kappa_criterion.ipynb").write_text("{}")
    ledger.check("K1", "caveat", "0.1 < κ", detail="a <b> & c", seeds=1)
    ledger.start("paper", {})
    ledger.check("K1", False, 0.25, ci=(0.2, 0.3), seeds=30)
    rows = ledger.table()
    rows[0]["statement"] = "κ < 1"
    html = ledger.html(rows)
    links = set(re.findall(r'href="([^"#]*)(?:#claim-K[1-4])?"', html))
    assert links == {"01_kappa_criterion.html"}
    row = html[html.index('id="claim-K1"') : html.index('id="claim-K2"')]
    assert "κ &lt; 1 <i>(COB)</i>" in row
    assert "0.1 &lt; κ, 1 seed<br>a &lt;b&gt; &amp; c" in row and "<b> &" not in row
    assert "0.25 [0.2, 0.3], 30 seeds" in row and "≈ holds with a caveat" in row  # the live verdict differs
    assert row.count("✗ does not hold") == 1 and provenance._cpu() in row.replace("&amp;", "&")
    assert html.count("<tr id=") == 41 and "✗" not in html[html.index('id="claim-K2"') :]
    assert "– not run yet" in html[html.index('id="claim-K2"') :]


def test_the_code_state_follows_the_sources(tmp_path):
    """A copy of the module with one byte more has another hash; outside a checkout there is no commit."""
    package = shutil.copytree(files.PACKAGE, tmp_path / "lazylib")
    source = (package / "book" / "ledger.py").read_text(encoding="utf-8")
    program = "import json; from lazylib.book import provenance; print(json.dumps(provenance._code()))"
    states = []
    for text in (source, source + "\n"):
        (package / "book" / "ledger.py").write_text(text, encoding="utf-8")
        states.append(
            json.loads(
                subprocess.check_output(
                    [sys.executable, "-c", program], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}
                )
            )
        )
    assert states[0]["lazylib"] != states[1]["lazylib"] and states[0]["commit"] is None
