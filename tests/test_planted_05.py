"""Chapter 5 at the smoke preset and below: nothing fails but the map as published, and a planted error is told.

The chapter is run once; for a planted error the cells that contain it, those that depend on it, and the claim are
run again. "null: …" is no error but a world in which a limb must say no, or, where it says no in the sound run, hold.
"""

import pytest

from tests.notebooks import answers, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "05_alpha_tau.ipynb"
SHORT = {"iterations": 100, "patience": 50}
# Cells that are run again where what they call was changed, by a line in each.
MAPS = ["q_published, q_corrected =", "VARIANTS = {", "blur = {"]
GRID, PUBLISHED = ["flows = sweep(", *MAPS], ["published = sweep(", *MAPS]
SLOPES, KAPPA, CURVES = ["slopes, q_loss ="], ["kappas, q_kappa ="], ["exact = sweep("]
# A protocol that can show the law: one problem for all cells, no early stopping, and the loss not divided by α².
MENDED = {
    "[first + k for k in range(len(alphas))]": "[10_000 + seed] * len(alphas)",
    '"patience": p.patience}': '"patience": p.iterations}',
    "np.fmin.reduce(losses)": "np.fmin.reduce(losses) * np.square(alphas)",
}
STEPS = {"min(10, 0.1 / (tau * alpha) ** 2) / alpha": "min(10, 0.1 / tau**2)"}  # that α does not change
SYMMETRIZED = {"each.init(tau, seeds, dtype": "each.init(tau, seeds, symmetrized=True, dtype"}

PLANTED = {  # what is wrong → lines replaced, cells run again, limbs that tell it
    "α missing in the target": ({"problem.y[k] / factors[1])": "problem.y[k])"}, SLOPES, {"A1.loss"}),
    "α² forgotten in the reported loss": (
        {"loss * (alpha.values**2 / null)": "loss * (1 / null)"},
        [*SLOPES, *GRID, *CURVES],
        {"A1.loss", "A1.grid", "A1.rows", "A1.curves"},
    ),
    "fixed time in place of kernel time": (
        {"T = S / kernel_rate(net, w0[first], problem.x[k[first]])[same]": "T = np.full(len(k), 0.01 * S)"},
        [*SLOPES, *GRID],
        {"A1.loss", "A1.rows"},
    ),
    "a layer too many": (
        {"layers = lambda q: (p.slope_width,) * (q - 1)": "layers = lambda q: (p.slope_width,) * q"},
        SLOPES,
        {"A1.kappa"},
    ),
    "τ grid reversed": (
        {
            '.squeeze("mark", drop=True)': '.squeeze("mark").isel(tau=slice(None, None, -1)).assign_coords(tau=p.slope_taus)'
        },
        [],
        {"A1.loss"},
    ),
    "rows of the map in reverse": (
        {
            "corrected = flows.loss.isel(mark=-1, drop=True)": "corrected = flows.loss.isel(mark=-1, drop=True, tau=slice(None, None, -1)).assign_coords(tau=p.taus)"
        },
        MAPS,
        {"A1.grid", "A1.rows"},
    ),
    "α and τ swapped": (
        {
            "isoline_exponent(values.tau, values.alpha,": "isoline_exponent(values.alpha, values.tau,",
            "np.exp(logs.mean(axis)))": "np.exp(logs.mean(axis)).T)",
        },
        [*SLOPES, *KAPPA, "blur = {"],
        {"A1.loss", "A1.kappa", "A1.grid"},
    ),
    "κ of h in place of αh": ({" / KAPPA_ALPHAS\n": "\n"}, KAPPA, {"A1.kappa"}),
    "κ at w₀ = w₁ whatever τ": ({"w0 = tau * w1[0]": "w0 = w1[0]"}, KAPPA, {"A1.kappa"}),
    "β with the wrong power of τ": (
        {"(beta / alpha) ** (1 / q)": "(beta / alpha) ** (1 / (q + 1))"},
        CURVES,
        {"A1.curves"},
    ),
    "curves compared at equal time, not rescaled": (
        {"problem.x[k[first]])[same]": "problem.x[k[first]])[same] * tau.values.ravel()"},
        CURVES,
        {"A1.curves"},
    ),
    "curves compared with one of another tolerance": (
        {"reference = exact.loss.sel(alpha=1.0, drop=True)": "reference = exact.tight"},
        [],
        {"A1.curves"},
    ),
    "a new problem in each row of the grid": (
        {
            "found = flow_runs(net, w1, problem, tau, alpha, p.horizon, MARKS)": 'found = xr.concat([flow_runs(net, w1, problems([seed + int(100 * t)], dtype), axis("tau", [t]), alpha, p.horizon, MARKS) for t in p.taus], "tau")'
        },
        GRID,
        {"A1.rows"},
    ),
    "a run diverged": (
        {"flow.reached.reshape(row.shape)": "flow.reached.reshape(row.shape) & (tau.values < tau.values.max())"},
        SLOPES,
        {"A1"},
    ),
    "steps that α does not change": (STEPS, ["blur = {"], {"A1.panel"}),
    "a symmetrized start": (SYMMETRIZED, ["blur = {"], {"A1.panel"}),
    "loss not divided by α²": (
        {"np.fmin.reduce(losses)": MENDED["np.fmin.reduce(losses)"]},
        ["blur = {"],
        {"A1.panel"},
    ),
    "decimal logarithm in the panel": (
        {"panel = np.log(panel": "panel = np.log10(panel"},
        ["panel = sweep("],
        {"A1.panel"},
    ),
    "corrected map in place of the published one": (
        {'"as published": published.divided / float(flows.null.mean())': '"as published": corrected'},
        MAPS,
        {"A1.published"},
    ),
    "null: α that does nothing": (
        {
            "problem.y[k] / factors[1])": "problem.y[k])",
            "problem.y_test[k] / factors[1])": "problem.y_test[k])",
            "loss * (alpha.values**2 / null)": "loss * (1 / null)",
        },
        GRID,
        {"A1.grid", "A1.rows"},
    ),
    "null: networks of one degree behind every q": (
        {
            "[name].sel(name=each)": '[name].sel(name="q = 3" if NETS[each].q else each)',
            'started_at(f"q = {q}"': 'started_at("q = 3"',
            "[1.0, 3.0, 50.0, 1e3]": "[1.0, 3.0]",  # fewer α, which take long
        },
        KAPPA,
        {"A1.loss", "A1.kappa", "A1.curves"},
    ),
    "null: the published run mended": (MENDED | STEPS, PUBLISHED, {"A1.panel", "A1.published"}),
    "null: the published run mended, and symmetrized": (
        MENDED | STEPS | SYMMETRIZED,
        PUBLISHED,
        {"A1.panel", "A1.published"},
    ),
    "null: one problem, and no training": (
        MENDED | {'"iterations": p.iterations,': '"iterations": 1,'},
        PUBLISHED,
        {"A1.panel", "A1.published"},
    ),
}


CAUGHT = [names for *_, names in PLANTED.values()]  # for each error the limbs that tell it


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


@pytest.mark.parametrize(("patches", "dependents", "names"), PLANTED.values(), ids=PLANTED)
def test_an_error_is_told(chapter, patches, dependents, names):
    assert told(judged(chapter, patches, dependents), chapter) >= names


@pytest.mark.parametrize(
    "name, value", [("slope_taus", [1.0, 0.5, 2.0, 3.0]), ("alphas", [1.0, 10.0]), ("start", "centred"), ("m", 7)]
)
def test_a_wrong_value_is_refused_in_one_sentence(name, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}[^\n]*\.$"):
        run_cells(CHAPTER, parameters={name: value})
