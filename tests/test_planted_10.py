"""Chapter 10 at the smoke preset: a planted error is told by the limbs of just the claims that it breaks.

The chapter is run once. For a planted error the cells that contain it, the sweep that depends on it and everything
that is made of them are run again. The digits and narrow networks are enough for that; what so few images leave open
is planted in a second run, of more of them. "null: …" is no error but a world in which a limb must say no or nothing.
"""

import functools

import pytest

from tests.notebooks import refused, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "10_phase_diagram.ipynb"
SWEEPS = ("phases", "outputs", "tolerance")
DECIDED = {  # a row of G8, and whether the frozen kernel has the error of the lazy networks
    **{"cases": ["digits"], "case_draws": 12},
    **{"trials": 6, "n_test": 1700, "widths": [30, 90], "alpha_hats": [1e-2, 0.1, 1.0, 1e3, 1e4]},
}

ALPHA = "torch.tensor(alpha_hats, device=p.device) / "
FLOWS = "net = FullyConnected(data.x.shape[1], h, 3)\n    objective, flow = train(net, data, seed, {}, rtol)"
ONE_WIDTH = FLOWS.replace(" h, 3", " 30, 3").format("[a * math.sqrt(30 / h) for a in alpha_hats]")
CASE_NET = "net = FullyConnected(data.x.shape[1], p.case_h, L)"
SHUFFLED = "__import__('dataclasses').replace(data, y_test=torch.stack([data.y_test, data.y_test.roll(1)]{}))"
TURNED = "[:: -1 if 'L = 9' in case else 1]"
FEWER = "map(min, (p.case_n, p.case_n_test), most)"
GAIN = "np.divide(*S(curves, [0.0, 0.5]))"
PLANTED = {  # what is wrong → limbs that tell it, code replaced, the sweep to run again
    "α not divided by √h": (
        {"G1.exponent"},
        {"/ math.sqrt(net.h)\n    w0 = net.init(seed, device": "* 1.0\n    w0 = net.init(seed, device"},
        "phases",
    ),
    "the authors' last layer, 1/h": (
        {"G1.exponent", "G1.kernel"},
        {f"{ALPHA}math.sqrt(net.h)": f"{ALPHA}net.h"},
        "phases",
    ),
    "null: one width behind every label": (
        {"G1.exponent", "G1.kernel"},
        {FLOWS.format("alpha_hats"): ONE_WIDTH},
        "phases",
    ),
    "kernel frozen, and trained on shuffled classes": (
        {"G1.frozen"},
        {"(tangent_kernel(net, w0, data.x), data.y)": "(tangent_kernel(net, w0, data.x), data.y.roll(1))"},
        "phases",
    ),
    "half of the frozen kernel's error": ({"G1.frozen"}, {"- phases.frozen)": "- 0.5 * phases.frozen)"}, None),
    "a run did not reach its margin": (
        {"G1"},
        {'"reached": flow.reached,': '"reached": flow.reached & (h != 90),'},
        "phases",
    ),
    "the feature end for the lazy end": (
        {"G1.frozen"},
        {"phases.error.isel(alpha_hat=-1) - phases.frozen": "phases.error.isel(alpha_hat=0) - phases.frozen"},
        None,
    ),
    "√h·α* for α*": ({"G1.exponent"}, {"copy(data=at) * np.sqrt(data.h))": "copy(data=at))"}, None),
    "α* divided by h": ({"G1.exponent"}, {"copy(data=at) * np.sqrt(data.h))": "copy(data=at) * data.h)"}, None),
    "the axis without its −½": ({"G1.kernel"}, {"np.array(gammas) - 0.5)": "np.array(gammas))"}, None),
    "the ratio upside down": ({"G1.kernel"}, {GAIN: GAIN.replace("0.0, 0.5", "0.5, 0.0")}, None),
    "a difference in place of the ratio": (
        {"G1.kernel", "G1.errors"},
        {GAIN: GAIN.replace("divide", "subtract")},
        None,
    ),
    "the exponent in the place of the errors": ({"G1.errors"}, {'error["gain"], "frozen"': 'exponent, "frozen"'}, None),
    "√h·α compared with itself": ({"G1.kernel", "G1.errors"}, {GAIN: GAIN.replace("0.0, 0.5", "0.5, 0.5")}, None),
    "classes shuffled for one regime": (
        {"G8.rows"},
        {"case_errors(F, data))": f"case_errors(F, {SHUFFLED.format('')}))"},
        "outputs",
    ),
    "classes shuffled for one regime at depth 3, for the other at depth 9": (
        {"G8.rows", "G14.single", "G14.many"},
        {"case_errors(F, data))": f"case_errors(F, {SHUFFLED.format(TURNED)}))"},
        "outputs",
    ),
    "the depths mixed up": (
        {"G14.single"},
        {
            'done.sel(case=f"{shallow}, L = 9") - done.sel(case=shallow)': 'done.sel(case=shallow) - done.sel(case=f"{shallow}, L = 9")'
        },
        None,
    ),
    "no mean of networks": ({"G14.many"}, {"data.error(F.mean(0))": "data.error(F).mean(0)"}, "outputs"),
    "errors of one and of k networks swapped": (
        {"G14.many"},
        {"(k * ensemble - single)": "(k * single - ensemble)"},
        "outputs",
    ),
    "fewer images at depth 3": (
        {"G14.single", "G14.many"},
        {FEWER: f"{FEWER}\n    n = n // 16 if L == 3 else n"},
        "outputs",
    ),
    "null: a sixteenth of the images for the deep networks": (
        {"G14.many"},
        {FEWER: f"{FEWER}\n    n = n // 16 if L == 9 else n"},
        "outputs",
    ),
    "null: nine layers are three": (
        {"G14.single"},
        {CASE_NET: CASE_NET.replace("L)", "3)"), "rtol or p.rtol)\n    F": "p.rtol)\n    F"},
        "outputs",
    ),
    "a tolerance that counts": (
        {"G10.change"},
        {
            'found = {**measure(objective, data, flow.u), "reached"': "more = 0.05 * (rtol == p.tolerances[0])\n"
            "    found = measure(objective, data, flow.u)\n"
            "    found = {**found, 'error': found['error'] + more, 'reached'"
        },
        "tolerance",
    ),
    "compared with the widest networks": (
        {"G10.change?"},
        {
            "finest = tolerance.isel(rtol=-1, drop=True)": "finest = phases.sel(h=p.widths[-1], alpha_hat=p.tolerance_alpha_hats, drop=True)"
        },
        "tolerance",
    ),
    "the finest tolerance not subtracted": (
        {"G10.change"},
        {"(tolerance.error - finest.error)": "tolerance.error"},
        "tolerance",
    ),
    "compared with the next trial": (
        {"G10.change?"},
        {"rtol=-1, drop=True)": "rtol=-1, drop=True).roll(seed=1)"},
        "tolerance",
    ),
    "compared with the frozen kernel": (
        {"G10.change"},
        {"tolerance.error - finest.error": "tolerance.error - finest.frozen"},
        "tolerance",
    ),
    "the spread as a share": ({"G10.change?"}, {"spread = 100 * float": "spread = float"}, "tolerance"),
    "null: fewer images at the coarse tolerance": (
        {"G10.change?"},
        {
            "tolerance = sweep(run, grid, fixed, store=p.store)": "few = {r: p.n // 4 if r == p.tolerances[0] else p.n for r in p.tolerances}\n"
            "tolerance = xr.concat([sweep(run, {**grid, 'rtol': [r]}, {**fixed, 'n': few[r]}, store=p.store) for r in few], 'rtol')"
        },
        "tolerance",
    ),
}
MORE = {  # the same, where more is decided
    "null: another initialization's kernel": (
        {"G1.frozen?"},
        {"train_frozen(net, data, seed, rtol)\n    found": "train_frozen(net, data, seed + p.trials, rtol)\n    found"},
        "phases",
    ),
    "the regimes swapped": ({"G8.rows"}, {'"regime": ["feature", "lazy"]': '"regime": ["lazy", "feature"]'}, "outputs"),
    "the difference the wrong way": (
        {"G8.rows"},
        {"stats.estimate(feature - lazy": "stats.estimate(lazy - feature"},
        None,
    ),
    "null: classes that one direction decides": (
        {"G8.rows"},
        {
            CASE_NET: "n = 100\n"
            "    x = torch.randn(n + n_test, 64, generator=torch.Generator().manual_seed(draw)).to(data.x)\n"
            "    y = x[:, 0].sign()\n"
            f"    data = type(data)(x[:n], y[:n], x[n:], y[n:], name)\n    {CASE_NET}"
        },
        "outputs",
    ),
}
CAUGHT = [names for names, *_ in [*PLANTED.values(), *MORE.values()]]  # for each error the limbs that tell it
TOUCHED = {"phases": {"G1"}, "outputs": {"G8", "G14"}, "tolerance": {"G1", "G10"}}  # claims that a sweep's cell is for
# So few images decide little about G8 and G14.
SOUND = ("holds", "holds at smaller scale", "undecided", "not tested at this scale")


