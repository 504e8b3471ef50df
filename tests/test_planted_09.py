"""Chapter 9 at the smoke preset: its claims hold, and a planted error is told by the limbs that it breaks.

The chapter is run once.  For a planted error the cells that contain it, the sweeps that depend on it and everything
that is made of them are run again.
"""

import pytest

from tests.notebooks import run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "09_convergence.ipynb"
CLAIMS = ("B1", "B2", "B3", "B4")
FLIPPING = {"kink_alphas": [0.6, 1.2, 2.4], "kink_sizes": [30, 200, 50]}  # lazy enough, with flips: all exponents
SWEEPS = ("smooth", "short", "wide", "kinks", "ends", "escapes")
GAPS = ["smooth", "short", "wide"]

PLANTED = {  # what is wrong → code to replace, sweeps to run again, limbs that tell it
    "κ ten times too small": ({"kappa = data.beta * ": "kappa = 0.1 * data.beta * "}, [], {"B1.square", "B1.linear"}),
    "K without the Lipschitz constant": (
        {"path = data.T * data.L**2": "path = data.T"},
        [],
        {"B1.square", "B1.linear"},
    ),
    "β of half the network": (
        {'flow.observed["turned"] / distance': '0.1 * flow.observed["turned"] / distance'},
        GAPS,
        {"B1.square", "B1.linear"},
    ),
    "κ over the norm of Dh, not its square": (
        {
            '"kappa": residual * parts.hessian_norm / parts.jacobian_norm**2': '"kappa": residual * parts.hessian_norm '
            "/ parts.jacobian_norm"
        },
        GAPS,
        {"B1.any"},
    ),
    "a quarter of the horizon in the bound": (
        {"data.K**2 * data.kappa": "(data.K / 4) ** 2 * data.kappa"},
        [],
        {"B1.any", "B1.start"},
    ),
    "κ of a tenth of the residual": (
        {'"kappa": residual * parts': '"kappa": 0.1 * residual * parts'},
        GAPS,
        {"B1.any", "B1.start"},
    ),
    "a sum over the inputs for their mean": (
        {"norm(h - h_bar).numpy()": "(h - h_bar).norm(dim=-1).numpy()"},
        GAPS,
        {"B1.square", "B1.any", "B3.formula"},
    ),
    "outputs added, not subtracted": (
        {"h - h_bar": "h + h_bar"},
        GAPS,
        {"B1.square", "B1.linear", "B1.any", "B1.start", "B2.outputs", "B2.symmetrized", "B3.early", "B3.formula"},
    ),
    "null: weights of almost nothing at the start": ({'"tau": p.taus': '"tau": [0.005]'}, ["wide"], {"B1.any"}),
    "null: the tangent model of another start": (
        {"tangent_path(net, w0, x, goals, T)": "tangent_path(net, started(net, seed + 100, tau), x, goals, T)"},
        GAPS,
        {"B1.points", "B2.weights", "B2.outputs", "B3.early", "B3.late"},
    ),
    "null: a hundredth of the horizon": (
        {"T = np.array(Ks) /": "T = 0.01 * np.array(Ks) /", '"Ks": KS, "rtol": p.rtol': '"Ks": KS, "rtol": 1e-8'},
        ["smooth"],
        {"B3.late"},
    ),
    "runs that reached the end left out": (
        {"data.reached & (data": "~data.reached & (data"},
        [],
        {"B1.points", "B2.weights", "B2.outputs", "B2.kinks", "B3.early", "B3.late"},
    ),
    "the tangent model at twice the time": (
        {"tangent_path(net, w0, x, goals, T)": "tangent_path(net, w0, x, goals, 2 * T)"},
        GAPS,
        {"B1.points", "B2.weights", "B2.outputs", "B3.early", "B3.late"},
    ),
    "the output at the start is not zero": (
        {'(net(w0, x) if start == "centred" else 0)': "0"},
        ["smooth", "ends"],
        {"B2.weights", "B2.outputs", "B4.rate", "B4.kernel", "B4.local"},
    ),
    "the symmetrization is broken": (
        {'symmetrized=start == "symmetrized"': "symmetrized=False"},
        ["smooth"],
        {"B2.weights", "B2.symmetrized"},
    ),
    "the target is not divided by α": (
        {"[y / alpha for": "[y for"},
        ["smooth"],
        {"B2.weights", "B2.outputs", "B2.symmetrized"},
    ),
    "the flow is solved too loosely": (
        {'"rtol": p.rtol': '"rtol": 0.01'},
        ["smooth"],
        {"B2.weights", "B2.outputs", "B3.late"},
    ),
    "exponents in 1/α": (
        {"stats.power_law(values[x],": "stats.power_law(1 / values[x],"},
        [],
        {"B2.weights", "B2.outputs", "B2.symmetrized", "B3.early"},
    ),
    "squares of the distances": (
        {'values.transpose("seed", x)': 'values.transpose("seed", x) ** 2'},
        [],
        {"B2.weights", "B2.outputs", "B2.symmetrized", "B3.early"},
    ),
    "gaps at a tenth of the horizon": ({'TEN = {"K": 10,': 'TEN = {"K": 1,'}, [], {"B2.outputs", "B2.kinks"}),
    "one law for both starts": (
        {'"outputs": {"centred": -1, "symmetrized": -2}': '"outputs": {"centred": -1, "symmetrized": -1}'},
        [],
        {"B2.kinks"},
    ),
    "null: no kinks": ({'"activation": "relu"': '"activation": "gelu"'}, ["kinks"], {"B2.kinks"}),
    "the horizon is K²": ({"T = np.array(Ks) /": "T = np.array(Ks) ** 2 /"}, ["short"], {"B3.early"}),
    "the prediction without its ½": (
        {"early * T**2 / residual": "2 * early * T**2 / residual"},
        ["short"],
        {"B3.formula"},
    ),
    "the prediction is not relative": ({"early * T**2 / residual": "early * T**2"}, ["short"], {"B3.formula"}),
    "the prediction at the last time": ({"short.isel(K=0)": "short.isel(K=-1)"}, [], {"B3.formula"}),
    "early and late swapped": (
        {
            "growth(centred.sel(activation=a), 3, 1e9)": "growth(short.sel(activation=a), 0, 0.1)",
            "growth(short.sel(activation=a), 0, 0.1)": "growth(centred.sel(activation=a), 3, 1e9)",
        },
        [],
        {"B3.early", "B3.late"},
    ),
    "null: targets two percent larger than those of the tangent models": (
        {"w0.repeat(len(alphas), 1), x, goals)": "w0.repeat(len(alphas), 1), x, 1.02 * goals)"},
        ["short"],
        {"B1.square", "B1.linear", "B1.start", "B3.early", "B3.formula"},
    ),
    "null: fewer weights than inputs under both labels": (
        {'"over": (10, 20, 20)': '"over": (5, 50, 2)'},
        ["ends"],
        {"B4.global"},
    ),
    "null: a symmetrized network where there are fewer weights than inputs": (
        {
            "setting(kind, seed)\n": 'setting(kind, seed, symmetrized=kind == "under")\n',
            "-min(len(x), net.size)]": "-min(len(x), net.size // 2)]",  # half of them do nothing at the start
            "alpha, times, 1e-4)\n": 'alpha, times, 3e-2 if kind == "under" else 1e-4)\n',  # it takes long
        },
        ["ends"],
        {"B4.rate", "B4.kernel", "B4.minimum", "B4.law"},
    ),
    "the largest eigenvalue for the smallest": (
        {"solution.eigenvalues[-min(len(x), net.size)]": "solution.eigenvalues[-1]"},
        ["ends"],
        {"B4.kernel", "B4.global", "B4.local", "B4.minimum"},
    ),
    "the flow of B4 is not converged": (
        {"/ rate, MARKS / rate": "/ rate, 0.1 * MARKS / rate"},
        ["ends"],
        {"B4.kernel", "B4.global", "B4.local"},
    ),
    "null: the smallest α, in the feature regime": (
        {"isel(strength=-1)": "isel(strength=0)"},
        [],
        {"B4.rate", "B4.kernel", "B4.local"},
    ),
    "the loss for the distance": ({"late_rate(ends.left)": "late_rate(ends.loss)"}, [], {"B4.rate", "B4.kernel"}),
    "divided by λ twice": ({"(measured / exact_rate)": "(measured / ends.rate)"}, [], {"B4.rate"}),
    "a decimal logarithm": ({"np.log(distance": "np.log10(distance"}, [], {"B4.kernel"}),
    "the start for the end": ({"loss.isel(mark=-1)": "loss.isel(mark=0)"}, [], {"B4.global", "B4.local", "B4.law"}),
    "fewer parameters for more": ({'.sel(kind="over").max()': '.sel(kind="under").max()'}, [], {"B4.global"}),
    "a ratio for a relative difference": ({"/ ends.floor - 1)": "/ ends.floor)"}, [], {"B4.local", "B4.law"}),
    "the mean floor for each trial's": (
        {"ends.floor - 1": 'ends.floor.mean("seed") - 1'},
        [],
        {"B4.local", "B4.law"},
    ),
    "the displacement for the weights": ({"zip(w0 + flow.u, goals)": "zip(flow.u, goals)"}, ["ends"], {"B4.minimum"}),
    "the curvature towards αy": (
        {"zip(w0 + flow.u, goals)": "zip(w0 + flow.u, goals * alpha[:, None])"},
        ["ends"],
        {"B4.minimum"},
    ),
    "the curvature of twice the loss": (
        {"loss = lambda w, goal: 0.5 * (net": "loss = lambda w, goal: (net"},
        ["ends"],
        {"B4.minimum"},
    ),
    "escapes from a loss that is not over its floor": (
        {'loss = flow.observed["loss"] / floor': 'loss = flow.observed["loss"]'},
        ["escapes"],
        {"B4.stays"},
    ),
    "escapes not waited for": ({"geomspace(0.1, 300, 36)": "geomspace(0.1, 3, 36)"}, ["escapes"], {"B4.stays"}),
    "escapes at times in α, not α²": ({"np.outer(alpha**2": "np.outer(alpha"}, ["escapes"], {"B4.stays"}),
    "null: a start of full rank": (
        {
            'setting("under", seed, symmetrized=True)': 'setting("under", seed)',
            "follow(net, w0, x, y / alpha[:, None]": 'follow(net, w0, x, targets(net, "centred", w0, x, y, alpha)',
        },
        ["escapes"],
        {"B4.stays"},
    ),
}


CAUGHT = [broken for *_, broken in PLANTED.values()]  # for each error the limbs that tell it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER, parameters=FLIPPING)


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
    again = judged(chapter, {}, [])
    assert verdicts(again) == verdicts(chapter) and not told(again, chapter)


@pytest.mark.parametrize(("patches", "sweeps", "broken"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told_by_its_limbs(chapter, patches, sweeps, broken):
    found, claims = judged(chapter, patches, sweeps), {name.split(".")[0] for name in broken}
    assert told(found, chapter) >= broken
    if len(claims) == 1 and not sweeps:
        assert all(verdicts(found)[claim] == verdicts(chapter)[claim] for claim in CLAIMS if claim not in claims)
