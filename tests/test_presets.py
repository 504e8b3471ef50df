"""Parameters of a chapter: presets, changes and bad input, by call and by papermill."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from lazylib.book import chapter, ledger, parameters

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
        (
            dict(taus=["1e-1", 1]),
            r"taus must be a non-empty list of finite numbers, not \['1e-1', 1\] "
            r"\(YAML takes '1e-1' for a text: write 0\.1\)\.",
        ),
        (dict(taus=["1e20"]), r"taus must be .*\(YAML takes '1e20' for a text: write 1\.0e\+20\)\."),
        (dict(taus=[1, 2, 1.0]), r"taus must be a list of distinct values, not with 1\.0 twice\."),
        (dict(taus=[1e300]), r"taus must be 0 or from 1e-12 to 1e\+12 in size, not 1e\+300\."),
        (dict(taus=[1e-300]), r"taus must be 0 or from 1e-12 to 1e\+12 in size, not 1e-300\."),
        (dict(m=10**400), r"m must be 0 or from 1e-12 to 1e\+12 in size, not 10+\.\.\.\."),
        (dict(m=10**5000), r"m must be .* in size, not a number of thousands of digits\."),
        (dict(horizon=[10**5000]), r"horizon must be a finite number, not a number of thousands of digits\."),
        (
            dict(trials=10**9),
            r"a run must be at most 100 times as large as that of the largest preset, "
            r"not about 1e\+07 times, by trials \(× 1e\+07\)\.",
        ),
        (dict(trials=2000, m=400, widths=[80, 160]), r"a run must be .* not about 1\.6e\+03 times, by trials .* m .*"),
        (dict(taus=[float(k) for k in range(1, 600)]), r"a run must be .* by taus \(× 1\.2e\+02\)\."),
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
        (dict(horizon="1e3"), r"horizon must be .*, not '1e3' \(YAML takes '1e3' for a text: write 1000\.0\)\."),
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


def test_a_value_of_the_preset_that_the_reader_replaced_is_not_checked():
    """As the device of the published run, where there is none."""
    tables = {**PRESETS, "smoke": {"m": 3}}
    assert resolve("smoke", tables=tables, m=4).label == "smoke, changed"


# --- the chapters' own parameters ---


class Captured(Exception):
    pass


def tables_of(notebook):
    """Names, presets and rules of a chapter, as its second cell gives them to `chapter.start`."""
    found = {}

    def start(stem, namespace, presets, *, claims, figures="svg", **rules):
        found.update(presets=presets, rules=rules)
        raise Captured

    cells = [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    namespace = {"__name__": "chapter"}
    exec(cells[0], namespace)
    names = {name: value for name, value in namespace.items() if not name.startswith("__")}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Captured):
        patch.setattr(chapter, "start", start)
        exec(cells[1], namespace)
    return names, found["presets"], found["rules"]


CHAPTERS = sorted((ROOT / "chapters").glob("[01]*.ipynb"))
ODD = [0, -1, 1, 2, 3, 7, 1000, 10**9, 10**400, 10**5000, 0.5, -0.0, 1e-300, 1e300, 1e20, float("nan"), float("inf")]
ODD += ["", "abc", "1e-1", "cuda", "x" * 500, True, [], [[]], [3], [2, 2], ["1e-1"], [True], {}, {"a": 1}, object()]


def made(value, rng):
    """A value beside a good one, or an odd one, or a list of odd ones."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    near = [value]
    if isinstance(value, list):
        near += [value[::-1], value + value, value[:1], value * 2000, [*value, rng.choice(ODD)], value[:-1]]
        near += [[v * factor for v in value] for factor in (1.0000001, -1, 1e5, 1e-9) if not isinstance(value[0], str)]
    elif not isinstance(value, str):
        near += [value + 1, -value, value * 1e5, value * 10**5, value / 3, value * 1.0000001, [value]]
    return rng.choice(near) if rng.random() < 0.6 else rng.choice(ODD)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_odd_set_of_parameters_is_fine_or_refused_in_one_short_sentence(path):
    names, presets, rules = tables_of(path)
    assert len(CHAPTERS) == 13
    rng, refused = random.Random(path.stem), 0
    for _ in range(450):
        some = rng.sample(list(presets["laptop"]), rng.choice([1, 2, 3]))
        given = {name: made(presets["laptop"][name], rng) for name in some}
        values = {**names, "preset": rng.choice([*presets, "laptop", "laptop", "smoke", rng.choice(ODD)]), **given}
        if rng.random() < 0.1:
            values["In"] = ["", f"# Parameters\n{'n' * rng.choice([1, 300])} = 1"]
        try:
            p = parameters.resolve(values, presets, **rules)
        except ValueError as error:
            refused += 1
            assert len(str(error)) <= 300 and str(error).endswith(".") and "\n" not in str(error), (given, str(error))
        else:
            assert all(np.all(np.isfinite(v)) for v in vars(p).values() if not isinstance(v, (str, list)))
    assert 150 < refused < 450


@pytest.mark.parametrize(
    "stem, given, sentence",
    [
        ("02", dict(tau_lazy=0.1, tau_nonlazy=2.0), "tau_nonlazy must be below tau_lazy, not 2.0."),
        ("02", dict(tau_lazy=1.0, tau_nonlazy=1.0), "tau_nonlazy must be below tau_lazy, not 1.0."),
        ("03", dict(few=100), "few must be below d, not 100."),
        ("11", dict(depths=[3]), "depths must be increasing, with 2 values at least, not [3]."),
    ],
)
def test_what_cannot_be_judged_is_refused(stem, given, sentence):
    (path,) = [path for path in CHAPTERS if path.stem.startswith(stem)]
    names, presets, rules = tables_of(path)
    with pytest.raises(ValueError) as told:
        parameters.resolve({**names, **given}, presets, **rules)
    assert str(told.value) == sentence


def test_the_published_run_is_there_on_another_device():
    for path in CHAPTERS:
        names, presets, rules = tables_of(path)
        if "device" in names:
            assert parameters.resolve({**names, "preset": "paper", "device": "cpu"}, presets, **rules).label == "paper"


CELLS = [
    (
        "parameters",
        'preset: str = "laptop"  # smoke | laptop\n'
        "taus: list = None  # initialization scales τ > 0\n"
        "m: int = None  # width, even\nsymmetrized: bool = None  # zero output at initialization",
    ),
    (
        "",
        "from lazylib.book import chapter, ledger, parameters\n"
        'PRESETS = {"smoke": {"m": 2}, "laptop": {"taus": [0.1, 1.0], "m": 4, "symmetrized": True}}\n'
        "p = parameters.resolve(globals(), PRESETS, taus=parameters.positive, m=parameters.even)",
    ),
    (
        "",
        'import json, pathlib\npathlib.Path("done.json").write_text(json.dumps(vars(p)))\n'
        'ledger.judge("K3", {"exponent": 0.0, "flat": 0.0})\nprint(ledger.verdict_line("K3"))',
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
        (
            ["-y", "{taus: [1e-1]}"],
            "taus must be a non-empty list of finite numbers, not ['1e-1'] (YAML takes '1e-1' for a text: write 0.1).",
        ),
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
    record = json.loads((notebook.parent / "ledger/smoke-changed/K3.json").read_text())
    assert record["parameters"] == {"taus": [1.0, 2.5], "m": 2, "symmetrized": False}
    assert "**K3** ✓ holds" in nbformat.read(notebook.parent / "out.ipynb", 4).cells[-1].outputs[-1].text


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
