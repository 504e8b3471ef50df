"""Chapter 4 at the smoke preset with one thing broken: the claim that it breaks finds it.

The chapter is run once; for a planted error the cells that contain it, those that depend on it, and the claims are
run again.
"""

import functools

import pytest

from tests.notebooks import answers, run_again, run_cells, turned, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "04_step_size.ipynb"
# Cells that are run again where what they call was changed, by a line in each.
DESCENT = ["fixed = sweep(", "stable = [", "edge_right, edge_all =", "same = [", "at_far, RATIO"]
CHOICES = ["choices, from_plain =", "table = compared(live)"]

S1 = {  # what is wrong → lines replaced, cells run again
    "steps adapted to τ": ({'{"gd": p.step,': '{"gd": published_step(tau),'}, DESCENT),
    "τ in reverse": ({"setting(seed, tau, symmetrized)\n": "setting(seed, 0.3 / tau, symmetrized)\n"}, DESCENT),
    "test inputs in another order": ({"risk(test, test.outputs(u))": "risk(test, test.outputs(u).flip(-1))"}, DESCENT),
    "a stable run diverged": (
        {
            "    reached = math.isfinite(loss + end)": "    reached = math.isfinite(loss + end) and (seed, tau) != (1, 1.0)"
        },
        DESCENT,
    ),
    "step fifty times too large": ({'{"gd": p.step,': '{"gd": 50 * p.step,'}, DESCENT),
    "descent symmetrized where it should be as published": (
        {'{**rule, "symmetrized": False}': '{**rule, "symmetrized": True}'},
        DESCENT,
    ),
}
EXPLANATION = {  # the limb beyond the claim that finds it
    "time in place of kernel time": (
        {"data.s <= s * 1.000001": "data.s <= s * data.rate / float(data.rate.max())"},
        [],
        "clock",
    ),
    "limit of stability twice too high": (
        {"* 2 * (1 + beta)": "* 4 * (1 + beta)"},
        ["edge_right, edge_all ="],
        "clock",
    ),
    "tangent model of another τ": (
        {"flow.tangent_fixed.sel(tau=far)": "flow.tangent_fixed.isel(tau=0)"},
        [],
        "tangent",
    ),
}
S2 = {
    "the other start symmetrized, too": (
        {'plain = sweep(flows, seeds, {"symmetrized": False,': 'plain = sweep(flows, seeds, {"symmetrized": True,'},
        CHOICES,
    ),
    "change of the kernel in percent of a percent": (
        {
            "table.assign(look=table.end / level)": "table.assign(look=table.end / level, kernel_change=table.kernel_change / 100)"
        },
        [],
    ),
    "lazy level a hundred times too high": ({"level = flow.": "level = 100 * flow."}, []),
    "choices swapped": (
        {
            '"flow": flow.rename(names), "plain": runs["plain"].rename(names)': '"plain": flow.rename(names), "flow": runs["plain"].rename(names)'
        },
        [],
    ),
    "training loss of the published start lost": (
        {
            '"plain": runs["plain"].rename(names)': '"plain": runs["plain"].rename(names).assign(train=0 * runs["plain"].train_published)'
        },
        [],
    ),
    "a run diverged": (
        {
            "    reached = math.isfinite(loss + end)": '    reached = math.isfinite(loss + end) and (rule, seed) != ("adam", 1)'
        },
        CHOICES,
    ),
}


CAUGHT = [{"S1"}] * len(S1) + [{"S2"}] * len(S2)  # for each error the claims that find it


@functools.cache
def sound() -> dict:
    return run_cells(CHAPTER, whole=False)


def judged(patches: dict, dependents: list) -> dict:
    """The namespace after the cells with a patch, their dependents and the claims have been run again."""
    lines = ["ledger.judge(", *dependents]
    return run_again(
        sound(), CHAPTER, patches, lambda cell, touched: touched or any(line in cell.source for line in lines)
    )


def test_nothing_planted_nothing_found_but_what_the_page_says():
    """The published start has a hump, and momentum is no mimic."""
    assert verdicts(sound()) == {"S1": "does not hold", "S2": "undecided"}
    failed = {id: {name for name, answer in answers(sound(), id).items() if answer == "no"} for id in ("S1", "S2")}
    assert failed == {"S1": {"published", "lazy"}, "S2": set()}
    assert answers(sound(), "S1")["clock"] == "yes" and answers(sound(), "S2")["each"] == "open"


def test_running_again_changes_nothing():
    again = judged({}, [*DESCENT, *CHOICES])
    assert [answers(again, id) for id in ("S1", "S2")] == [answers(sound(), id) for id in ("S1", "S2")]


@pytest.mark.parametrize("error", S1)
def test_an_error_in_the_runs_of_s1_is_found(error):
    assert "S1" in turned(judged(*S1[error]), sound())


@pytest.mark.parametrize("error", EXPLANATION)
def test_a_wrong_explanation_is_not_told(error):
    """The verdict stays, but the page must not say why, and no failure reads as a yes."""
    patches, dependents, limb = EXPLANATION[error]
    found = judged(patches, dependents)
    assert verdicts(found)["S1"] == verdicts(sound())["S1"] and answers(found, "S1")[limb] == "no"


@pytest.mark.parametrize("error", S2)
def test_an_error_in_s2_is_found(error):
    assert "S2" in turned(judged(*S2[error]), sound())
