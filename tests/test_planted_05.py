"""Chapter 5 at the smoke preset and below: A1 holds (with its caveat), and a planted error turns it.

The chapter is run once; for a planted error the cells that contain it, those that depend on it, and the claim are
run again.
"""

import pytest

from tests.notebooks import run_again, run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "05_alpha_tau.ipynb"
SHORT = {"iterations": 100, "patience": 50}
# Cells that are run again where what they call was changed, by a line in each.
GRID = ["flows = sweep(", "q_published, q_corrected =", "VARIANTS = {", "blur = {"]
SLOPES, KAPPA, CURVES = ["slopes = {"], ["q_kappa = {"], ["exact = sweep("]

PLANTED = {  # what is wrong → lines replaced, cells run again
    "α missing in the target": ({"problem.y[row] / scale[1])\n    test": "problem.y[row])\n    test"}, SLOPES),
    "α² forgotten in the reported loss": (
        {'flow.observed["loss"] * (alpha**2 / null)': 'flow.observed["loss"] * (1 / null)'},
        SLOPES,
    ),
    "fixed time in place of kernel time": (
        {"T = S / kernel_rate(net, w0, problem.x[row])": "T = 0.01 * S + 0 * kernel_rate(net, w0, problem.x[row])"},
        SLOPES,
    ),
    "a layer too many": (
        {"layers = lambda q: (p.slope_width,) * (q - 1)": "layers = lambda q: (p.slope_width,) * q"},
        SLOPES,
    ),
    "τ grid reversed": ({"(dims, loss[..., 0])": "(dims, loss[:, ::-1, :, 0])"}, []),
    "κ of h in place of αh": ({"curvature / KAPPA_ALPHAS)": "curvature)"}, KAPPA),
    "κ at w₀ = w₁ whatever τ": ({"w0 = tau * w1[0]": "w0 = w1[0]"}, KAPPA),
    "β with the wrong power of τ": ({"(beta / alpha) ** (1 / q)": "(beta / alpha) ** (1 / (q + 1))"}, CURVES),
    "curves compared at equal time, not rescaled": (
        {"T = S / kernel_rate(net, w0, problem.x[row])": "T = S / kernel_rate(net, w0, problem.x[row]) * tau"},
        CURVES,
    ),
    "a new problem in each row of the grid": (
        {
            "problem = teacher_student([seed], d=p.d, n=p.n, n_test=p.n, dtype=dtype)\n    w1": "problem = teacher_student([seed + int(100 * taus[0])], d=p.d, n=p.n, n_test=p.n, dtype=dtype)\n    w1",
            'flows = sweep(main_run, {"seed": range(p.trials)}, fixed={"start": p.start, "taus": p.taus, "alphas": p.alphas})': 'flows = xr.concat([sweep(main_run, {"seed": range(p.trials)}, fixed={"start": p.start, "taus": [t], "alphas": p.alphas}) for t in p.taus], "tau")',
        },
        GRID,
    ),
    "a run diverged": ({"flow.reached\n": "flow.reached & (tau < max(tau))\n"}, SLOPES),
}


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER, parameters=SHORT)


SWEEP = (
    'flows = sweep(main_run, {"seed": range(p.trials)}, fixed={"start": p.start, "taus": p.taus, "alphas": p.alphas})'
)


def judged(chapter, patches, dependents):
    """Verdict after the cells with a patch, their dependents and the claim have been run again."""
    kept = {} if dependents is GRID else {SWEEP: ""}  # definitions stand in the cell of the grid's runs
    lines = ["ledger.check(", *dependents]

    def chosen(cell, touched):
        return touched or any(line in cell.source for line in lines)

    return run_again(chapter, CHAPTER, {**kept, **patches}, chosen)["A1"]


def test_the_claim_holds_with_its_caveat(chapter):
    assert verdicts(chapter)["A1"] == "holds with a caveat"


def test_running_again_changes_nothing(chapter):
    assert judged(chapter, {}, CURVES) == "holds with a caveat"


@pytest.mark.parametrize(("patches", "dependents"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_turns_the_claim(chapter, patches, dependents):
    assert judged(chapter, patches, dependents) == "does not hold"


def test_the_caveat_is_about_the_published_protocol(chapter):
    """With the published map replaced by the corrected one, nothing is left to object to."""
    namespace = {**chapter, "q_published": chapter["stats"].Estimate(2.0, 1.9, 2.1, 2)}
    assert judged(namespace, {}, []) == "holds"


@pytest.mark.parametrize(
    "name, value", [("slope_taus", [1.0, 0.5, 2.0, 3.0]), ("alphas", [1.0, 10.0]), ("start", "centred"), ("m", 7)]
)
def test_a_wrong_value_is_refused_in_one_sentence(name, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*\.$"):
        run_cells(CHAPTER, parameters={name: value})
