"""Chapter 8 at the smoke preset with one thing broken: limbs of its claim tell it from the sound run.

The limb that fails in the sound run, how lazy it gets, is told by what lets it hold.
"""

import functools

import pytest

from tests.notebooks import answers, refused, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "08_width_scaling.ipynb"
SHORT = {"widths": [8, 16, 32, 128], "scan": [1.0, 2.0]}  # no limb needs fewer than 8 neurons, or the scan
# Lines of the cells that the limbs are made of.
MADE = ["SCALINGS = {", "def follow(", "def measures(", "runs = sweep(", "checked = sweep(", "def ratio_of", "judge("]

PLANTED = {  # what is wrong → the limbs that tell it, lines replaced
    "scalings swapped": (
        {"W1.worse"}, {'"scaling": list(SCALINGS), "mark"': '"scaling": list(SCALINGS)[::-1], "mark"'},
    ),
    "1/m in place of 1/√m": ({"W1"}, {'"sqrt": (lambda m: m**-0.5,': '"sqrt": (lambda m: 1 / m,'}),
    "horizon a thousand times too short": (
        {"W1.worse", "W1.low", "W1.descent"}, {"p.iterations * steps": "p.iterations * steps / 1000"},
    ),
    "a tenth of the horizon": ({"W1.descent"}, {"p.iterations * steps": "p.iterations * steps / 10"}),
    "a tenth of the steps of descent": ({"W1.descent"}, {"if k == p.iterations:": "if k == p.iterations // 10:"}),
    "steps of descent ten times too short": (
        {"W1.descent"}, {"gradient_descent(objective, steps)": "gradient_descent(objective, steps / 10)"},
    ),
    "the state at the first mark for that at the last": (
        {"W1"}, {"np.abs(MARKS * T - ends[:, None]).argmin(1)": "np.abs(MARKS * T - ends[:, None]).argmax(1)"},
    ),
    "test inputs in another order": (
        {"W1.rise", "W1.worse", "W1.low"},
        {"(problem.x_test, problem.y_test)\n": "(problem.x_test.flip(0), problem.y_test)\n"},
    ),
    "the training loss for the test loss": (
        {"W1.rise", "W1.worse"}, {'found = {"test": risk(test, u)': 'found = {"test": risk(train, u)'},
    ),
    "the target times α": (
        {"W1.worse", "W1.low"}, {"[y / alpha for alpha in alphas]": "[y * alpha for alpha in alphas]"},
    ),
    "the null risk of y for that of y/α": ({"W1.worse"}, {"null_risk(objective.y)": "null_risk(problem.y)"}),
    "a sum over test inputs for the mean": (
        {"W1.low"}, {"(objective.loss(outputs) / null": "(p.n * objective.loss(outputs) / null"},
    ),
    "the rise the wrong way round": (
        {"W1.rise"}, {"sqrt.isel(m=-1) - sqrt.sel(m=first)": "sqrt.sel(m=first) - sqrt.isel(m=-1)"},
    ),
    "the ratio upside down": (
        {"W1.worse"}, {"[sqrt.isel(m=-1), inverse.isel(m=-1)], -1": "[inverse.isel(m=-1), sqrt.isel(m=-1)], -1"},
    ),
    "the kernel compared with itself": (
        {"W1.lazy"}, {"kernel_change(net, w, w + v, probe)": "kernel_change(net, w, w, probe)"},
    ),
    "the change of the kernel divided by the inputs again": (
        {"W1.lazy"}, {"kernel_change(net, w, w + v, probe))": "kernel_change(net, w, w + v, probe)) / len(probe)"},
    ),
    "the mean speed for the displacement": (
        {"W1.lazy"}, {"kernel_change(net, w, w + v, probe)": "kernel_change(net, w, w + v / T, probe)"},
    ),
    "1/√m stopped at the horizon of 1/m": ({"W1"}, {"T = ends.max()": "T = ends.min()"}),
    "half of the loss": ({"W1.descent"}, {"(objective.loss(outputs) /": "(0.5 * objective.loss(outputs) /"}),
    "a run diverged": ({"W1"}, {'"reached": reached, **measures': '"reached": reached & (seed > 0), **measures'}),
    "null: a width that does nothing": (
        {"W1.rise"}, {"setting(seed, m, alphas)\n    ends": "setting(seed, 8, alphas)\n    ends"},
    ),
    "null: an α that does nothing": ({"W1.worse"}, {'"inverse": (lambda m: 1 / m,': '"inverse": (lambda m: m**-0.5,'}),
    "null: an α so large that training is lazy, from the zero function": (
        {"W1.rise", "W1.lazy"},
        {'"sqrt": (lambda m: m**-0.5,': '"sqrt": (lambda m: 1e3 * m**-0.5,', "symmetrized=False": "symmetrized=True"},
    ),
}  # fmt: skip


CAUGHT = [names for names, _ in PLANTED.values()]  # for each error what tells it


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER, parameters=SHORT)


def judged(patches) -> dict:
    return run_again(sound(), CHAPTER, patches, lambda cell, _: any(code in cell.source for code in MADE))


def test_nothing_planted_nothing_found():
    assert verdicts(sound())["W1"] == "undecided"  # three seeds
    assert answers(sound(), "W1") == {"rise": "yes", "worse": "open", "low": "yes", "descent": "yes", "lazy": "no"}


@pytest.mark.parametrize(("names", "patches"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told(names, patches):
    assert told(judged(patches), sound()) >= names


STOPPED = {  # what is wrong, where the run itself says so → lines replaced
    "one seed for all trials": {"setting(seed, m, alphas)\n    ends": "setting(0, m, alphas)\n    ends"},
    "training inputs among the test inputs": {
        "scale=p.target)": "scale=p.target)\n    problem.x_test[:20] = problem.x[:20]\n    problem = replace(problem)"
    },
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(patches):
    with refused():
        judged(patches)
