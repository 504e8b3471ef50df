"""Chapter 4 at the smoke preset with one thing broken: the claim that it breaks must not keep its verdict."""

import functools

import pytest

from tests.notebooks import answers, run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "04_step_size.ipynb"
NO, HOLDS = "does not hold", "holds"
ONLY_S1, ONLY_S2 = {"opt_iterations": 20}, {"iterations": 20}  # what the other claim needs is made short

S1 = {  # what is wrong → lines replaced, parameters changed
    "steps adapted to τ": (
        {'{"gd": p.step,': '{"gd": published_step(tau),'},
        {},
    ),
    "τ in reverse": ({"setting(seed, tau)\n": "setting(seed, 0.3 / tau)\n"}, {}),
    "test inputs in another order": (
        {"(problem.x_test, problem.y_test)\n": "(problem.x_test.flip(0), problem.y_test)\n"},
        {},
    ),
    "a stable run diverged": (
        {
            "    reached = math.isfinite(loss + end)": "    reached = math.isfinite(loss + end) and (seed, tau) != (1, 1.0)"
        },
        {},
    ),
    "step fifty times too large": ({}, {"step": 1.25}),
}
EXPLANATION = {
    "kernel time without τ": ({"rate = lam * taus**2": "rate = lam * taus**0"}, {}),
    "limit of stability twice too high": ({"* 2 * (1 + beta)": "* 4 * (1 + beta)"}, {}),
    "another tangent model": ({"model.test(tau**2 * t)": "model.test(tau * t / 10)"}, {}),
}
S2 = {
    "symmetrized where it should not be": (
        {'"symmetrized": False, "taus"': '"symmetrized": True, "taus"'},
        {},
    ),
    "kernel compared with itself": ({"kernel_change(net, w0, w0 + u, x)": "kernel_change(net, w0, w0, x)"}, {}),
    "lazy level a hundred times too high": ({"level = flow.": "level = 100 * flow."}, {}),
    "choices swapped": (
        {
            '"flow": flow.rename(names), "plain": runs["plain"].rename(names)': '"plain": flow.rename(names), "flow": runs["plain"].rename(names)'
        },
        {},
    ),
    "a run diverged": (
        {
            "    reached = math.isfinite(loss + end)": '    reached = math.isfinite(loss + end) and (rule, seed) != ("adam", 1)'
        },
        {},
    ),
}


CAUGHT = [{"S1"}] * len(S1) + [{"S2"}] * len(S2)  # for each error the claims that find it


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER)


def test_nothing_planted_nothing_found():
    assert verdicts(sound()) == {"S1": HOLDS, "S2": HOLDS}
    assert answers(sound(), "S1")["lazy"] == answers(sound(), "S2")["each"] == "no"  # beyond the claims


@pytest.mark.parametrize("error", S1)
def test_an_error_in_the_runs_of_s1_is_found(error):
    patches, parameters = S1[error]
    assert verdicts(run_cells(CHAPTER, patches=patches, parameters={**ONLY_S1, **parameters}))["S1"] == NO


@pytest.mark.parametrize("error", EXPLANATION)
def test_a_wrong_explanation_is_not_told(error):
    """The curve is still inverted, but the page must not say why."""
    patches, parameters = EXPLANATION[error]
    found = run_cells(CHAPTER, patches=patches, parameters={**ONLY_S1, **parameters})
    assert verdicts(found)["S1"] == HOLDS and answers(found, "S1")["lazy"] == "yes"


@pytest.mark.parametrize("error", S2)
def test_an_error_in_s2_is_found(error):
    patches, parameters = S2[error]
    assert verdicts(run_cells(CHAPTER, patches=patches, parameters={**ONLY_S2, **parameters}))["S2"] == NO


@pytest.mark.parametrize(("claim", "parameters"), [("S1", ONLY_S1), ("S2", ONLY_S2)])
def test_the_smaller_runs_find_nothing_by_themselves(claim, parameters):
    """Else the tests above would prove nothing."""
    assert verdicts(run_cells(CHAPTER, parameters=parameters))[claim] == HOLDS
