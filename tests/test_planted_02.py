"""Errors planted in the chapter on trajectories turn the claims that they break to "does not hold"."""

import functools
from pathlib import Path

import pytest

from tests.notebooks import answers, run_cells, turned, verdicts

CHAPTER = Path(__file__).resolve().parents[1] / "chapters/02_trajectories.ipynb"
SWAPPED = {"[p.tau_nonlazy, p.tau_lazy]": "[p.tau_lazy, p.tau_nonlazy]"}
SHORT = {  # steps, hence the flow times of all runs, a hundred times too small
    "PLANE_STEP = 0.005": "PLANE_STEP = 0.005 / 100",
    "step = np.minimum(10, 0.1 / np.square(TAUS))": "step = np.minimum(10, 0.1 / np.square(TAUS)) / 100",
}
UNBALANCED = {"torch.cat([a, -a, b": "torch.cat([a, a, b"}  # the second half does not cancel the first
NO_CONTROL = {'"symmetrized": True': '"symmetrized": False'}


PLANTED = {  # what is wrong → lines replaced, claims that fall
    "initialization scales swapped": (SWAPPED, {"T1", "T2", "T3"}),
    "horizon a hundred times too short": (SHORT, {"T1", "T2", "T3", "T4"}),
    "the symmetrization is broken": (UNBALANCED | NO_CONTROL, {"T1"}),
}
CAUGHT = [fallen for _, fallen in PLANTED.values()]  # for each error the claims that find it


def judged(patches: dict[str, str] | None = None) -> dict:
    return run_cells(CHAPTER, patches=patches)


@functools.cache
def sound() -> dict:
    return judged()


def test_an_error_that_cannot_be_planted_is_noticed():
    with pytest.raises(AssertionError, match="no code"):
        judged({"a line that the chapter does not have": ""})


def test_without_an_error_no_claim_falls():
    held = {"T1": "holds", "T2": "holds", "T3": "holds", "T4": "does not hold"}
    assert verdicts(sound()) == held
    assert answers(sound(), "T2")["symmetrized"] == answers(sound(), "T4")["clocks"] == "no"  # beyond the claims
    assert answers(sound(), "T4")["own"] == "open" and answers(sound(), "T4")["same"] == "no"  # five seeds


@pytest.mark.parametrize(("patches", "fallen"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_the_claims_that_it_breaks(patches, fallen):
    """Without symmetrization the lazy neurons move in the plane, to undo h(w0)."""
    found = judged(patches)
    assert turned(found, sound()) >= fallen
    if NO_CONTROL.items() <= patches.items():  # the control of T2 is no control any more
        assert answers(found, "T2")["symmetrized"] != "no" or "T2" in turned(found, sound())
