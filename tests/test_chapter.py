"""What chapters share: the start, stored results, sentences, notes; each in a chapter made here."""

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
    increasing,
    resolve,
    starts_with,
)
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


def test_another_device_is_the_same_run():
    tables = {"laptop": {"device": "cpu"}, "paper": {"device": "cuda"}}
    assert resolve({"preset": "paper", "device": "cpu"}, tables).label == "paper"


# --- stored results ---


@pytest.mark.parametrize(("preset", "given", "stored"), [("laptop", {}, 0), ("cpu", {}, 1), ("cpu", {"high": 3.0}, 0)])
def test_only_a_larger_run_as_it_is_meant_is_stored(tmp_path, preset, given, stored):
    begin(preset=preset, **given)
    chapter.keep(folder=tmp_path, widths=data())
    assert len(list(tmp_path.iterdir())) == stored


def test_what_is_stored_says_where_it_comes_from_and_is_read_again(tmp_path, capsys):
    begin(preset="cpu")
    chapter.keep(folder=tmp_path, widths=data())
    begin()
    found = chapter.stored("widths", "scan", rename={"m": "width"})
    assert "not stored: scan" in capsys.readouterr().out and found["scan"] is None
    widths = found["widths"]
    assert widths.x.dims == ("width",) and widths.x.dtype == "float32" and widths.attrs["width"] == 3
    assert widths.attrs["label"] == "cpu" and json.loads(widths.attrs["parameters"])["low"] == 0.5
    titles = [title for title, _ in chapter.beside(data(), "widths")]
    assert titles == ["live: laptop", "a larger run on a processor, stored"]
    assert [title for title, _ in chapter.beside(data(), "scan")] == ["live: laptop"]
    drawn = []
    axes = chapter.panels(data(), "widths", lambda ax, part: drawn.append(part))
    assert len(axes) == len(drawn) == 2 and axes[1].get_title() == titles[1]
    chapter.notes()
    assert "stored: cpu, " in capsys.readouterr().out


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
p = chapter.start("08_made", {"preset": "laptop"}, {"laptop": {}}, claims="W1")
"""
    page = notebook(text("# A"), code(first), code("ledger.check('W1', True, 2.0)"), code("chapter.notes()"))
    for cell in page.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    done = nbclient.NotebookClient(page, kernel_name="python3", resources={"metadata": {"path": Path.cwd()}}).execute()
    assert "**W1** ✓ holds" in done.cells[1].outputs[0].data["text/markdown"]
    assert not any("text/markdown" in out.get("data", {}) for out in done.cells[3].outputs)


def test_a_run_replaces_only_what_a_run_of_its_preset_stored(tmp_path):
    for preset in ("paper", "cpu", "paper"):
        begin(preset=preset)
        chapter.keep(folder=tmp_path, seconds=7.04, widths=data())
        assert xr.load_dataset(tmp_path / f"08_widths{'_cpu' * (preset == 'cpu')}.nc").attrs["seconds"] == 7.0
    assert len(list(tmp_path.iterdir())) == 2
