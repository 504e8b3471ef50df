"""The ledger: verdicts, records that survive, and the table."""

import contextlib
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from lazylib.book import claims, ledger, ledger_page
from lazylib.book.stats import Estimate
from lazylib.runs import cluster, files

IDS = (
    "K1 K2 K3 K4 T1 T2 T3 T4 P1 P2 P3 P4 P5 S1 S2 A1 L1 L2 L3 C1 C2 C3 C4 W1 B1 B2 B3 B4 "
    "G1 G2 G3 G4 G5 G6 G7 G8 G9 G10 G11 G12 G13 G14 G15 G16"
).split()
MADE = """\
[chapters]
01_made = "A made chapter"

[[claim]]
id = "A1"
work = "COB"
place = "fig. 1"
statement = "A slope of −1."
reference = -1
chapter = "01_made"
since = "2026-01-01"
unit = "problem"
scale = { n = 1000 }

[claim.limbs.slope]
says = "exponent"
within = [-inf, -0.5]
size = [-1.1, -0.9]

[claim.limbs.ends]
says = "every run ended"

[claim.limbs.more]
says = "and more"
within = [0, inf]
beyond = true

[[claim]]
id = "A2"
work = "BG"
statement = "Small."
chapter = "01_made"
since = "2026-01-01"
least = { n = 100 }

[claim.limbs.small]
says = "size"
within = [-inf, 1]

[[claim]]
id = "A3"
work = "BG"
statement = "Large."
chapter = "01_made"
since = "2026-01-01"

[claim.limbs.large]
says = "size"
within = [1, inf]
"""


@pytest.fixture(autouse=True)
def book(tmp_path, monkeypatch):
    """A book with three claims, no chapters and no records."""
    (tmp_path / "book/chapters").mkdir(parents=True)
    (tmp_path / "book/chapters/claims.toml").write_text(MADE, encoding="utf-8")
    for module in (claims, ledger):
        monkeypatch.setattr(module, "repository", lambda: tmp_path / "book")
    return tmp_path / "book"


@pytest.fixture(autouse=True)
def root(book, monkeypatch):
    """The book's own folder of records."""
    monkeypatch.delenv("LAZYLIB_LEDGER", raising=False)
    ledger.start("laptop", {"n": 1000, "taus": [0.1, 1.0]})
    return book / "results/ledger"


SLOPE = Estimate(-1.0, -1.05, -0.95, 5)
GOOD = {"slope": SLOPE, "ends": True, "more": 1.0}


def read(path):
    return json.loads(path.read_text())


def judge(id, good=True):
    """Judge a made claim, to hold or not."""
    ledger.judge(id, {"A1": {**GOOD, "ends": good}, "A2": {"small": 1 - good}, "A3": {"large": 2.0 * good}}[id])


# --- the rules ---


def rules():
    path = Path(__file__).parents[1] / "chapters/claims.toml"
    return claims.tomllib.loads(path.read_text(encoding="utf-8"))


def test_claims_file_is_complete():
    found = {claim["id"]: claim for claim in rules()["claim"]}
    assert sorted(found) == sorted(IDS) and len(rules()["claim"]) == len(IDS)
    known = {"id", "work", "place", "statement", "reference", "source", "deviation", "chapter"}
    known |= {"since", "changed", "planted", "unit", "scale", "least", "limbs"}
    for id, claim in found.items():
        assert claim.keys() <= known, id
        assert claim["work"] in ("COB", "BG", "GSJW") and claim["statement"].endswith(".")
        assert claim["chapter"] in rules()["chapters"]
        assert re.fullmatch(r"2026-\d\d-\d\d", claim["since"]) and claim.get("changed", ".").endswith(".")
        assert any(not limb.get("beyond") for limb in claim["limbs"].values()), id
    assert found["P4"]["place"] == "fig. 2b" and found["K2"]["reference"] == -1
    chapters = [claim["chapter"] for claim in found.values()]
    assert chapters == sorted(chapters)  # the table groups by chapter, in order


