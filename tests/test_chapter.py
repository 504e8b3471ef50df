"""What chapters share: the start, stored results, sentences, notes; each in a chapter made here."""

import hashlib
import json
from pathlib import Path

import nbclient
import numpy as np
import pytest
import xarray as xr

from lazylib.book import chapter
from lazylib.book.parameters import (
    among,
    at_least,
    below,
    decreasing,
    device,
    having,
    increasing,
    resolve,
    starts_with,
)
from lazylib.book.stats import Estimate
from tests.made_notebooks import code, notebook, text

PRESETS = {
    "laptop": {"widths": [2, 8, 16], "few": [8], "low": 1.0, "high": 2.0, "device": "cpu"},
    "cpu": {"low": 0.5},
    "paper": {},
}


def begin(preset="laptop", **given):
    names = {**dict.fromkeys(PRESETS["laptop"]), "preset": preset, **given}
    return chapter.start("08_made", names, PRESETS, claims="W1")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(chapter, "RESULTS", tmp_path)
    monkeypatch.setattr(chapter, "_now", None)
    monkeypatch.delenv("LAZYLIB_STORE", raising=False)


def data():
    return xr.Dataset({"x": ("m", np.array([1.0, np.pi]))}, {"m": [2, 8]}, {"width": 3})


# --- rules of one line ---


@pytest.mark.parametrize(
    ("name", "rule", "value", "sentence"),
    [
        ("widths", increasing(2), [8, 2], r"widths must be increasing, with 2 values at least, not \[8, 2\]\."),
        ("widths", increasing(2), [8], "widths must be increasing, with 2 values at least"),
        ("widths", increasing(2, above=8), [2, 8], "increasing, with 2 values of 8 or more at least"),
        ("widths", decreasing(), [2, 8], "widths must be decreasing, with 1 value at least"),
        ("widths", starts_with(1), [2, 8], "widths must be a list that starts with 1, not"),
        ("widths", having(2, low="low"), [0, 8], "widths must be a list with 2 values from low on at least, not"),
        ("widths", having(1, high="high"), [3, 8], "widths must be a list with 1 value up to high at least"),
        ("widths", having(1, "low", "high"), [0, 3], "widths must be a list with 1 value from low to high at least"),
        ("few", among("widths"), [9], "few must be among widths, not 9"),
        ("few", at_least("low"), [0], "few must be at least low, not 0"),
        ("low", below("high"), 2.0, "low must be below high, not 2.0"),
        ("device", device, "tpu", 'device must be "cpu", or "cuda" where torch sees a GPU, not .tpu.'),
    ],
)
def test_a_rule_of_one_line(name, rule, value, sentence):
    names = {**dict.fromkeys(PRESETS["laptop"]), "preset": "laptop"}
    assert resolve(names, PRESETS, **{name: rule if name == "device" or "among" in sentence else ()})
    with pytest.raises(ValueError, match=f"^[^\n]*{sentence}"):
        resolve({**names, name: value}, PRESETS, **{name: rule})


def test_enough_values_between_two_others_are_fine():
    names = {**dict.fromkeys(PRESETS["laptop"]), "preset": "laptop"}
    for rule in (having(1, high="high"), having(3, low="low"), having(1, "low", "high")):
        assert resolve(names, PRESETS, widths=rule).widths == [2, 8, 16]
        assert resolve(names, PRESETS, widths=(rule, at_least(2)))


def test_another_device_is_the_same_run():
    tables = {"laptop": {"device": "cpu"}, "paper": {"device": "cuda"}}
    assert resolve({"preset": "paper", "device": "cpu"}, tables).label == "paper"


# --- stored results ---


@pytest.mark.parametrize(("preset", "given", "stored"), [("laptop", {}, 0), ("cpu", {}, 1), ("cpu", {"high": 3.0}, 0)])
def test_only_a_larger_run_as_it_is_meant_is_stored(tmp_path, preset, given, stored):
    begin(preset=preset, **given)
    chapter.keep(folder=tmp_path, widths=data())
    assert len(list(tmp_path.glob("*.nc"))) == stored


def test_rows_of_axes_bring_their_results(tmp_path):
    begin(preset="cpu")
    chapter.keep(folder=tmp_path, widths=data().assign_attrs(n=7))
    begin()
    chapter.stored("widths")
    (one,) = chapter.rows(3, scan=data())
    assert len(one[0]) == 3 and one[0][0].get_ylabel() == "live: laptop"
    both = chapter.rows(2, widths=data().assign_attrs(n=5))
    labels = [axes[0].get_ylabel() for axes, _ in both]
    assert labels == ["live: laptop,\nn = 5", "a larger run on a processor, stored,\nn = 7"]
    assert [found.attrs["n"] for _, (found,) in both] == [5, 7]


