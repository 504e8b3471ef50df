"""Parameters of a chapter: presets, changes and bad input, by call and by papermill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from lazylib.book import ledger, parameters

ROOT = Path(__file__).parents[1]
PRESETS = {
    "smoke": {"trials": 2, "taus": [1.0]},
    "laptop": {
        "taus": [0.1, 1.0],
        "m": 50,
        "trials": 10,
        "horizon": 1e4,
        "symmetrized": True,
        "activation": "relu",
        "widths": [8, 16],
    },
    "paper": {"trials": 100, "taus": 10 ** np.arange(-1, 1.01, 0.5)},
}
RULES = dict(
    taus=parameters.numbers(positive=True),
    m=[parameters.even, parameters.at_least(2)],
    trials=parameters.at_least(1),
    horizon=parameters.between(1, 1e6),
    activation=parameters.choice("relu", "gelu"),
    widths=parameters.positive,
)


def resolve(preset="laptop", injected=None, tables=PRESETS, **given):
    cells = [""] if injected is None else ["", injected]
    namespace = dict.fromkeys(PRESETS["laptop"]) | {"preset": preset, "In": cells} | given
    return parameters.resolve(namespace, tables, **RULES)


def test_presets_are_differences_to_laptop():
    smoke, paper = resolve("smoke"), resolve("paper")
    assert (smoke.trials, smoke.taus, smoke.m, smoke.preset, smoke.label) == (2, [1.0], 50, "smoke", "smoke")
    assert paper.trials == 100 and paper.label == "paper" and type(paper.taus) is list
    np.testing.assert_allclose(paper.taus, [0.1, 10**-0.5, 1, 10**0.5, 10])


def test_changes_show_in_the_label_and_reach_the_ledger():
    p = resolve("paper", taus=(1, 2), horizon=5, symmetrized=False)
    assert p.taus == [1.0, 2.0] and type(p.taus[0]) is float and type(p.horizon) is float
    assert p.symmetrized is False and p.label == "paper, changed" and p.preset == "paper"
    assert ledger._run["label"] == "paper, changed" and ledger._run["parameters"]["taus"] == [1.0, 2.0]
    assert resolve(trials=10).label == "laptop"  # the preset's own value changes nothing
    assert resolve(taus=np.array([0.1, 1])).label == "laptop"


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(preset="huge"), r"preset must be one of smoke, laptop, paper, not 'huge'\."),
        (dict(preset=3), r"preset must be one of smoke, laptop, paper, not 3\."),
        (dict(preset=None), r"preset must be one of smoke, laptop, paper, not None\."),
        (dict(taus="[1,2]"), r"taus must be a non-empty list of .*, not '\[1,2\]' \(with papermill: .*\)\."),
        (dict(taus=[]), r"taus must be a non-empty list of finite numbers, not \[\]\."),
        (dict(taus=np.array([])), r"taus must be a non-empty list of finite numbers, not \[\]\."),
        (dict(taus=0.1), r"taus must be a non-empty list of finite numbers, not 0\.1\."),
        (dict(taus=["1e-1", 1]), r"taus must be a non-empty list of finite numbers, not \['1e-1', 1\]\."),
        (dict(taus=[1, float("nan")]), r"taus must be a non-empty list of finite numbers, not \[1, nan\]\."),
        (dict(taus=[1, float("inf")]), r"taus must be a non-empty list of finite numbers, not \[1, inf\]\."),
        (dict(taus=[True]), r"taus must be a non-empty list of finite numbers, not \[True\]\."),
        (dict(taus=[[1.0]]), r"taus must be a non-empty list of finite numbers, not \[\[1.0\]\]\."),
        (dict(taus=[1.0, 0.0]), r"taus must be a finite positive number, not 0\.0\."),
        (dict(m=51), r"m must be even, not 51\."),
        (dict(m=0), r"m must be at least 2, not 0\."),
        (dict(m=50.0), r"m must be a whole number, not 50\.0\."),
        (dict(m=True), r"m must be a whole number, not True\."),
        (dict(trials=0), r"trials must be at least 1, not 0\."),
        (dict(horizon=1e7), r"horizon must be between 1 and 1000000\.0, not 10000000\.0\."),
        (dict(horizon="1e3"), r"horizon must be a finite number, not '1e3' \(.*\)\."),
        (dict(horizon=10**400), r"horizon must be a finite number, not 10+\.\.\.\."),
        (dict(symmetrized="false"), r"symmetrized must be true or false, not 'false' \(.*\)\."),
        (dict(symmetrized=1), r"symmetrized must be true or false, not 1\."),
        (dict(activation="tanh"), r"activation must be one of relu, gelu, not 'tanh'\."),
        (dict(widths=[8, 0.5]), r"widths must be a non-empty list of whole numbers, not \[8, 0\.5\]\."),
        (dict(widths=[8, -1]), r"widths must be positive, not -1\."),
        (
            dict(injected="# Parameters\ntau = [1]\n"),
            r"tau is not a parameter .*: allowed are preset, taus, m, .*"
            r"\(closest: taus\)\.",
        ),
        (dict(injected="# Parameters\nm: int = 4\nqqq: int = 3\n"), r"qqq is not a parameter .*widths\."),
    ],
)
def test_bad_input_is_one_sentence(given, sentence):
    before = dict(ledger._run)
    with pytest.raises(ValueError, match=f"^{sentence}$") as error:
        resolve(**given)
    assert "\n" not in str(error.value)
    assert ledger._run == before  # nothing was started


def test_only_the_last_injected_cell_counts():
    namespace = dict.fromkeys(PRESETS["laptop"]) | {"preset": "smoke"}
    namespace["In"] = ["", "# Parameters\ntau = [1]\n", "x = 1", "# Parameters\ntaus = [1]\n"]
    assert parameters.resolve(namespace, PRESETS).preset == "smoke"


@pytest.mark.parametrize(
    "tables, sentence",
    [
        ({"laptop": {"m": 2}, "smoke": {"n": 3}}, "the preset 'smoke' gives 'n', which 'laptop' lacks."),
        ({"laptop": {"q": 2}}, "the parameters cell has no line for 'q'"),
        ({"laptop": {"m": None}}, "must give a value for 'm'"),
        ({"laptop": {"label": 1.0}}, "cannot be called 'label'"),
        ({"laptop": {"m": 2, "taus": [1.0, "a"]}}, "must hold numbers or texts only"),
        ({"laptop": {"m": 2, "taus": []}}, "numbers, texts or lists, not \\[\\]"),
    ],
)
def test_authors_mistakes(tables, sentence):
    namespace = {"preset": "laptop", "m": None, "taus": None, "label": None}
    with pytest.raises(ValueError, match=sentence):
        parameters.resolve(namespace, tables)
    with pytest.raises(ValueError, match="rule for 'k'"):
        parameters.resolve(namespace, {"laptop": {"m": 2}}, k=parameters.positive)


def test_a_preset_is_held_to_the_rules_too():
    with pytest.raises(ValueError, match="m must be even, not 3"):
        resolve("smoke", tables={**PRESETS, "smoke": {"m": 3}})


CELLS = [
    (
        "parameters",
        'preset: str = "laptop"  # smoke | laptop\n'
        "taus: list = None  # initialization scales τ > 0\n"
        "m: int = None  # width, even\nsymmetrized: bool = None  # zero output at initialization",
    ),
    (
        "",
        "from lazylib.book import ledger, parameters\n"
        'PRESETS = {"smoke": {"m": 2}, "laptop": {"taus": [0.1, 1.0], "m": 4, "symmetrized": True}}\n'
        "p = parameters.resolve(globals(), PRESETS, taus=parameters.positive, m=parameters.even)",
    ),
    (
        "",
        'import json, pathlib\npathlib.Path("done.json").write_text(json.dumps(vars(p)))\n'
        'ledger.check("K1", True, 1.0)\nprint(ledger.verdict_line("K1"))',
    ),
]


@pytest.fixture
def notebook(tmp_path):
    """A tiny chapter; its last cell leaves done.json, the computation that bad input must not reach."""
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] * bool(tag)}) for tag, source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "chapter.ipynb")
    return tmp_path / "chapter.ipynb"


def run(notebook, *command):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "LAZYLIB_LEDGER": str(notebook.parent / "ledger")}
    return subprocess.run(
        [sys.executable, *command], cwd=notebook.parent, env=environment, capture_output=True, text=True, timeout=120
    )


def papermill(notebook, *parameters):
    out = notebook.parent / "out.ipynb"
    return run(notebook, "-m", "papermill", str(notebook), str(out), "--no-progress-bar", *parameters)


@pytest.mark.parametrize(
    "parameters, sentence",
    [
        (["-p", "preset", "huge"], "preset must be one of smoke, laptop, not 'huge'."),
        (
            ["-p", "tau", "1"],
            "tau is not a parameter of this chapter: allowed are preset, taus, m, symmetrized (closest: taus).",
        ),
        (
            ["-p", "symmetrized", "false"],
            "symmetrized must be true or false, not 'false' (with papermill: -y '{symmetrized: ...}').",
        ),
        (
            ["-p", "taus", "[1,2]"],
            "taus must be a non-empty list of finite numbers, not '[1,2]' (with papermill: -y '{taus: ...}').",
        ),
        (["-y", "{taus: [0.1, 0]}"], "taus must be positive, not 0."),
        (["-y", "{taus: [1e-1]}"], "taus must be a non-empty list of finite numbers, not ['1e-1']."),
        (["-y", "{taus: []}"], "taus must be a non-empty list of finite numbers, not []."),
        (["-p", "m", "3"], "m must be even, not 3."),
    ],
)
def test_papermill_stops_with_one_sentence(notebook, parameters, sentence):
    done = papermill(notebook, *parameters)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == f"ValueError: {sentence}"
    assert not (notebook.parent / "done.json").exists() and not (notebook.parent / "ledger").exists()


def test_papermill_runs_with_changed_parameters(notebook):
    done = papermill(notebook, "-p", "preset", "smoke", "-y", "{taus: [1, 2.5], symmetrized: false}")
    assert done.returncode == 0, done.stderr
    assert json.loads((notebook.parent / "done.json").read_text()) == {
        "preset": "smoke",
        "label": "smoke, changed",
        "taus": [1.0, 2.5],
        "m": 2,
        "symmetrized": False,
    }
    record = json.loads((notebook.parent / "ledger/smoke-changed/K1.json").read_text())
    assert record["parameters"] == {"taus": [1.0, 2.5], "m": 2, "symmetrized": False}
    assert "**K1** ✓ holds" in nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1].outputs[-1].text


EXECUTE = "import nbclient, nbformat; nbclient.NotebookClient(nbformat.read('chapter.ipynb', 4)).execute()"


NBVAL = ["-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "chapter.ipynb"]


@pytest.mark.parametrize("command", [NBVAL, ["-c", EXECUTE]], ids=["nbval", "nbclient"])
def test_runs_with_no_injected_cell(notebook, command):
    done = run(notebook, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((notebook.parent / "done.json").read_text())["label"] == "laptop"


def test_papermill_documents_the_parameters(notebook):
    text = run(notebook, "-m", "papermill", "--help-notebook", str(notebook)).stdout
    assert "taus: list (default None)" in " ".join(text.split()) and "initialization scales τ > 0" in text