def test_claims_and_limbs_say_how_many_planted_errors_they_find():
    """The tests of chapters 1 to 12 name, error by error, the limbs that tell it from the sound run."""
    modules = [importlib.import_module(f"tests.test_planted_{number:02}") for number in range(1, 13)]
    errors = [{name.removesuffix("?") for name in names} for module in modules for names in module.CAUGHT]
    limbs = Counter(name for names in errors for name in names if "." in name)
    found = Counter(claim for names in errors for claim in {name.split(".")[0] for name in names})
    for claim in rules()["claim"]:
        said = {f"{claim['id']}.{name}": limb.get("planted", 0) for name, limb in claim["limbs"].items()}
        assert said == {name: limbs.pop(name, 0) for name in said}
        assert claim["planted"] == found.pop(claim["id"])
    assert not limbs and not found


def test_every_limb_finds_three_planted_errors():
    few = {f"{claim['id']}.{name}": limb.get("planted", 0) for claim in rules()["claim"]
           for name, limb in claim["limbs"].items()}  # fmt: skip
    assert {name: count for name, count in few.items() if count < 3} == {}


def test_every_limb_has_bounds_in_order_or_none():
    for claim in rules()["claim"]:
        for name, limb in claim["limbs"].items():
            where = f"{claim['id']}, {name}"
            assert limb.keys() <= claims.FIELDS and limb["says"] and ("within" in limb or "size" not in limb), where
            for low, high in (limb[bounds] for bounds in ("within", "size") if bounds in limb):
                assert low < high, where
            if "size" in limb:  # the published number is one that the claim allows
                assert limb["within"][0] <= limb["size"][0] and limb["size"][1] <= limb["within"][1], where


def test_no_rule_has_one_side_only():
    for claim in rules()["claim"]:
        for name, limb in claim["limbs"].items():
            (low, high), (least, most) = (limb.get(key, (-math.inf, math.inf)) for key in ("within", "possible"))
            if "within" in limb:
                assert math.isfinite(max(low, least)) and math.isfinite(min(high, most)), (claim["id"], name)
                assert least <= low or low == -math.inf, (claim["id"], name)
                assert most >= high or high == math.inf, (claim["id"], name)


@pytest.mark.parametrize(
    ("value", "answer"),
    [(2.0, "yes"), (100.0, "yes"), (101.0, "no"), (Estimate(101.0, 90.0, 112.0, 5), "no"), (0.5, "no"),
     (Estimate(99.0, 90.0, 108.0, 5), "yes"), (math.inf, "no")],
)  # fmt: skip
def test_a_measure_that_is_not_possible_is_no_yes(value, answer):
    assert claims._answer({"within": [1, math.inf], "possible": [-math.inf, 100]}, value) == answer


NO_DIFFERENCE = {  # limbs that say that something does not change or agrees: margins on both sides
    "G3": ["flat"], "G10": ["change"], "G12": ["feature"], "G13": ["error", "variance"], "G1": ["frozen"],
    "G6": ["lazy", "size"], "A1": ["loss", "kappa", "grid"], "P1": ["tangent"], "P2": ["flat", "constant"],
    "P4": ["plateau", "descent"], "B4": ["rate", "kernel"], "K2": ["constant"], "S1": ["tangent"],
}  # fmt: skip


def test_no_difference_needs_a_margin_on_both_sides():
    limbs = {claim["id"]: claim["limbs"] for claim in rules()["claim"]}
    for id, names in NO_DIFFERENCE.items():
        for name in names:
            assert all(math.isfinite(end) for end in limbs[id][name]["within"]), (id, name)


