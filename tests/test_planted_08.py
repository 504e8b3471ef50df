"""Chapter 8 at the smoke preset with one thing broken: its claim must turn to "does not hold"."""

import functools

import pytest

from tests.notebooks import answers, run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "08_width_scaling.ipynb"
NO = "does not hold"
SHORT = {"scan": [1.0, 2.0]}  # the verdict does not need the scan

PLANTED = {  # what is wrong → lines replaced
    "scalings swapped": {'"scaling": list(SCALINGS), "mark"': '"scaling": list(SCALINGS)[::-1], "mark"'},
    "1/m in place of 1/√m": {'"sqrt": (lambda m: m**-0.5,': '"sqrt": (lambda m: 1 / m,'},
    "1/√m in place of 1/m": {'"inverse": (lambda m: 1 / m,': '"inverse": (lambda m: m**-0.5,'},
    "horizon a thousand times too short": {"p.iterations * steps": "p.iterations * steps / 1000"},
    "test inputs in another order": {
        "(problem.x_test, problem.y_test)\n": "(problem.x_test.flip(0), problem.y_test)\n"
    },
    "a run diverged": {'"reached": reached, **measures': '"reached": reached & (seed > 0), **measures'},
    "width without effect": {"setting(seed, m, alphas)\n    ends": "setting(seed, 8, alphas)\n    ends"},
}


CAUGHT = [{"W1"}] * len(PLANTED)  # for each error the claims that find it


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER, parameters=SHORT)


def test_nothing_planted_nothing_found():
    assert verdicts(sound())["W1"] == "undecided"  # three seeds
    assert answers(sound(), "W1") == {"rise": "yes", "worse": "open", "low": "yes", "lazy": "no"}


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error):
    assert verdicts(run_cells(CHAPTER, patches=PLANTED[error], parameters=SHORT))["W1"] == NO


def test_a_kernel_that_does_not_change_is_lazy():
    patches = {"float(kernel_change(net, w, w + v, probe))": "1e-9 * float(kernel_change(net, w, w + v, probe))"}
    assert answers(run_cells(CHAPTER, patches=patches, parameters=SHORT), "W1")["lazy"] == "yes"
