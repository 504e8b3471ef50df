"""Checking, cleaning and executing notebooks, and filling in the README; each fault is planted once."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_output

from lazylib.problems import images
from tests.made_notebooks import PIXEL, code, figure, notebook, shown, text, write
from tools import check, execute, pages, readme, stand_in
from tools.clean import STATE, VIEW, clean

TITLE = text("# A chapter\n\nIts claim.")


def faults(tmp_path, *cells):
    return check.problems(write(tmp_path / "page.ipynb", *cells))


# --- pages ---


def test_a_sound_page_has_no_problem(tmp_path):
    comment = code("# not a title\n1.0", new_output("stream", name="stdout", text="1.0"))
    assert faults(tmp_path, TITLE, text("## Part\n\n```sh\n# a comment\n```"), comment, figure(), code("")) == []


@pytest.mark.parametrize(
    ("name", "cells", "words"),
    [
        ("unexecuted", [TITLE, nbformat.v4.new_code_cell("1 + 1")], "was not executed"),
        (
            "error",
            [TITLE, code("f()", new_output("error", ename="ValueError", evalue="τ is -1"))],
            "ValueError: τ is -1",
        ),
        ("no alt", [TITLE, figure(alt=None)], "no alternative text"),
        ("empty alt", [TITLE, figure(alt=" ")], "no alternative text"),
        ("no alt, svg", [TITLE, code("plot()", shown(**{"image/svg+xml": "<svg/>"}))], "no alternative text"),
        ("no alt in text", [TITLE, text("![](picture.png)")], "picture.png has no alternative text"),
        ("two titles", [TITLE, text("# Another")], "has 2"),
        ("no title", [text("## Part")], "has 0"),
        ("late title", [text("Some text."), TITLE], "first cell"),
        (
            "large picture",
            [TITLE, code("p()", shown(image__png="A" * 300_000), mystnb={"image": {"alt": "x"}})],
            "225 kB",
        ),
        (
            "figure beside the value of its last line",
            [
                TITLE,
                code(
                    "ax.set_ylabel('y')",
                    shown(text__plain="Text(0, 0.5, 'y')"),
                    shown(image__png=PIXEL),
                    mystnb={"image": {"alt": "x"}, "figure": {"name": "fig-a", "caption": "A."}},
                ),
            ],
            "gives 2 outputs, and fig-a must be the only one",
        ),
        ("dead widget", [TITLE, code("w", shown(**{VIEW: {"model_id": "gone"}}))], "state was not stored"),
    ],
)
def test_a_fault_is_found(tmp_path, name, cells, words):
    found = faults(tmp_path, *cells)
    assert len(found) == 1 and words in found[0] and "page.ipynb" in found[0], found


def test_pictures_that_are_on_no_page_need_no_text(tmp_path):
    glued = shown(**{"application/papermill.record/image/png": PIXEL})
    assert faults(tmp_path, TITLE, figure(alt=None, tags=("remove-output",)), code("glue()", glued)) == []


def test_pages_come_in_reading_order_and_are_executed_with_the_ledger_last(tmp_path):
    toc = "format: jb-book\nroot: index\nparts:\n  - chapters: [{file: chapters/ledger}]\n"
    toc += "  - caption: Two\n    chapters:\n"
    toc += "      - {file: chapters/b, sections: [{file: chapters/c}]}\n      - {file: chapters/a}\n"
    (tmp_path / "_toc.yml").write_text(toc)
    (tmp_path / "index.md").write_text("# Book")
    for name in ("ledger", "a", "b", "c"):
        write(tmp_path / f"chapters/{name}.ipynb", TITLE)
    assert pages.pages(tmp_path) == ["index", "chapters/ledger", "chapters/b", "chapters/c", "chapters/a"]
    assert [path.stem for path in pages.notebooks(tmp_path)] == ["b", "c", "a", "ledger"]
    assert [path.stem for path in pages.chapters(tmp_path)] == ["b", "c", "a"]
    (tmp_path / "chapters/a.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="names chapters/a"):
        pages.notebooks(tmp_path)


# --- cleaning ---


def model(kind: str, *children: str, **state: object) -> dict:
    return {"model_name": kind, "state": {"children": [f"IPY_MODEL_{child}" for child in children], **state}}


def widgets(prefix: str):
    """A progress bar, and a slider linked to a stack of pictures, with identifiers as random ones are."""
    slider, stack, link = f"{prefix}1", f"{prefix}2", f"{prefix}3"
    models = {
        f"{prefix}8": model("HBoxModel", f"{prefix}9"),
        f"{prefix}9": model("FloatProgressModel"),
        link: {"model_name": "LinkModel", "state": {"source": [f"IPY_MODEL_{slider}", "value"],
                                                    "target": [f"IPY_MODEL_{stack}", "selected_index"]}},
        f"{prefix}7": model("VBoxModel", slider, stack),
        slider: model("IntSliderModel"),
        stack: model("StackModel"),
    }  # fmt: skip
    bar = new_output("stream", name="stderr", text="\r 50%|█████     | 1/2 [00:01<00:01,  1.0it/s]\n")
    warning = new_output("stream", name="stderr", text="a warning\n")
    page = notebook(
        TITLE,
        code("sweep()", shown(**{VIEW: {"model_id": f"{prefix}8"}}), bar, warning),
        code("slider()", shown(**{VIEW: {"model_id": f"{prefix}7"}}), execution={"started": prefix}),
    )
    page.metadata["widgets"] = {STATE: {"state": models, "version_major": 2, "version_minor": 0}}
    page.metadata["papermill"] = {"duration": prefix}
    return page


def test_two_executions_of_a_notebook_are_the_same_file_after_cleaning():
    first, second = clean(widgets("a" * 31)), clean(widgets("b" * 31))
    for one, other in zip(first.cells, second.cells, strict=True):
        other.id = one.id
    assert nbformat.writes(first) == nbformat.writes(second)


def test_a_stream_is_one_piece_wherever_the_kernel_cut_it():
    pieces = [("stdout", "a\n"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    page = notebook(code("", *(new_output("stream", name=name, text=text) for name, text in pieces)))
    kept = [(out.name, out.text) for out in clean(page).cells[0].outputs]
    assert kept == [("stdout", "a\nb"), ("stderr", "c"), ("stdout", "d")]


def test_cleaning_keeps_what_a_reader_needs():
    page = clean(widgets("a" * 31))
    assert [output.get("text") for output in page.cells[1].outputs] == ["a warning\n"]
    models = page.metadata["widgets"][STATE]["state"]
    kinds = sorted(entry["model_name"] for entry in models.values())
    assert kinds == ["IntSliderModel", "LinkModel", "StackModel", "VBoxModel"]
    view = page.cells[2].outputs[0].data[VIEW]["model_id"]
    assert models[view]["model_name"] == "VBoxModel"
    assert set(re.findall(r"IPY_MODEL_(\w+)", str(models))) <= set(models)


# --- executing ---


def test_the_fingerprint_sees_the_source_and_not_the_outputs(tmp_path):
    path = write(tmp_path / "a.ipynb", TITLE, code("x = 1"))
    before = execute.fingerprint(path, "laptop", None)
    write(path, TITLE, code("x = 1", new_output("stream", name="stdout", text="1")))
    assert execute.fingerprint(path, "laptop", None) == before
    assert execute.fingerprint(path, "smoke", None) != before
    write(path, TITLE, code("x = 2"))
    assert execute.fingerprint(path, "laptop", None) != before


def test_the_ledger_is_out_of_date_when_a_record_changes(tmp_path):
    path = write(tmp_path / "ledger.ipynb", TITLE)
    before = execute.fingerprint(path, "laptop", tmp_path)
    (tmp_path / "K1.json").write_text("{}")
    assert execute.fingerprint(path, "laptop", tmp_path) != before
    assert execute.fingerprint(path, "laptop", None) == execute.fingerprint(path, "laptop", None)


def test_executing_gives_the_outputs_and_passes_the_preset(tmp_path):
    parameters = code('preset: str = "laptop"  # smoke | laptop | paper', tags=("parameters",))
    path = write(tmp_path / "a.ipynb", TITLE, parameters, code("print(preset)"))
    cost = execute.execute(path, tmp_path / "out/a.ipynb", "smoke")
    done = nbformat.read(tmp_path / "out/a.ipynb", as_version=4)
    assert done.cells[-1].outputs[0].text == "smoke\n" and cost["seconds"] > 0 and cost["peak_mib"] > 10
    assert not list(tmp_path.rglob("*.failed.ipynb"))


def test_a_failed_execution_says_why_and_overwrites_nothing(tmp_path):
    path = write(tmp_path / "a.ipynb", TITLE, code("raise ValueError('tau must be positive, not -1.')"))
    before = path.read_bytes()
    with pytest.raises(execute.ChapterFailed, match=r"a\.ipynb failed: ValueError: tau must be positive, not -1\."):
        execute.execute(path, path)
    assert path.read_bytes() == before


def test_a_page_with_a_fault_is_not_accepted(tmp_path):
    plot = "from IPython.display import SVG\nSVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>')"
    path = write(tmp_path / "a.ipynb", TITLE, code(plot))
    with pytest.raises(execute.ChapterFailed, match="no alternative text"):
        execute.execute(path, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()


def test_a_dead_kernel_is_reported_with_the_memory_it_had(tmp_path):
    hold, die = "block = bytearray(300 * 2**20)", "import os, time\ntime.sleep(1)\nos._exit(137)"
    path = write(tmp_path / "a.ipynb", TITLE, code(hold), code(die))
    with pytest.raises(execute.ChapterFailed, match="Kernel died, which happens where memory runs") as failed:
        execute.execute(path, tmp_path / "out.ipynb")
    held, free = map(int, re.findall(r"(\d+) MiB", failed.value.reason))
    assert held > 300 and free > 0 and not (tmp_path / "out.ipynb").exists()


FAILS = """\
from lazylib.book import ledger
ledger.untested("T1", "no run")
raise ValueError("tau is `bad`: {doc}`nowhere` $x$ {{ y }} :::\\nnot on the page")"""
REASON = "ValueError: tau is `bad`: {doc}`nowhere` $x$ {{ y }} :::"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Executes the notebooks of a small book, changed or not; returns what became of them."""

    def execute_all(*names, records=tmp_path / "records"):
        monkeypatch.setenv("LAZYLIB_LEDGER", str(records))
        chosen = [tmp_path / f"chapters/{name}.ipynb" for name in names]
        return execute.execute_changed(chosen, tmp_path / "out", "laptop", records, tmp_path)

    return execute_all