def test_the_page_says_which_difference_the_units_could_have_told():
    ledger.judge("A1", {**GOOD, "slope": {"a": SLOPE, "b": Estimate(-1.0, -1.2, -0.8, 5), "c": -1.0}})
    ledger.judge("A2", {"small": 0.5})
    page = ledger_page.html(ledger.table())
    assert page.count('class="ledger-tells"') == 1  # the largest of the cases, and none for a number
    assert 'ledger-tells">tells 0.27</small>' in page  # 1.35 · 0.2


def test_a_record_without_what_its_units_tell_is_read(root):
    judge("A1")
    record = read(root / "laptop/A1.json")
    del record["limbs"]["slope"]["cases"][""]["detects"], record["sha256"]
    record["sha256"] = ledger._digest(record)  # as it was written then
    (root / "laptop/A1.json").write_text(json.dumps(record))
    assert ledger.table()[0]["live"]["limbs"]["slope"]["cases"][""] == SLOPE


def test_works_are_in_the_bibliography():
    bib = (Path(__file__).parents[1] / "references.bib").read_text()
    keys = re.findall(r"^@\w+\{(\w+),$", bib, re.MULTILINE)
    assert len(keys) == len(set(keys)) and {claim["work"] for claim in rules()["claim"]} <= set(keys)


@pytest.mark.parametrize(
    ("measures", "parameters", "verdict"),
    [
        ({}, {"n": 1000}, "holds"),
        ({}, {}, "holds"),
        ({}, {"n": 999}, "holds at smaller scale"),
        ({}, {"n": [10, 1000]}, "holds"),  # of a list the largest counts
        ({"slope": -1.0}, {}, "holds"),
        ({"slope": Estimate(-0.8, -0.85, -0.75, 5)}, {"n": 1}, "right direction, other size"),
        ({"slope": Estimate(-0.9, -0.95, -0.85, 5)}, {}, "undecided"),  # of the size claimed or not
        ({"slope": Estimate(-0.5, -0.7, -0.3, 5)}, {}, "undecided"),
        ({"slope": Estimate(-1.0, math.nan, math.nan, 2)}, {}, "undecided"),  # nothing says how sure it is
        ({"slope": Estimate(-0.3, -0.5, -0.1, 5)}, {}, "does not hold"),
        ({"slope": {"a": SLOPE, "b": -0.1}}, {}, "does not hold"),  # one case is enough
        ({"slope": {"a": SLOPE, "b": Estimate(-0.5, -0.7, -0.3, 5)}}, {}, "undecided"),
        ({"slope": {"a": -0.1, "b": Estimate(-0.5, -0.7, -0.3, 5)}}, {}, "does not hold"),
        ({"ends": np.False_}, {}, "does not hold"),
        ({"ends": None}, {}, "undecided"),
        ({"slope": None}, {}, "undecided"),  # nothing could be measured
        ({"ends": torch.tensor(True)}, {}, "holds"),
        ({"slope": math.inf}, {}, "does not hold"),  # a level that is never reached
        ({"more": -1.0}, {}, "holds"),  # more than is claimed
        ({"more": Estimate(0.0, -1.0, 1.0, 3)}, {}, "holds"),
    ],
)
def test_verdicts(measures, parameters, verdict):
    assert claims.weigh("A1", {**GOOD, **measures}, parameters).verdict == verdict


def test_below_the_least_scale_nothing_is_decided():
    for size in (0.5, 2.0):
        assert claims.weigh("A2", {"small": size}, {"n": 99}).verdict == "not tested at this scale"
    assert claims.weigh("A2", {"small": 2.0}, {"n": 100}).verdict == "does not hold"


