"""Chapter 11 at the smoke preset: its claims hold, and a planted error turns just the claims that it breaks.

The chapter is run once.  For a planted error only the cells of the sweeps that it touches are run again, and those that
define what is planted; figures, the slider and the exercises are left out.
"""

import pytest

from tests.notebooks import run_again, run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "11_kernel_evolution.ipynb"
CLAIMS = ("G4", "G5", "G6", "G7", "G9")
HOLDS = ("holds", "holds at smaller scale", "right direction, other size")
OPEN = {name: ("undecided",) for name in ("G5", "G6", "G7")}  # five seeds decide little about exponents in h
SWEEPS = ("depths", "few", "frozen", "kinks")
MADE_OF = {
    "depths": ["depths"],
    "frozen": ["frozen"],
    "kinks": ["kinks"],
    "both": ["depths", "kinks"],
}  # what a planted error runs again

PLANTED = {  # what is wrong → code to replace, sweeps to run again, claims that break
    "the root of α": (
        {"alpha_hats, device=p.device) / math.sqrt(h)": "alpha_hats, device=p.device).sqrt() / h**0.25"},
        "depths",
        {"G4", "G5", "G6"},
    ),
    "the change relative to the final kernel": (
        {"kernel_change(net, w0, w0 + u, x_test)": "kernel_change(net, w0 + u, w0.expand_as(u), x_test)"},
        "depths",
        {"G4", "G5"},
    ),
    "a run did not reach its margin": (
        {"DataArray(flow.reached,": "DataArray(flow.reached & (L != 3),"},
        "depths",
        {"G4", "G5", "G6"},
    ),
    "depths mixed up": (
        {"FullyConnected(x.shape[1], h, L, activation)": "FullyConnected(x.shape[1], h, 7 - L, activation)"},
        "depths",
        {"G5"},
    ),
    "α divided by h": (
        {"alpha_hats, device=p.device) / math.sqrt(h)": "alpha_hats, device=p.device) / h * math.sqrt(p.h)"},
        "depths",
        {"G5"},
    ),
    "times of the loss not divided by α²": (
        {"crossing(data.t, -data.loss": "crossing(data.t * data.alpha_hat, -data.loss"},
        None,
        {"G6"},
    ),
    "f not divided by √h": ({"one.t, one.f / np.sqrt(one.h)": "one.t, one.f"}, None, {"G6"}),
    "speeds of all units summed": ({"data.x_test[:100])[0]": "data.x_test[:100])[0] * h**0.5"}, None, {"G6"}),
    "the final kernel is the initial one": (
        {'"final": (w0 + flow.u)[0]}.items()': '"final": w0[0]}.items()'},
        "frozen",
        {"G7"},
    ),
    "classes shuffled for the frozen kernels": (
        {"train_frozen(kernel(data.x), cross, data.y": "train_frozen(kernel(data.x), cross, data.y.roll(1)"},
        "frozen",
        {"G7"},
    ),
    "softplus for ReLU": (
        {"FullyConnected(x.shape[1], h, L, activation)": "FullyConnected(x.shape[1], h, L)"},
        "kinks",
        {"G9"},
    ),
    "ReLU for softplus": (
        {
            "FullyConnected(x.shape[1], h, L, activation)": 'FullyConnected(x.shape[1], h, L, "relu")',
            "seen=p.seen": "seen=p.relu_seen",  # as many images as the ReLU net has: few flips are a noisy slope
        },
        "both",
        {"G9"},
    ),
}


CAUGHT = [broken for *_, broken in PLANTED.values()]  # for each error the claims that find it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER)


def judged(chapter, patches, family):
    """The namespace after what a planted error touches, and the checks, have been run again."""

    def chosen(cell, touched):
        aside = "mystnb" in cell.metadata or {"hide-input", "remove-cell", "parameters"} & set(cell.metadata.tags)
        made = {name for name in SWEEPS if f"{name} = sweep(" in cell.source}
        return not aside and (not made or bool(made & set(MADE_OF.get(family, []))))

    return run_again(chapter, CHAPTER, patches, chosen)


@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_planted_nothing_found(chapter, claim):
    assert verdicts(chapter)[claim] in (*HOLDS, *OPEN.get(claim, ()))


@pytest.mark.parametrize(("patches", "family", "broken"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_its_claims(chapter, patches, family, broken):
    found = verdicts(judged(chapter, patches, family))
    assert {claim for claim, verdict in found.items() if verdict == "does not hold"} >= broken
    apart = {
        "depths": {"G7"},
        "both": {"G7"},
        "frozen": {"G4", "G5", "G6", "G9"},
        "kinks": {"G4", "G5", "G6", "G7"},
        None: {"G4", "G5", "G7", "G9"},
    }[family]
    assert all(found[claim] in (*HOLDS, *OPEN.get(claim, ())) for claim in apart)
