"""Every chapter documents its parameters, and refuses wrong ones with one sentence.

That the outputs in the chapters are what the code gives is checked by nbval, which runs beside these tests on
the notebooks themselves (`make test`); that nbval would notice a wrong one is checked here.
"""

import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import papermill
import pytest
from nbformat.v4 import new_output

from lazylib.book import ledger
from tests.made_notebooks import code, text, write
from tools.build import VENDOR
from tools.execute import execute
from tools.pages import LEDGER, ROOT, chapters, notebooks
from tools.vendor import vendor

CHAPTERS = {path.stem: path for path in chapters()}
WRONG = {  # parameter → values that no chapter can mean; tried where a chapter has the parameter
    "preset": ["huge"],
    "taus": [[0.1, -1.0], [], ["one"]],
    "alphas": [[0.0, 1.0]],
    "alpha_hats": [[0.0, 1.0]],
    "tau_lazy": [0.0],
    "iterations": [0],
    "trials": [0, "three"],
    "m": [-2],
    "widths": [[]],
}


FOLDED = {"parameters", "hide-input", "hide-cell", "remove-input", "remove-cell"}


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=CHAPTERS)
def test_code_can_be_read_on_the_page(path):
    """An open cell fits a screen and the column; no role is left to a hidden cell; a chapter is not a program."""
    cells = nbformat.read(path, as_version=4).cells
    for number, cell in enumerate(cells):
        assert "{glue" not in cell.source, f"cell {number}"
        if cell.cell_type == "code":
            folded, lines = FOLDED & set(cell.metadata.get("tags", [])), cell.source.splitlines()
            assert max(map(len, lines)) <= (120 if folded else 88), f"cell {number} is too wide"
            assert folded or len(lines) <= 40, f"cell {number} has {len(lines)} lines"
            assert not any(line.lstrip().startswith("_ = ") for line in lines), f"cell {number}"
    assert code_lines(path) <= 450


def test_the_chapters_together_hold_less_code_than_lazylib():
    claims = [path for name, path in CHAPTERS.items() if name != "13_your_model"]  # the chapters of claims
    assert sum(map(code_lines, claims)) <= 4800


def code_lines(path) -> int:
    """Lines of code that are not blank; of the text of a sentence, which is prose, one line counts."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    count = 0
    for source in sources:
        count += sum(bool(line.strip()) for line in source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "chapter.say":
                count -= node.end_lineno - node.lineno
    return count


def parameters(path) -> dict[str, dict]:
    return papermill.inspect_notebook(str(path))


def wrong_values() -> list:
    found = []
    for stem, path in CHAPTERS.items():
        known = parameters(path)
        found += [
            pytest.param(path, name, value, id=f"{stem}-{name}-{value}")
            for name, values in WRONG.items()
            if name in known
            for value in values
        ]
    return found


def set_up(path, injected: str) -> None:
    """Run the parameters cell, what papermill would inject, and the cell after it: all before work starts."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    namespace = {"__name__": "__main__", "In": [""]}
    for source in (cells[at].source, f"# Parameters\n{injected}", cells[at + 1].source):
        namespace["In"].append(source)
        exec(compile(source, path.name, "exec"), namespace)


def run_papermill(path, out, name: str, value: object) -> subprocess.CompletedProcess:
    """As a reader would, from the command line."""
    flag = ["-p", name, value] if isinstance(value, str) else ["-y", f"{{{name}: {value}}}"]
    command = [sys.executable, "-m", "papermill", str(path), str(out), "--no-progress-bar", *flag]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_every_notebook_is_a_page():
    assert set(notebooks()) == set((ROOT / "chapters").glob("*.ipynb"))


def test_every_chapter_runs_at_smoke_in_its_tests_of_planted_errors():
    """They run all its cells without a kernel, and first of all unbroken; nbval runs it at its own preset."""
    for stem in CHAPTERS:
        planted = ROOT / "tests" / f"test_planted_{stem[:2]}.py"
        assert planted.exists() and "run_cells(" in planted.read_text(encoding="utf-8"), stem


@pytest.mark.parametrize("path", [CHAPTERS["02_trajectories"]], ids=lambda path: path.stem)
def test_a_chapter_runs_at_smoke_by_papermill(path, tmp_path):
    execute(path, tmp_path / path.name, "smoke")
    assert (tmp_path / path.name).exists()


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=CHAPTERS)
def test_every_parameter_has_a_type_and_a_meaning(path):
    known = parameters(path)
    assert list(known)[0] == "preset" and known["preset"]["default"] == '"laptop"'
    bare = [name for name, entry in known.items() if entry["inferred_type_name"] == "None" or not entry["help"].strip()]
    assert not bare, f"without a type or a comment: {bare}"


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=CHAPTERS)
def test_a_chapter_compares_some_outputs(path):
    tags = [set(cell.metadata.get("tags", [])) for cell in nbformat.read(path, as_version=4).cells]
    assert any("nbval-check-output" in each for each in tags), "no cell is tagged nbval-check-output"