@pytest.mark.parametrize(
    ("id", "measures", "sentence"),
    [
        ("Z9", GOOD, r"a claim must be one of A1, .*, not 'Z9'\."),
        ("A1", {"slope": -1.0}, r"A1: the limbs must be slope, ends, more .*, not slope\."),
        ("A1", {**GOOD, "slope": math.nan}, r"A1, slope: the measure must be a number, an estimate or None, not nan\."),
        ("A1", {**GOOD, "slope": Estimate(math.nan, 1.0, 2.0, 3)}, r"A1, slope: the measure .*, not Estimate.*"),
        ("A1", {**GOOD, "slope": True}, r"A1, slope: the measure must be a number, .*, not True\."),
        ("A1", {**GOOD, "slope": np.array([1.0, 2.0])}, r"A1, slope: the measure .*, not array.*"),
        ("A1", {**GOOD, "slope": "steep"}, r"A1, slope: the measure .*, not 'steep'\."),
        ("A1", {**GOOD, "slope": {}}, r"A1, slope: there must be at least one measure\."),
        ("A1", {**GOOD, "slope": {"a": -1.0, "b": math.nan}}, r"A1, slope: the measure .*, not nan\."),
        ("A1", {**GOOD, "ends": 1.0}, r"A1, ends: the measure must be True, False or None, not 1.0\."),
        ("A1", {**GOOD, "more": torch.tensor(math.nan)}, r"A1, more: the measure .*, not nan\."),
    ],
)
def test_what_a_rule_cannot_judge_records_nothing(root, capsys, id, measures, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        ledger.judge(id, measures)
    assert not root.exists() and capsys.readouterr().out == ""


# --- judging ---


def test_judging_prints_a_line_for_each_limb_and_records_them(root, capsys):
    ledger.judge("A1", {**GOOD, "slope": {"ReLU": Estimate(np.float64(-0.99812), -1.001, -0.9951, 5), "GELU": -1.2e-7}})
    assert capsys.readouterr().out == (
        "A1 does not hold; paper: −1\n"
        "  ✗ exponent: ReLU −0.998 [−1.001, −0.995], GELU below 1e−06; 5 problems; "
        "asked below −0.5, in the size claimed −1.1 to −0.9\n"
        "  ✓ every run ended: yes\n"
        "  ✓ and more (more than is claimed): 1; asked above 0\n"
    )
    record = read(root / "laptop/A1.json")
    assert record["verdict"] == "does not hold" and record["label"] == "laptop" and record["detail"] == ""
    slope = record["limbs"]["slope"]
    assert slope["answer"] == "no" and slope["asked"]["size"] == [-1.1, -0.9]
    told = slope["cases"]["ReLU"].pop("detects")  # at n = 5 1.35 half-widths
    assert slope["cases"]["ReLU"] == {"value": -0.99812, "low": -1.001, "high": -0.9951, "n": 5}
    assert told == pytest.approx(1.3546 * 0.00295, rel=1e-3)
    assert record["limbs"]["ends"]["cases"] == {"": True}
    assert record["parameters"] == {"n": 1000, "taus": [0.1, 1.0]} and record["seconds"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]) and record["device"]
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert re.fullmatch("[0-9a-f]{16}", record["code"]["lazylib"])
    assert [path.name for path in (root / "laptop").iterdir()] == ["A1.json"]  # no temporary file is left


def test_runs_that_failed_are_counted_and_not_judged(root, capsys):
    ledger.judge("A1", lambda: GOOD, np.array([True, True]))
    assert read(root / "laptop/A1.json")["verdict"] == "holds"
    capsys.readouterr()
    ledger.judge("A1", lambda: 1 / 0, [np.array([[True, False]]), xr.DataArray([False])], "fell asleep")
    assert capsys.readouterr().out == "A1 does not hold: 2 of 3 runs fell asleep; paper: −1\n"
    row = ledger.table()[0]
    assert row["verdict"] == "does not hold" and row["live"]["detail"] == "2 of 3 runs fell asleep"


def test_what_a_run_cannot_test_says_why(root, capsys):
    ledger.untested("A2", "no images here")
    assert capsys.readouterr().out == "A2 not tested at this scale: no images here\n"
    assert read(root / "laptop/A2.json")["detail"] == "no images here"
    with pytest.raises(ValueError, match="not 'Z9'"):
        ledger.untested("Z9", "it is none")


# --- records ---


