"""Chapter 9 at the smoke preset: its claims hold, and a planted error turns just the claims that it breaks.

The chapter is run once.  For a planted error the cells that contain it, the sweeps that depend on it and everything
that is made of them are run again.
"""

import pytest

from tests.notebooks import run_again, run_cells, turned, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "09_convergence.ipynb"
CLAIMS = ("B1", "B2", "B3", "B4")
SWEEPS = ("smooth", "short", "wide", "kinks", "ends", "escapes")

PLANTED = {  # what is wrong → code to replace, sweeps to run again, claims that break
    "κ ten times too small": ({"kappa = data.beta * ": "kappa = 0.1 * data.beta * "}, [], {"B1"}),
    "K without the Lipschitz constant": ({"path = data.T * data.L**2": "path = data.T"}, [], {"B1"}),
    "β of half the network": (
        {'flow.observed["turned"] / distance': '0.1 * flow.observed["turned"] / distance'},
        ["smooth", "short", "wide"],
        {"B1"},
    ),
    "the tangent model at twice the time": (
        {"tangent_path(net, w0, x, goals, T)": "tangent_path(net, w0, x, goals, 2 * T)"},
        ["smooth", "short", "wide"],
        {"B1", "B2", "B3"},
    ),
    "the output at the start is not zero": (
        {'(net(w0, x) if start == "centred" else 0)': "0"},
        ["smooth", "ends"],
        {"B2", "B4"},
    ),
    "the symmetrization is broken": (
        {'symmetrized=start == "symmetrized"': "symmetrized=False"},
        ["smooth"],
        {"B2"},
    ),
    "the target is not divided by α": ({"[y / alpha for": "[y for"}, ["smooth"], {"B2"}),
    "the flow is solved too loosely": ({'"rtol": p.rtol': '"rtol": 0.01'}, ["smooth"], {"B2"}),
    "the horizon is K²": ({"T = np.array(Ks) /": "T = np.array(Ks) ** 2 /"}, ["short"], {"B3"}),
    "the prediction without its ½": (
        {"early * T**2 / residual": "2 * early * T**2 / residual"},
        ["short"],
        {"B3"},
    ),
    "the largest eigenvalue for the smallest": (
        {"solution.eigenvalues[-min(len(x), net.size)]": "solution.eigenvalues[-1]"},
        ["ends"],
        {"B4"},
    ),
    "the flow of B4 is not converged": (
        {"/ rate, MARKS / rate": "/ rate, 0.1 * MARKS / rate"},
        ["ends"],
        {"B4"},
    ),
    "B4 in the feature regime": ({"alpha = alpha0 *": "alpha = 1e-2 * alpha0 *"}, ["ends"], {"B4"}),
}


CAUGHT = [broken for *_, broken in PLANTED.values()]  # for each error the claims that find it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER)


def judged(chapter, patches, sweeps):
    """The namespace after all cells but the parameters, the untouched sweeps and the exercises have been run again."""

    def chosen(cell, touched):
        if any(part in cell.source for part in ("preset: str", "PRESETS = {")) or "hide-cell" in cell.metadata.get(
            "tags", []
        ):
            return False
        made = {name for name in SWEEPS if f"{name} = sweep(" in cell.source}
        return touched or not made or bool(made & set(sweeps))

    return run_again(chapter, CHAPTER, patches, chosen)


def test_the_claims_hold(chapter):
    assert verdicts(chapter).keys() == set(CLAIMS) and "does not hold" not in verdicts(chapter).values()


def test_running_again_changes_nothing(chapter):
    assert verdicts(judged(chapter, {}, [])) == verdicts(chapter)


@pytest.mark.parametrize(("patches", "sweeps", "broken"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_its_claims(chapter, patches, sweeps, broken):
    found = judged(chapter, patches, sweeps)
    assert turned(found, chapter) >= broken
    if len(broken) == 1 and not sweeps:
        assert all(verdicts(found)[claim] == verdicts(chapter)[claim] for claim in CLAIMS if claim not in broken)