def test_a_failed_chapter_costs_the_others_nothing(run, tmp_path):
    committed = code(FAILS, new_output("stream", name="stdout", text="committed"))
    bad = write(tmp_path / "chapters/02_trajectories.ipynb", TITLE, committed)
    write(tmp_path / "chapters/b.ipynb", TITLE, code("print(1)"))
    done = run("02_trajectories", "b")
    assert done == (["b"], [], {"02_trajectories": REASON})
    assert str(done).endswith(f"1 failed: 02_trajectories ({REASON})")
    page = tmp_path / "out/chapters/02_trajectories.ipynb"
    title, cell = nbformat.read(page, as_version=4).cells
    assert title.source.startswith("# A chapter\n\n:::{warning}\nNot executed in this copy")
    assert title.source.endswith(f"`` {REASON} ``\n:::\n\nIts claim.")
    assert cell.outputs == committed.outputs and check.problems(page) == []
    assert stand_in.why(page) == REASON and stand_in.why(page.with_name("b.ipynb")) is None

    assert run("02_trajectories", "b") == ([], ["b"], {"02_trajectories": REASON})  # it is tried again
    write(bad, TITLE, code("print(2)"))
    assert run("02_trajectories", "b") == (["02_trajectories"], ["b"], {})
    assert stand_in.why(page) is None