def test_what_json_has_not_survives_the_record():
    ledger.judge("A1", {**GOOD, "slope": {"a": Estimate(-1.0, math.nan, math.nan, 2), "b": SLOPE, "c": math.inf}})
    row = ledger.table()[0]
    cases = row["live"]["limbs"]["slope"]["cases"]
    assert cases["a"].ci is None and cases["a"].n == 2 and cases["b"] == SLOPE and cases["c"] == math.inf
    assert row["verdict"] == "does not hold"  # inf is a level that is never reached


def test_a_record_is_weighed_by_the_rules_as_they_stand_now(book):
    judge("A1")
    path = book / "chapters/claims.toml"
    path.write_text(MADE.replace("within = [-inf, -0.5]", "within = [-inf, -2]").replace("size = [-1.1, -0.9]\n", ""))
    row = ledger.table()[0]
    assert row["verdict"] == row["live"]["verdict"] == "does not hold" and row["live"]["first"] == "holds"
    assert row["live"]["limbs"]["slope"]["answer"] == "no"
    assert "as first judged: holds" in ledger_page.html([row])
    more = '[claim.limbs.also]\nsays = "and also"\nwithin = [0, inf]\nbeyond = true\n\n[claim.limbs.more]'
    path.write_text(MADE.replace("[claim.limbs.more]", more))
    row = ledger.table()[0]  # one limb more, on which no verdict depends
    assert row["verdict"] == row["live"]["verdict"] == row["live"]["first"] and "also" not in row["live"]["limbs"]
    assert "and also" in ledger_page.html([row])
    path.write_text(MADE.replace("[claim.limbs.more]", more.replace("beyond = true\n", "")))
    assert ledger.table()[0]["verdict"] == "judged by earlier rules"
    path.write_text(MADE.replace("[claim.limbs.ends]", "[claim.limbs.other]"))
    row = ledger.table()[0]  # other limbs: what was measured cannot be weighed
    assert row["verdict"] == row["live"]["verdict"] == "judged by earlier rules"
    assert "as first judged: holds" in ledger_page.html([row])


def test_a_run_that_is_older_than_its_rules_says_so(book):
    judge("A1")
    said, path = "run before the rules last changed", book / "chapters/claims.toml"
    assert said not in ledger_page.html(ledger.table())
    path.write_text(MADE.replace('unit = "problem"', 'unit = "problem"\nchanged = "2026-02-01: a. 9999-01-01: b."'))
    assert ledger_page.html(ledger.table()).count(said) == 1


def test_the_export_is_plain_json(book):
    ledger.judge("A1", {**GOOD, "slope": {"a": Estimate(-1.0, math.nan, math.nan, 2), "b": -math.inf}})
    row = json.loads(ledger.exported(ledger.table()), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))[0]
    assert row["id"] == "A1" and row["limbs"]["slope"]["within"] == [None, -0.5]
    assert row["live"]["limbs"]["slope"]["cases"] == {
        "a": {"value": -1.0, "low": None, "high": None, "n": 2, "detects": None},
        "b": None,
    }


def test_changed_runs_never_reach_the_paper_folder(root):
    ledger.start("paper", {})
    judge("A1")
    before = (root / "paper/A1.json").read_bytes()
    ledger.start("paper, changed", {})
    judge("A1", False)
    assert (root / "paper/A1.json").read_bytes() == before
    assert read(root / "paper-changed/A1.json")["verdict"] == "does not hold"


def test_a_failed_write_leaves_the_old_record(root, monkeypatch):
    judge("A1")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="A1 is not recorded: .*No space left"):
        judge("A1", False)
    assert read(root / "laptop/A1.json")["verdict"] == "holds"


def test_a_place_that_cannot_be_written_only_warns(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="A1 is not recorded: .* cannot be written"):
        judge("A1")
    assert "A1 holds" in capsys.readouterr().out and "holds" in ledger.verdict_line("A1")
    assert all(row["live"] is None for row in ledger.table())


