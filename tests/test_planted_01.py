"""Chapter 1 at the smoke preset: its claims hold, and a planted error turns just the claims that it breaks.

At this size K1–K3 run on three trials and K4 up to width 1000, on which the exponents do not depend. The chapter
is run once; for a planted error the cells that contain it, and those that say what was found, are run again.
"""

import pytest

from tests.notebooks import run_again, run_cells, turned, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "01_kappa_criterion.ipynb"
HOLDS = {"K1": "undecided", "K2": "holds", "K3": "holds", "K4": "undecided"}  # few units

PLANTED = {  # name → (code to replace, claims that break)
    "the symmetrization is broken": (
        {
            'symmetrized=start == "symmetrized"': "symmetrized=False",
            "torch.cat([w0, w0])": "torch.cat([w0, 1.01 * w0])",
        },
        {"K2", "K3"},
    ),
    "the output is not centred": ({"y + alpha * h0 if": "y if"}, {"K2"}),
    "a layer too many": ({"(p.m,) * (q - 1)": "(p.m,) * q"}, {"K3"}),
    "the scalings are swapped": (
        {"lambda m: m**-0.5": "lambda m: 1 / m", "lambda m: 1 / m": "lambda m: m**-0.5"},
        {"K4"},
    ),
    "1/√m for both scalings": ({"lambda m: 1 / m": "lambda m: m**-0.5"}, {"K4"}),
    "κ without the targets": (
        {"kappa = r0.norm().item()": "kappa = (alpha * (h0 - offset) / root).norm().item()"},
        {"K1"},
    ),
    "κ with the squared residual": ({"kappa = r0.norm().item()": "kappa = r0.norm().item() ** 2"}, {"K1"}),
    "κ of h in place of αh": (
        {"kappa = r0.norm().item() * alpha": "kappa = ((h0 - offset - y) / root).norm().item() * alpha**2"},
        {"K1"},
    ),
}


CAUGHT = [broken for _, broken in PLANTED.values()]  # for each error the claims that find it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER)


def judged(chapter, patches):
    """The namespace after the cells with a patch, and those that say numbers or check claims, have been run again."""

    def chosen(cell, touched):
        return touched or "chapter.say(" in cell.source or "ledger.judge(" in cell.source

    return run_again(chapter, CHAPTER, patches, chosen)


def test_the_claims_hold(chapter):
    assert verdicts(chapter) == HOLDS


def test_running_again_changes_nothing(chapter):
    assert verdicts(judged(chapter, {})) == HOLDS


@pytest.mark.parametrize(("patches", "broken"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_its_claims(chapter, patches, broken):
    found = judged(chapter, patches)
    assert turned(found, chapter) == broken
    assert all(verdicts(found)[claim] == HOLDS[claim] for claim in HOLDS.keys() - broken)