@functools.cache
def sound(more=False):
    """The chapter's namespace after an unchanged run, at the preset or of more images."""
    return run_cells(CHAPTER, parameters=DECIDED if more else None, whole=False)


def judged(chapter, patches, family):
    """The namespace after all cells but parameters, other sweeps, figures of sweeps, slider and exercises ran again."""

    def chosen(cell, touched):
        aside = any(part in cell.source for part in ("preset: str", "PRESETS = {", "chapter.rows(", "widgets.explore("))
        if aside or "hide-cell" in cell.metadata.get("tags", []) or "chapter.keep(" in cell.source:
            return False
        made = {name for name in SWEEPS if f"{name} = sweep(" in cell.source}
        return touched or not made or family in made

    return run_again(chapter, CHAPTER, patches, chosen)


def tell(chapter, names, patches, family):
    """The limbs tell the error, and no other claims do."""
    found = told(judged(chapter, patches, family), chapter)
    assert found >= names
    claims = [{name.split(".")[0] for name in some} for some in (found, names)]
    assert claims[0] <= claims[1] | TOUCHED.get(family, set())


@pytest.mark.parametrize("claim", ["G1", "G8", "G10", "G14"])
def test_nothing_planted_nothing_found(claim):
    assert {verdicts(sound(more))[claim] for more in (False, True)} <= set(SOUND)


def test_running_again_changes_nothing():
    again = judged(sound(), {}, None)
    assert verdicts(again) == verdicts(sound()) and not told(again, sound())


@pytest.mark.parametrize(("names", "patches", "family"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told(names, patches, family):
    tell(sound(), names, patches, family)


@pytest.mark.parametrize(("names", "patches", "family"), MORE.values(), ids=MORE)
def test_a_planted_error_is_told_by_more_images(names, patches, family):
    tell(sound(more=True), names, patches, family)


def test_null_one_regime_twice_decides_no_row():
    patches = {"case_errors(F, data))": "case_errors(F[:, [1, 1]], data))"}
    assert verdicts(judged(sound(more=True), patches, "outputs"))["G8"] == "not tested at this scale"


STOPPED = {  # what is wrong, where the run itself says so → code replaced, in the sweep of the phases
    "one set of images for all trials": {"parity(p.dataset, n, p.n_test, seed, dev": "parity(p.dataset, n, p.n_test, 0, dev"},
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(patches):
    with refused():
        judged(sound(), patches, "phases")