def test_verdict_line_is_of_this_run_only(root):
    judge("A1")
    judge("A2", False)
    line = ledger.verdict_line("A1", "A2", "A3")
    assert line.startswith("**A1** ✓ holds · **A2** ✗ does not hold · **A3** – not run yet (preset: laptop;")
    assert "[ledger](ledger.ipynb)" in line
    ledger.start("laptop", {})  # another run: the stored records must not speak for it
    assert "✓" not in ledger.verdict_line("A1", "A2")
    with pytest.raises(ValueError, match="not 'K9'"):
        ledger.verdict_line("K9")


def test_table_has_every_claim_and_prefers_the_larger_scale(root):
    judge("A1")
    judge("A3")
    ledger.start("paper", {"n": 5000})
    judge("A3", False)
    rows = {row["id"]: row for row in ledger.table("laptop")}
    assert list(rows) == ["A1", "A2", "A3"]
    assert rows["A1"]["verdict"] == "holds" and rows["A1"]["paper"] is None
    assert rows["A3"]["verdict"] == "does not hold" and rows["A3"]["live"]["verdict"] == "holds"
    assert rows["A2"]["verdict"] == "not run yet"
    assert ledger.summary(list(rows.values())) == "3 claims: 1 × holds, 1 × does not hold, 1 × not run yet"
    assert all(row["live"] is None for row in ledger.table("smoke"))


def test_verdict_line_says_where_a_larger_run_found_otherwise(root):
    ledger.start("cpu", {"n": 2000})
    judge("A1", False)
    ledger.untested("A2", "no images here")
    judge("A3")
    assert "larger" not in ledger.verdict_line("A1", "A2", "A3")
    ledger.start("laptop", {"n": 1000})
    for id in ("A1", "A2", "A3"):
        judge(id)
    line = ledger.verdict_line("A1", "A2", "A3")
    assert line.endswith("[ledger](ledger.ipynb)). In a larger run (cpu): **A1** ✗ does not hold")


def test_a_stored_run_that_is_not_larger_decides_nothing(root):
    for label, n in ("laptop", 1000), ("cpu", 1000):
        ledger.start(label, {"n": n})
        judge("A1", label == "laptop")
        judge("A3", label == "laptop")  # whose scale names nothing
    rows = {row["id"]: row for row in ledger.table()}
    assert rows["A1"]["verdict"] == "holds" and rows["A1"]["larger"] is None
    assert rows["A3"]["verdict"] == "does not hold" and rows["A3"]["larger"]
    ledger.start("laptop", {"n": 1000})
    judge("A1")
    assert "larger" not in ledger.verdict_line("A1")
    assert "does not hold" in ledger.verdict_line("A1", "A3")


def test_the_largest_run_that_decided_a_claim_gives_the_verdict(root):
    for scale, chosen in {
        "laptop": {"A1": True, "A2": True},
        "cpu": {"A2": False, "A3": True},
        "paper": {"A1": False},
    }.items():
        ledger.start(scale, {"n": {"laptop": 1000, "cpu": 10, "paper": 5000}[scale]})
        for id, good in chosen.items():
            judge(id, good)
    rows = {row["id"]: row for row in ledger.table()}
    assert [rows[id]["verdict"] for id in ("A1", "A2", "A3")] == ["does not hold", "holds", "holds"]
    assert [rows[id]["larger"]["label"] for id in ("A1", "A2", "A3")] == ["paper", "cpu", "cpu"]
    assert rows["A2"]["paper"] is None and rows["A3"]["live"] is None