def test_no_record_of_a_failed_chapter_is_left_unless_it_is_a_committed_one(run, tmp_path, monkeypatch):
    write(tmp_path / "chapters/02_trajectories.ipynb", TITLE, code(FAILS))
    other = write(tmp_path / "records/laptop/K1.json", TITLE)
    run("02_trajectories")
    assert list(tmp_path.rglob("T1.json")) == [] and other.exists()
    monkeypatch.setattr(execute, "RECORDS", tmp_path / "committed")
    run("02_trajectories", records=tmp_path / "committed")
    assert len(list(tmp_path.rglob("committed/*/T1.json"))) == 1


def copied(notebook, output, preset):
    """As `execute.execute`, in no time."""
    write(output, *nbformat.read(notebook, as_version=4).cells)
    return {"seconds": 0.0, "peak_mib": 0}


@pytest.mark.parametrize("damage", ["", "{", "null", "{}"])
def test_after_a_damaged_state_a_chapter_is_executed_again(run, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(execute, "execute", copied)
    write(tmp_path / "chapters/a.ipynb", TITLE, code("1"))
    assert run("a").executed == ["a"] and run("a").unchanged == ["a"]
    (tmp_path / "out/chapters/a.json").write_text(damage)
    assert run("a").executed == ["a"] and run("a").unchanged == ["a"]


def test_a_chapter_is_executed_again_once_cifar10_is_there(run, tmp_path, monkeypatch):
    there = dict.fromkeys(images.SETS)
    monkeypatch.setattr(images, "where", there.get)
    write(tmp_path / "chapters/a.ipynb", TITLE, code("set = 'cifar10'"))
    write(tmp_path / "chapters/b.ipynb", TITLE, code("set = 'none'"))
    run("a", "b")
    there["cifar10"] = tmp_path
    assert run("a", "b") == (["a"], ["b"], {}) and run("a", "b").executed == []


def test_a_chapter_is_executed_again_when_a_larger_record_of_its_claims_changes(run, tmp_path, monkeypatch):
    """Its top line shows their verdicts; those of other chapters, and smaller runs, do not count."""
    committed = tmp_path / "committed"
    monkeypatch.setattr(execute, "RECORDS", committed)
    monkeypatch.setattr(execute, "execute", copied)
    write(tmp_path / "chapters/02_trajectories.ipynb", TITLE, code("1"))
    assert run("02_trajectories").executed
    for record, changes in {"paper/T1": True, "cpu/T2": True, "laptop/T1": False, "paper/K1": False}.items():
        for content in ("{}", "[]"):
            (committed / record).parent.mkdir(parents=True, exist_ok=True)
            (committed / f"{record}.json").write_text(content)
            assert bool(run("02_trajectories").executed) == changes, record
    one, other = (execute.fingerprint(tmp_path / "chapters/02_trajectories.ipynb", p, None) for p in ("paper", "cpu"))
    (committed / "paper/T1.json").write_text("another")  # which such a run itself writes
    assert execute.fingerprint(tmp_path / "chapters/02_trajectories.ipynb", "paper", None) == one != other


DAMAGES = [lambda page: b"", lambda page: page[:-30], lambda page: page.replace(b"# A", b"# B")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_page_is_executed_again(run, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(execute, "execute", copied)
    write(tmp_path / "chapters/a.ipynb", TITLE, code("1"))
    page = tmp_path / "out/chapters/a.ipynb"
    assert run("a").executed == ["a"] and run("a").unchanged == ["a"] and execute.state_of(page)
    page.write_bytes(damage(page.read_bytes()))
    assert not execute.state_of(page) and run("a").executed == ["a"] and execute.state_of(page)
    page.unlink()
    assert not execute.state_of(page)


@pytest.mark.parametrize("damage", ["", "null", "[]", "{}", '{"page": 1}'])
def test_what_a_chapter_took_is_not_known_from_a_damaged_state(run, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(execute, "execute", copied)
    write(tmp_path / "chapters/a.ipynb", TITLE, code("1"))
    run("a")
    page = tmp_path / "out/chapters/a.ipynb"
    assert execute.cost_of(page)["seconds"] == 0.0
    page.with_suffix(".json").write_text(damage)
    assert execute.cost_of(page) is None


def test_cleaning_up_leaves_paused_runs(tmp_path):
    kept = ["_build/gpu/cells/a.nc", "_build/paper/cells/a.nc", "results/a.nc"]
    for name in (*kept, "_build/html/index.html", "_build/.hidden/x", "dist/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    for _ in range(2):
        subprocess.run(["make", "-s", "-f", pages.ROOT / "Makefile", "-C", tmp_path, "clean"], check=True)
        left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert left == kept


def test_an_unknown_chapter_is_named():
    command = [sys.executable, "-m", "tools.execute", "--into", "nowhere", "99_nothing"]
    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no such chapter: 99_nothing" in done.stderr


# --- README ---


def test_a_block_of_the_readme_is_replaced_and_nothing_else():
    before = "a\n<!-- bench -->\nold \\1\n<!-- /bench -->\nz"
    after = readme.fill(before, "bench", "| new \\1 |")
    assert after == "a\n<!-- bench -->\n| new \\1 |\n<!-- /bench -->\nz"
    assert readme.fill(after, "bench", "| new \\1 |") == after
    with pytest.raises(ValueError, match="<!-- times -->"):
        readme.fill(before, "times", "")


def test_the_readme_has_a_place_for_every_block():
    for name in readme.BLOCKS:
        readme.fill((pages.ROOT / "README.md").read_text(encoding="utf-8"), name, "")


def test_the_example_of_the_readme_runs():
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=pages.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done
    for name in ("displacement", "linear-model gap", "activation stability", "kernel change", "feature similarity"):
        assert re.search(rf"^{name} +-?\d", done.stdout, re.MULTILINE), done.stdout