def test_a_table_has_true_minus_signs_and_empty_cells(monkeypatch):
    shown = []
    monkeypatch.setattr(chapter, "display", shown.append)
    rows = {("kernel", 2): {"live": Estimate(-1.5, -1.6, -1.4, 3), "paper": None}}
    rows["weights", 3] = {"live": -0.255, "paper": "−0.2"}
    chapter.table(rows, names=["of", "L"])
    assert shown[0].loc[("kernel", 2)].tolist() == ["−1.50 [−1.60, −1.40]", ""]
    assert shown[0].loc[("weights", 3)].tolist() == ["−0.26", "−0.2"] and shown[0].index.names == ["of", "L"]
    chapter.table({"a": {("x", "y"): np.nan, ("x", "z"): 2}}, 0)
    assert shown[1].loc["a", "x"].tolist() == ["", "2"] and list(shown[1].columns) == [("x", "y"), ("x", "z")]
    chapter.table(
        xr.DataArray([[-1.0, np.nan]], dims=("L", "alpha_hat"), coords={"L": [3], "alpha_hat": [0.1234, 1]}), 1
    )
    assert shown[2].loc[3].tolist() == ["−1.0", ""] and list(shown[2].columns) == ["0.123", "1"]
    assert shown[2].columns.name == "√h·α"


def test_what_is_stored_says_where_it_comes_from_and_is_read_again(tmp_path, capsys):
    begin(preset="cpu")
    chapter.keep(folder=tmp_path, widths=data())
    begin()
    found = chapter.stored("widths", "scan")
    assert "not stored: scan" in capsys.readouterr().out and found["scan"] is None
    widths = found["widths"]
    assert widths.x.dims == ("m",) and widths.x.dtype == "float32" and widths.attrs["width"] == 3
    assert widths.attrs["label"] == "cpu" and json.loads(widths.attrs["parameters"])["low"] == 0.5
    assert "store" not in json.loads(widths.attrs["parameters"])  # a folder of this machine
    titles = [title for title, _ in chapter.beside(data(), "widths")]
    assert titles == ["live: laptop", "a larger run on a processor, stored"]
    assert [title for title, _ in chapter.beside(data(), "scan")] == ["live: laptop"]
    drawn = []
    axes = chapter.panels(data(), "widths", lambda ax, part: drawn.append(part))
    assert len(axes) == len(drawn) == 2 and axes[1].get_title() == titles[1]
    chapter.notes()
    assert "stored: cpu, " in capsys.readouterr().out