def test_the_environment_moves_live_records_only(root, tmp_path, monkeypatch):
    ledger.start("paper", {})
    judge("A1")
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "elsewhere"))
    judge("A1", False)
    assert read(root / "paper/A1.json")["verdict"] == "holds"
    row = ledger.table("paper")[0]
    assert (row["live"]["verdict"], row["paper"]["verdict"]) == ("does not hold", "holds")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"device"', '"devil"'),
        lambda text: text.replace("1000", "2000"),
        lambda text: text.replace("1000", "NaN"),
        lambda text: text.replace('"detail": ""', '"detail": "as it should"'),
        lambda text: re.sub('"sha256": "[0-9a-f]*"', '"sha256": "0"', text),
        lambda text: re.sub(',\n "sha256": "[0-9a-f]*"', "", text),
    ],
)
def test_damaged_records_count_as_not_run(root, damage):
    judge("A1")
    path = root / "laptop/A1.json"
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.warns(UserWarning, match=r"^A1 counts as not run: the record [^\n]*A1.json [^\n]*remove it\.$"):
        assert ledger.table()[0]["verdict"] == "not run yet"


def test_a_damaged_record_of_a_larger_run_makes_no_page(root):
    """Without it the page would show another verdict."""
    ledger.start("paper", {"n": 5000})
    judge("A1", False)
    ledger.start("laptop", {"n": 1000})
    judge("A1")
    path = root / "paper/A1.json"
    good = path.read_text()
    judge("A2")
    for wrong, why in (
        (good.replace("does not hold", "holds"), r"is not as it was written: its SHA-256 is another"),
        ((root / "laptop/A1.json").read_text(), r"is one of 'laptop'"),
        (good.replace('"A1"', '"A2"'), r"is one of 'A2'"),
        (good.replace("5000", "NaN"), r"cannot be read \(ValueError\)"),
    ):
        assert wrong != good
        path.write_text(wrong)
        sentence = rf"^the record [^\n]*paper/A1\.json {why}; restore it \(git checkout\) or remove it\.$"
        for show in (ledger.table, lambda: ledger.verdict_line("A1"), lambda: ledger.larger("A1")):
            with pytest.raises(ValueError, match=sentence):
                show()
    path.write_text(good)
    assert ledger.table()[0]["verdict"] == "does not hold"


ESTIMATE = {"value": -1.0, "low": -1.1, "high": -0.9, "n": 5}
WRONG = {
    "id": ["A2", None, 3],
    "verdict": ["maybe", None, ["holds"], "not run yet"],
    "limbs": [
        [],
        None,
        {"slope": {}, "ends": {}, "more": {}},
        {"slope": [1], "ends": {}, "more": {}},
        *(
            {"slope": {"cases": {"": wrong}}, "ends": {"cases": {"": True}}, "more": {"cases": {"": 1.0}}}
            for wrong in (
                *(math.nan, True, "1", [1.0], {}),
                *({**ESTIMATE, "n": n} for n in (0, -1, 2.5, "3", True)),
                *({**ESTIMATE, "value": value} for value in (None, "1", math.nan, True)),
                *({**ESTIMATE, "low": low} for low in (0.0, "a", [1])),
                {**ESTIMATE, "more": 1},
            )
        ),
    ],
    "parameters": [None, [1]],
    "seconds": [-1.0, math.nan, "1", [1]],
    "detail": [None, 3],
    "device": [None, ["cpu"]],
    "date": [20, None],
    "label": [None, ["laptop"]],
}


def sealed(record):
    """A record's text with a digest that is right, where it can have one: JSON has no NaN."""
    with contextlib.suppress(ValueError):
        record["sha256"] = ledger._digest(record)
    return json.dumps(record)


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_that_judge_would_not_write_makes_no_record(root, entry):
    judge("A1")
    path = root / "laptop/A1.json"
    record = read(path)
    for wrong in WRONG[entry]:
        path.write_text(sealed({**record, entry: wrong}))
        sentence = "^A1 counts as not run: the record [^\n]*A1.json (is|has|cannot be read) [^\n]*$"
        with pytest.warns(UserWarning, match=sentence):
            rows = ledger.table()
        assert rows[0]["live"] is None and rows[0]["verdict"] == "not run yet"
        assert ledger_page.html(rows) and ledger.summary(rows)