@pytest.mark.parametrize(("path", "name", "value"), wrong_values())
def test_a_wrong_value_stops_with_one_sentence(path, name, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*\b{name}\b[^\n]*\.$"):
        set_up(path, f"{name} = {value!r}")


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=CHAPTERS)
def test_a_misspelt_parameter_is_named(path):
    with pytest.raises(ValueError, match=r"^presett is not a parameter of this chapter: [^\n]*\.$"):
        set_up(path, "presett = 'smoke'")


@pytest.mark.parametrize(("name", "value"), [("preset", "huge"), ("trials", 0), ("presett", "smoke")])
def test_from_the_command_line_too(name, value, tmp_path, monkeypatch):
    path = CHAPTERS["08_width_scaling"]
    before = path.read_bytes()
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "ledger"))
    done = run_papermill(path, tmp_path / "out.ipynb", name, value)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0, "papermill went on"
    assert re.match(r"ValueError: .*\.$", last) and name in last, f"not one sentence about {name}: {last!r}"
    executed = [cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.get("outputs")]
    assert len(executed) == 1, "work had begun before the value was refused"
    assert path.read_bytes() == before and not (tmp_path / "ledger").exists()


def test_the_ledger_page_runs(tmp_path):
    execute(ROOT / f"{LEDGER}.ipynb", tmp_path / "ledger.ipynb")


def test_on_a_machine_that_has_nothing(tmp_path):
    """No data, an empty home, every download refused: the book's checks pass, and chapter 7 runs on the sample."""
    vendor(VENDOR)  # what the pages need in a browser is no data set
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if name not in ("LAZYLIB_DATA", "LAZYLIB_OFFLINE")}
    bare = {**kept, **closed, "no_proxy": "", "HOME": str(tmp_path), "LAZYLIB_LEDGER": str(tmp_path / "ledger")}

    def run(*command: object) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, command)], cwd=ROOT, env=bare, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    assert "chapter 7 runs on the sample of Fashion-MNIST" in run("tools.ready", "book").stdout
    run("papermill", CHAPTERS["07_cifar_gap"], tmp_path / "out.ipynb", "-p", "preset", "smoke", "--no-progress-bar")
    outputs = [
        out for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for out in cell.get("outputs", [])
    ]
    printed = "".join(out.text for out in outputs if out.output_type == "stream")
    assert "runs on the sample of Fashion-MNIST instead" in printed and "download" not in printed.lower()
    records = [json.loads(path.read_text()) for path in (tmp_path / "ledger").rglob("*.json")]
    assert {record["id"]: record["verdict"] for record in records} == dict.fromkeys(
        ["C1", "C2", "C3", "C4"], "not tested at this scale"
    )


def test_results_of_larger_runs_show_beside_live_ones_kept_elsewhere():
    """`make book` keeps its records in _build; the committed ones must show all the same."""
    committed = {path.stem for path in (ROOT / "results/ledger").glob("*/*.json") if path.parent.name in ledger.LARGER}
    shown = {row["id"] for row in ledger.table() if row["larger"]}  # conftest.py names an empty folder for live records
    assert committed and committed <= shown, f"committed, but not in the ledger: {sorted(committed - shown)}"


def test_nbval_notices_a_wrong_output(tmp_path):
    """The comparison that `make test` relies on fails where it must, and only there."""
    compared = {
        "same": ("K1 holds: 1.00\n", "nbval-check-output"),
        "another_processor": ("K1 holds: 1.02\n", "nbval-check-output"),
        "another_number": ("K1 holds: 1.20\n", "nbval-check-output"),
        "another_verdict": ("K1 does not hold: 1.00\n", "nbval-check-output"),
        "not_compared": ("K1 does not hold: 1.00\n",),
    }
    for name, (stored, *tags) in compared.items():
        output = new_output("stream", name="stdout", text=stored)
        write(tmp_path / f"{name}.ipynb", text("# A"), code("print('K1 holds: 1.00')", output, tags=tags))
    command = [sys.executable, "-m", "pytest", "-v", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    # conftest.py of the project as a plugin, for the notebooks lie elsewhere
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-p", "conftest", "."], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    found = dict(re.findall(r"^(\w+)::ipynb::Cell 0 (PASSED|FAILED)", done.stdout, re.MULTILINE))
    wrong = {"another_number", "another_verdict"}
    assert found == {name: "FAILED" if name in wrong else "PASSED" for name in compared}, done.stdout


def test_the_slider_of_chapter_3_shows_the_trial_of_its_figures():
    """Small τ learns and large τ is lazy there as in P1; a problem with one input would show neither."""
    text = (ROOT / "chapters/03_tau_plateau.ipynb").read_text(encoding="utf-8")
    found = re.findall(r"test loss is ([\d.e-]+) of the null risk, the tangent model&#x27;s ([\d.e-]+)\.", text)
    network, tangent = zip(*(map(float, pair) for pair in found), strict=True)
    assert len(found) == 11 and len(set(tangent)) == 1
    assert network[0] < 0.05 < 0.9 < network[-1] / tangent[-1] < 1.1