def test_a_stored_run_of_several_files_is_named_once_and_another_chapters_by_its_name(tmp_path, capsys):
    begin(preset="cpu")
    chapter.keep(folder=tmp_path, seconds=3.0, widths=data())
    chapter.keep(folder=tmp_path, seconds=7.0, scan=data())
    begin()
    widths = chapter.stored("widths", "scan")["widths"]
    chapter._running().stored["other"] = [widths.assign_attrs(chapter="12_other")]
    chapter.notes()
    said = [line.split(" on ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("stored")]
    assert said[-2:] == ["stored: cpu, 7 s", "stored of 12_other: cpu, 3 s"]


def test_every_flip_of_a_stored_result_is_told_by_name_before_work(tmp_path):
    begin(preset="paper")
    chapter.keep(folder=tmp_path, widths=data(), scan=2 * data())
    path = tmp_path / "08_scan.nc"
    content = path.read_bytes()
    (tmp_path / "09_rates.nc").write_bytes(b"of another chapter")
    for k in range(240):
        damaged = bytearray(content)
        damaged[k * len(content) // 240] ^= 1 << k % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"08_scan\.nc is damaged: [^\n]*SHA256SUMS") as told:
            begin()
        assert len(str(told.value).replace(str(tmp_path), "")) < 300
    for wrong in (b"", content[:-1], (tmp_path / "08_widths.nc").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"08_scan\.nc is damaged"):
            begin()
    path.write_bytes(content)
    begin()
    path.write_bytes(content[:-1])  # damaged while the chapter runs
    with pytest.raises(ValueError, match=r"08_scan\.nc is damaged"):
        chapter.stored("scan")
    path.write_bytes(content)
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"08_scan\.nc is not listed in SHA256SUMS"):
        begin()


def test_a_damaged_record_of_a_claim_is_told_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr(chapter.ledger, "repository", lambda: tmp_path)
    begin()
    (tmp_path / "results/ledger/paper").mkdir(parents=True)
    (tmp_path / "results/ledger/paper/W1.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^the record [^\n]*W1\.json lacks entries; restore it \(git checkout\)"):
        begin()


def test_the_manifest_is_that_of_sha256sum_and_lists_every_committed_result():
    results = Path(__file__).parents[1] / "results"
    sums = (hashlib.sha256(path.read_bytes()).hexdigest() + f"  {path.name}" for path in sorted(results.glob("*.nc")))
    assert (results / chapter.MANIFEST).read_text(encoding="utf-8").splitlines() == list(sums)


def test_a_gpu_is_named_where_it_computed(tmp_path, monkeypatch):
    asked = []
    where = dict.fromkeys(["date", "device", "versions", "code"], "?")
    monkeypatch.setattr(chapter, "provenance", lambda device: asked.append(device) or where)
    begin(preset="cpu")
    chapter._now.p.device = "cuda"
    chapter.keep(folder=tmp_path, widths=data())
    chapter.notes()
    assert asked == ["cuda", "cuda"]


def test_the_store_comes_from_the_environment(monkeypatch, tmp_path):
    assert begin().store is None
    monkeypatch.setenv("LAZYLIB_STORE", str(tmp_path))
    assert begin().store == str(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, store in {"": None, " ": None, "~": str(tmp_path), "~/cells": str(tmp_path / "cells")}.items():
        monkeypatch.setenv("LAZYLIB_STORE", given)
        assert begin().store == store
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAZYLIB_STORE", "~/file")
    with pytest.raises(ValueError, match="^LAZYLIB_STORE must be a folder, but ~/file is a file.$"):
        begin()


def test_without_a_start_one_sentence_says_so():
    for call in (chapter.notes, lambda: chapter.stored("a"), lambda: chapter.keep(a=data())):
        with pytest.raises(RuntimeError, match="chapter.start must be called first"):
            call()


# --- sentences ---


def said(monkeypatch, words):
    shown = []
    monkeypatch.setattr(chapter, "display", lambda content: shown.append(content.data))
    chapter.say(words)
    return shown[0]


def test_numbers_get_a_true_minus_and_mathematics_stays(monkeypatch):
    words = "The slope is -0.5 [-0.6, -0.4], $10^{-3}$ and $-1$, `x[-1]`,\n10-fold, 2019-11, from 3 to -.5."
    wanted = "The slope is −0.5 [−0.6, −0.4], $10^{-3}$ and $-1$, `x[-1]`, 10-fold, 2019-11, from 3 to −.5."
    assert said(monkeypatch, words) == wanted


@pytest.mark.parametrize("raw", ["see {eq}`eq-a`", "{numref}`fig-b`", "text\n:::{note}\nx\n:::", "```{glue} x\n```"])
def test_roles_and_directives_are_refused(raw):
    with pytest.raises(ValueError, match="plain Markdown"):
        chapter.say(raw)


def test_in_a_notebook_the_verdicts_come_to_the_top(tmp_path):
    first = """
from lazylib.book import chapter, ledger
p = chapter.start("08_made", {"preset": "laptop"}, {"laptop": {}}, claims="K3")
"""
    page = notebook(
        text("# A"), code(first), code("ledger.judge('K3', {'exponent': 0.0, 'flat': 0.0})"), code("chapter.notes()")
    )
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    done = nbclient.NotebookClient(page, kernel_name="python3", resources={"metadata": {"path": Path.cwd()}}).execute()
    assert "**K3** ✓ holds" in done.cells[1].outputs[0].data["text/markdown"]
    assert not any("text/markdown" in out.get("data", {}) for out in done.cells[3].outputs)


def test_a_run_replaces_only_what_a_run_of_its_preset_stored(tmp_path):
    for preset in ("paper", "cpu", "paper"):
        begin(preset=preset)
        chapter.keep(folder=tmp_path, seconds=7.04, widths=data())
        assert xr.load_dataset(tmp_path / f"08_widths{'_cpu' * (preset == 'cpu')}.nc").attrs["seconds"] == 7.0
    assert len(list(tmp_path.glob("*.nc"))) == 2


def test_all_larger_runs_are_shown_and_the_largest_is_taken(tmp_path):
    for preset, factor in (("cpu", 1), ("paper", 2)):
        begin(preset=preset)
        chapter.keep(folder=tmp_path, widths=factor * data())
    begin()
    assert float(chapter.stored("widths")["widths"].x[0]) == 2
    shown = chapter.beside(data(), "widths")
    titles = ["live: laptop", "published scale or near it, stored", "a larger run on a processor, stored"]
    assert [title for title, _ in shown] == titles
    assert [float(part.x[0]) for _, part in shown] == [1, 2, 1]
