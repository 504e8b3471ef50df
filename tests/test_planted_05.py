"""Chapter 5 at the smoke preset and below: A1 holds, and a planted error turns it.

The chapter is run once; for a planted error the cells that contain it, those that depend on it, and the claim are
run again.
"""

import pytest

from tests.notebooks import answers, run_again, run_cells, turned, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "05_alpha_tau.ipynb"
SHORT = {"iterations": 100, "patience": 50}
# Cells that are run again where what they call was changed, by a line in each.
GRID = ["flows = sweep(", "q_published, q_corrected =", "VARIANTS = {", "blur = {"]
SLOPES, KAPPA, CURVES = ["slopes, q_loss ="], ["kappas, q_kappa ="], ["exact = sweep("]

PLANTED = {  # what is wrong → lines replaced, cells run again
    "α missing in the target": ({"problem.y[k] / factors[1])": "problem.y[k])"}, SLOPES),
    "α² forgotten in the reported loss": ({"loss * (alpha.values**2 / null)": "loss * (1 / null)"}, SLOPES),
    "fixed time in place of kernel time": (
        {"T = S / kernel_rate(net, w0[first], problem.x[k[first]])[same]": "T = np.full(len(k), 0.01 * S)"},
        SLOPES,
    ),
    "a layer too many": (
        {"layers = lambda q: (p.slope_width,) * (q - 1)": "layers = lambda q: (p.slope_width,) * q"},
        SLOPES,
    ),
    "τ grid reversed": (
        {
            '.squeeze("mark", drop=True)': '.squeeze("mark").isel(tau=slice(None, None, -1)).assign_coords(tau=p.slope_taus)'
        },
        [],
    ),
    "κ of h in place of αh": ({" / KAPPA_ALPHAS\n": "\n"}, KAPPA),
    "κ at w₀ = w₁ whatever τ": ({"w0 = tau * w1[0]": "w0 = w1[0]"}, KAPPA),
    "β with the wrong power of τ": ({"(beta / alpha) ** (1 / q)": "(beta / alpha) ** (1 / (q + 1))"}, CURVES),
    "curves compared at equal time, not rescaled": (
        {"problem.x[k[first]])[same]": "problem.x[k[first]])[same] * tau.values.ravel()"},
        CURVES,
    ),
    "a new problem in each row of the grid": (
        {
            "found = flow_runs(net, w1, problem, tau, alpha, p.horizon, MARKS)": 'found = xr.concat([flow_runs(net, w1, problems([seed + int(100 * t)], dtype), axis("tau", [t]), alpha, p.horizon, MARKS) for t in p.taus], "tau")'
        },
        GRID,
    ),
    "a run diverged": (
        {"flow.reached.reshape(row.shape)": "flow.reached.reshape(row.shape) & (tau.values < tau.values.max())"},
        SLOPES,
    ),
}


CAUGHT = [{"A1"}] * len(PLANTED)  # for each error the claims that find it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER, parameters=SHORT)


def judged(chapter, patches, dependents):
    """The namespace after the cells with a patch, their dependents and the claim have been run again."""
    lines = ["ledger.judge(", *dependents]

    def chosen(cell, touched):
        return touched or any(line in cell.source for line in lines)

    return run_again(chapter, CHAPTER, patches, chosen)


def test_nothing_planted_nothing_found_but_that_the_published_map_does_not_show_it(chapter):
    assert verdicts(chapter)["A1"] == "undecided"  # three problems on a coarse grid
    assert "no" not in [answer for limb, answer in answers(chapter, "A1").items() if limb != "published"]
    assert answers(chapter, "A1")["published"] == "no" and answers(chapter, "A1")["panel"] == "yes"  # beyond the claim


def test_running_again_changes_nothing(chapter):
    assert answers(judged(chapter, {}, CURVES), "A1") == answers(chapter, "A1")


@pytest.mark.parametrize(("patches", "dependents"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_the_claim(chapter, patches, dependents):
    assert turned(judged(chapter, patches, dependents), chapter) == {"A1"}


def test_the_published_protocol_can_show_the_law_too(chapter):
    """With rows of the published map that agree, nothing is left to object to."""
    namespace = {**chapter, "blur": {**chapter["blur"], "as published": 1.05}}
    assert answers(judged(namespace, {}, []), "A1")["published"] == "yes"


@pytest.mark.parametrize(
    "patches",
    [
        {"min(10, 0.1 / (tau * alpha) ** 2) / alpha": "min(10, 0.1 / tau**2)"},
        {"each.init(tau, seeds, dtype": "each.init(tau, seeds, symmetrized=True, dtype"},
        {"np.fmin.reduce(losses)": "np.fmin.reduce(losses) * np.square(alphas)"},
    ],
    ids=["steps that α does not change", "a symmetrized start", "loss not divided by α²"],
)
def test_another_protocol_than_the_published_one_does_not_give_its_panel(chapter, patches):
    assert answers(judged(chapter, patches, ["blur = {"]), "A1")["panel"] == "no"


@pytest.mark.parametrize(
    "name, value", [("slope_taus", [1.0, 0.5, 2.0, 3.0]), ("alphas", [1.0, 10.0]), ("start", "centred"), ("m", 7)]
)
def test_a_wrong_value_is_refused_in_one_sentence(name, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*\.$"):
        run_cells(CHAPTER, parameters={name: value})