def test_a_record_of_300_flipped_bits_is_refused(root):
    """But for a flip that changes nothing, as of e to E in a number."""
    judge("A1")
    path = root / "laptop/A1.json"
    content, whole = path.read_bytes(), ledger.table()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(300):
            damaged = bytearray(content)
            damaged[k * len(content) // 300] ^= 1 << k % 8
            path.write_bytes(damaged)
            row = ledger.table()[0]
            assert row["live"] is None or row == whole, k
    assert whole["live"]["verdict"] == "holds"


def test_every_committed_record_is_read(monkeypatch):
    monkeypatch.undo()  # the book's own claims
    folder = Path(__file__).parents[1] / "results/ledger"
    paths = [path for label in ledger.LARGER for path in sorted((folder / label).glob("*.json"))]
    assert len(paths) > 20
    for path in paths:
        assert ledger._read(path, path.parent.name, path.stem)["id"] == path.stem


def test_html_says_it_in_words_and_links_existing_chapters_only(book):
    (book / "chapters/01_made.ipynb").write_text("{}")
    ledger.judge("A1", {**GOOD, "more": {"a <b> & c": -1.0}})
    ledger.start("paper", {})
    judge("A1", False)
    rows = ledger.table()
    rows[0]["statement"] = "κ < 1"
    html = ledger_page.html(rows)
    assert set(re.findall(r'href="([^"#]*)(?:#claim-A[1-3])?"', html)) == {"01_made.html"}
    row = html[html.index('id="claim-A1"') : html.index('id="claim-A2"')]
    assert "κ &lt; 1 <i>(COB, fig. 1)</i> Paper: −1." in row
    assert "✗ a &lt;b&gt; &amp; c −1" in row and "<b> &" not in row and "(more than is claimed)" in row
    assert "exponent: below −0.5, in the size claimed −1.1 to −0.9" in row
    assert row.count("✓ −1.00 [−1.05, −0.95]; 5 problems") == 2
    assert row.count("✗ does not hold") == 1 and row.count("✓ holds") == 1  # the live verdict differs
    assert cluster.processor().partition(",")[0] in row.replace("&amp;", "&")
    assert html.count("<tr id=") == 3 and "✗" not in html[html.index('id="claim-A2"') :]
    assert "– not run yet" in html[html.index('id="claim-A2"') :]
    none = re.findall(r'<td data-label="([^"]*)" class="ledger-none">–</td>', html)
    assert set(none) == {"Live here", "Larger run"} and html.count("ledger-none") == html.count(">–</td>") == len(none)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("α ∝ τ^(−q), at h^(−1/2).", "α ∝ τ<sup>−q</sup>, at h<sup>−1/2</sup>."),
        ("ατ^q, and (√h·α)^(−a)", "ατ<sup>q</sup>, and (√h·α)<sup>−a</sup>"),
        ("t_{L/2} < 1 & a_b", "t<sub>L/2</sub> &lt; 1 &amp; a_b"),
        ("f(x) = 10⁴", "f(x) = 10⁴"),
    ],
)
def test_powers_and_indices_are_typeset(text, html):
    assert ledger_page._typeset(text) == html


def test_every_claim_says_its_source_and_how_its_run_deviates(monkeypatch):
    monkeypatch.undo()  # the book's own claims
    rows = ledger.table()
    page = unescape(ledger_page.html(rows))
    assert {row["id"] for row in rows} == set(IDS)
    for row in rows:
        assert row["source"] and not row["source"].endswith("."), row["id"]
        assert row["deviation"].endswith(".") and len(row["deviation"]) <= 160, row["id"]
        place = f"{row['work']}, {row['place']}" if row["place"] else row["work"]
        assert f" {unescape(ledger_page._typeset(row['statement']))} <i>({place}; {row['source']})</i>" in page, row[
            "id"
        ]
        assert f"Deviation from the work: {row['deviation']} Rules of {row['since']}." in page, row["id"]


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
