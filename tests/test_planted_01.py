"""Chapter 1 at the smoke preset: its claims hold, and a planted error is told by the limbs that it breaks.

At this size K1–K3 run on three trials and K4 up to width 1000, on which the exponents do not depend. The chapter
is run once; for a planted error the cells that contain it, and those that say what was found, are run again.
"""

import pytest

from tests.notebooks import run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "01_kappa_criterion.ipynb"
HOLDS = {"K1": "undecided", "K2": "holds", "K3": "holds", "K4": "undecided"}  # few units

DEEP = "nets.TwoLayer(p.d, p.m) if q == 2 else nets.Deep(p.d, (p.m,) * (q - 1))"
RATIOS = {"K1.slope", "K1.smooth", "K1.kinks", "K1.aligned"}

PLANTED = {  # name → (code to replace, limbs that tell it)
    "the symmetrization is broken": (
        {
            'symmetrized=start == "symmetrized"': "symmetrized=False",
            "torch.cat([w0, w0])": "torch.cat([w0, 1.01 * w0])",
        },
        {"K2.fall", "K3.exponent"},
    ),
    "the output is not centred": ({"y + alpha * h0 if": "y if"}, {"K2.fall"}),
    "a layer too many": ({"(p.m,) * (q - 1)": "(p.m,) * q"}, {"K3.exponent"}),
    "the scalings are swapped": (
        {"lambda m: m**-0.5": "lambda m: 1 / m", "lambda m: 1 / m": "lambda m: m**-0.5"},
        {"K4.falls", "K4.flat", "K4.rate"},
    ),
    "1/√m for both scalings": ({"lambda m: 1 / m": "lambda m: m**-0.5"}, {"K4.flat"}),
    "κ without the targets": (
        {"kappa = r0.norm().item()": "kappa = (alpha * (h0 - offset) / root).norm().item()"},
        {"K1.bound", *RATIOS},
    ),
    "κ with the squared residual": (
        {"kappa = r0.norm().item()": "kappa = r0.norm().item() ** 2"},
        {"K1.slope", "K1.smooth"},
    ),
    "κ of h in place of αh": (
        {"kappa = r0.norm().item() * alpha": "kappa = ((h0 - offset - y) / root).norm().item() * alpha**2"},
        {"K1.smooth"},
    ),
    "Dh after the step at the weights before it": (
        {"norm(jacobian(net, w1, x) - J0)": "norm(jacobian(net, w0, x) - J0)"},
        RATIOS,
    ),
    "Dh before the step not divided by √n": (
        {
            "h0, J0, root = net(w0, x), jacobian(net, w0, x)": "h0, J0, root = net(w0, x), math.sqrt(len(x)) * jacobian(net, w0, x)"
        },
        {"K1.slope", "K1.bound", "K1.smooth", "K1.linear"},
    ),
    "the tangent model is not taken": ({"        net = nets.tangent(net, w0)\n": ""}, {"K1.linear"}),
    "the tangent model with the net's κ": ({"        at = parts(net, w0, x, y)\n": ""}, {"K1.linear"}),
    "null: models that are linear at the κ of those that are not": (
        {"    h0, J0, root =": "    net = nets.tangent(net, w0)\n    h0, J0, root ="},
        RATIOS,
    ),
    "null: a model that is linear in its inputs, not in its weights": (
        {
            "net = nets.tangent(net, w0)": "net = lambda w, x: x @ (w[p.m : p.m * (p.d + 1)].view(p.m, p.d).T @ w[: p.m])",
        },
        {"K1.linear"},
    ),
    "null: steps as long as the inverse curvature": (
        {"size = p.step / max(1.0, kappa)": "size = 1 / max(1.0, kappa)"},
        {"K1.bound"},
    ),
    "the bound upside down": ({"nonlinear.ratio / nonlinear.kappa": "nonlinear.kappa / nonlinear.ratio"}, {"K1.bound"}),
    "the intercept for the slope": (
        {"part.ratio.values.ravel(), 1)[0]": "part.ratio.values.ravel(), 1)[1]"},
        {"K1.slope"},
    ),
    "null: α scales nothing": (
        {"parts(replace(net, scale=alpha), w0, x, targets)": "parts(net, w0, x, targets)"},
        {"K2.fall", "K2.constant"},
    ),
    "the smallest α for the largest": (
        {'.sel(start="as it is").isel(alpha=-1)': '.sel(start="as it is").isel(alpha=0)'},
        {"K2.constant"},
    ),
    "the limit from centred nets": (
        {'.sel(start="as it is").isel(alpha=-1)': '.sel(start="centred").isel(alpha=-1)'},
        {"K2.constant"},
    ),
    "null: nets that are not homogeneous": (
        {DEEP: DEEP.replace("p.m)", 'p.m, "gelu")').replace("- 1))", '- 1), "gelu")')},
        {"K3.exponent", "K3.flat"},
    ),
    "null: zero outputs and others swapped": (
        {
            'powers.kappa.sel(q=q, start="symmetrized")).value': 'powers.kappa.sel(q=q, start="as it is")).value',
            'np.log(powers.kappa.sel(start="as it is")': 'np.log(powers.kappa.sel(start="symmetrized")',
        },
        {"K3.exponent", "K3.flat"},
    ),
    "from one q to the next, not from one λ": ({'last.diff("factor")': 'last.diff("q")'}, {"K3.flat"}),
    "1/m for both scalings": ({"lambda m: m**-0.5": "lambda m: 1 / m"}, {"K4.falls", "K4.rate"}),
    "κ of the sum without the targets": ({"- 2 * a * data.overlap + 1)": ")"}, {"K4.flat"}),
    "κ times α(m), not over it": ({"data.curvature / a": "data.curvature * a"}, {"K4.flat", "K4.rate"}),
    "‖Dh‖ of the sum not squared": (
        {"curvature=at.hessian_norm / at.jacobian_norm**2": "curvature=at.hessian_norm / at.jacobian_norm"},
        {"K4.falls", "K4.rate"},
    ),
    "null: neurons that are not centred": (
        {
            "x, y, w0, at = setting(net, seed, n=p.wide_n)": "(x, y), w0 = problem(seed, p.wide_d, p.wide_n), net.init(1.0, seed, dtype=torch.float64)[0].abs()\n    at = parts(net, w0, x, y)"
        },
        {"K4.falls", "K4.rate"},
    ),
    "null: initial weights that grow as 1/m makes the output fall": (
        {"setting(net, seed, n=p.wide_n)": "setting(net, seed, m**0.25, n=p.wide_n)"},
        {"K4.falls", "K4.flat", "K4.rate"},
    ),
}


CAUGHT = [names for _, names in PLANTED.values()]  # for each error the limbs that tell it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER)


def judged(chapter, patches):
    """The namespace after the cells with a patch, and those that say numbers or check claims, have been run again.

    With `step_changes` the sweep of badly aligned targets is, too, which uses it.
    """
    steps = any("def step_changes" in cell and old in cell for old in patches for cell in chapter["In"])

    def chosen(cell, touched):
        said = "chapter.say(" in cell.source or "ledger.judge(" in cell.source
        return touched or said or (steps and "eigen = sweep(" in cell.source)

    return run_again(chapter, CHAPTER, patches, chosen)


def test_the_claims_hold(chapter):
    assert verdicts(chapter) == HOLDS


def test_running_again_changes_nothing(chapter):
    again = judged(chapter, {})
    assert verdicts(again) == HOLDS and not told(again, chapter)


@pytest.mark.parametrize(("patches", "names"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told_by_its_limbs(chapter, patches, names):
    """And by no other claim."""
    found = told(judged(chapter, patches), chapter)
    assert found >= names
    assert {name.split(".")[0] for name in found} == {name.split(".")[0] for name in names}
