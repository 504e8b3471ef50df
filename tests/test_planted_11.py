"""Chapter 11 at the smoke preset: its claims hold, and a planted error is told by the limbs that it breaks.

The chapter is run once.  For a planted error only the cells of the sweeps that it touches are run again, and those that
define what is planted; figures, the slider and the exercises are left out.
"""

import pytest

from tests.notebooks import refused, run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "11_kernel_evolution.ipynb"
PARAMETERS = {
    "alpha_hats": [1e-3, 3e-3, 1e-2, 1e2, 1e3],  # three for the feature regime: one slope is always straight
    "cases": ["fully connected, digits"],  # where the initial kernel does worse than the network
}
CLAIMS = ("G4", "G5", "G6", "G7", "G9", "G15", "G16")
HOLDS = ("holds", "holds at smaller scale", "right direction, other size")
OPEN = {name: ("undecided",) for name in ("G5", "G6")}  # five seeds decide little about exponents in h
OPEN["G4"] = ("does not hold",)  # at fixed √h·α the lazy kernel change falls with h
SWEEPS = ("depths", "few", "frozen", "kinks", "bent")
MADE_OF = {
    "depths": ["depths"],
    "powers": ["depths", "bent"],
    "frozen": ["frozen"],
    "kinks": ["kinks"],
    "both": ["depths", "kinks"],
}  # what a planted error runs again

ALPHA = "alpha_hats, device=p.device) / math.sqrt(h)"
CHANGE = "kernel_change(net, w0, w0 + u, x_test)"
DATA = "data = parity(name, p.frozen_n, n_test, 0)  # the same for all initializations"
KERNELS = '{"initial": w0[0], "final": (w0 + flow.u)[0]}.items()'
BENT = "**low}, p.store)"
DEPTHS = "store=p.store).assign_attrs(n=p.n)"
NETWORK = "FullyConnected(x.shape[1], h, L, activation)"
SPEEDS = 'np.sqrt(np.square(speeds.speed).mean("layer"))'

PLANTED = {  # what is wrong → code to replace, sweeps to run again, limbs that tell it
    # --- kernel and weights: G4, G5 ---
    "the root of α": (
        {ALPHA: "alpha_hats, device=p.device).sqrt() / math.sqrt(h)"},
        "depths",
        {"G4.lazy", "G4.feature", "G5.kernel", "G5.weights", "G5.lazy", "G6.feature"},
    ),
    "the change relative to the final kernel": (
        {CHANGE: "kernel_change(net, w0 + u, w0.expand_as(u), x_test)"},
        "powers",
        {"G4.feature", "G5.kernel", "G5.steeper", "G15.below"},
    ),
    "a run did not reach its margin": (
        {"DataArray(flow.reached,": "DataArray(flow.reached & (L != 3),"},
        "depths",
        {"G4", "G5", "G6", "G16"},
    ),
    "depths mixed up": (
        {NETWORK: "FullyConnected(x.shape[1], h, 7 - L, activation)"},
        "powers",
        {"G4.width", "G5.kernel", "G5.weights", "G5.steeper", "G5.flatter", "G15.deeper"},
    ),
    "α divided by h": (
        {ALPHA: "alpha_hats, device=p.device) / h * math.sqrt(p.h)"},
        "depths",
        {"G4.width", "G5.inner", "G5.all", "G16.inner?"},
    ),
    "the smallest √h·α for the largest": (
        {"lazy, h = p.width_alpha_hats[-1]": "lazy, h = p.width_alpha_hats[0]"},
        None,
        {"G4.width"},
    ),
    "w in the place of w − w0": (
        {
            "relative_displacement(w0, u)": "relative_displacement(w0, w0 + u)",
            "relative_displacement(w0[:, inner], u[:, inner])": "relative_displacement(w0[:, inner], (w0 + u)[:, inner])",
        },
        "depths",
        {"G5.all", "G5.inner", "G5.lazy", "G5.weights", "G16.inner"},
    ),
    "squares of the norms": (
        {
            CHANGE: f"{CHANGE}.square()",
            "relative_displacement(w0, u)": "relative_displacement(w0, u).square()",
            "u[:, inner])": "u[:, inner]).square()",
        },
        "both",
        {"G4.lazy", "G5.kernel", "G5.weights", "G5.lazy", "G5.inner", "G9.relu", "G9.softplus", "G9.end", "G16.inner"},
    ),
    "null: α does nothing": (
        {ALPHA: "alpha_hats, device=p.device) ** 0 / 100 / math.sqrt(h)"},
        "powers",
        {
            "G4.lazy",
            "G4.feature",
            "G5.kernel",
            "G5.weights",
            "G5.steeper",
            "G5.lazy",
            "G6.feature",
            "G15.below",
            "G15.deeper",
        },
    ),
    "null: the weights of a linear model": (  # as the net's in the lazy regime, and in proportion to 1/α
        {
            "u, inner = flow.u, slice": "lazy = follow(soft_hinge(net, w0, x, y, 1000 / math.sqrt(h)), x_test[:100])[0]\n"
            "    u = lazy.u * (1000 / math.sqrt(h) / alpha)[:, None]\n"
            "    inner = slice",
            CHANGE: "kernel_change(net, w0.double(), (w0 + u).double(), x_test.double())",
        },
        "depths",
        {"G4.feature", "G5.kernel", "G5.weights", "G16.inner?"},
    ),
    "null: as far in another direction": (
        {CHANGE: "kernel_change(net, w0, w0 + u.flip(1), x_test)"},
        "depths",
        {"G4.feature", "G5.kernel", "G5.steeper"},
    ),
    "null: the feature regime under every label": (
        {
            DEPTHS: f"{DEPTHS}\ndepths = depths.isel(alpha_hat=[0, 1, 2, 0, 2]).assign_coords(alpha_hat=depths.alpha_hat)"
        },
        "kinks",
        {"G4.lazy", "G5.lazy", "G6.lazy", "G9.softplus"},
    ),
    "null: one depth under every label": (
        {
            DEPTHS: f"{DEPTHS}\ndepths = depths.sel(L=[3] * len(depths.L)).assign_coords(L=depths.L)",
            BENT: f"{BENT}\nbent = bent.sel(L=[3] * len(bent.L)).assign_coords(L=bent.L)",
        },
        None,
        {"G5.weights", "G5.steeper", "G5.flatter", "G15.deeper"},
    ),
    "the two regimes swapped": (
        {'"lazy": {"low": p.lazy_from}, "feature"': '"feature": {"low": p.lazy_from}, "lazy"'},
        None,
        {"G4.feature", "G4.lazy", "G5.kernel", "G5.lazy", "G5.weights", "G6.feature", "G6.lazy"},
    ),
    "null: one power law for both regimes": (
        {
            '"feature": {"high": p.feature_to}': '"feature": {}',
            "[: sum(a <= p.feature_to for a in p.alpha_hats) - 1]": "",
        },
        None,
        {"G4.straight", "G5.kernel", "G5.weights", "G6.feature"},
    ),
    "the crossover counts as lazy regime": (
        {'"low": p.lazy_from': '"low": p.feature_to'},
        None,
        {"G4.lazy", "G5.lazy", "G6.lazy"},
    ),
    "slopes over the number of α, not its value": (
        {
            'stats.local_slopes(depths.kernel, "alpha_hat")': "stats.local_slopes("
            'depths.kernel.assign_coords(alpha_hat=np.arange(depths.alpha_hat.size) + 1), "alpha_hat")'
        },
        None,
        {"G4.straight"},
    ),
    "slopes not averaged, so that trials stand for α": (
        {"slopes = bends.sel(L=3)[:": 'slopes = stats.local_slopes(depths.kernel, "alpha_hat").sel(L=3)[:'},
        None,
        {"G4.straight"},
    ),
    "kernel and weights swapped": (
        {"steeper, flatter = (": "flatter, steeper = ("},
        None,
        {"G5.flatter", "G5.steeper"},
    ),
    "the deepest first": (
        {"for L in p.depths] for name in LABELS}": "for L in p.depths[::-1]] for name in LABELS}"},
        None,
        {"G5.flatter", "G5.kernel", "G5.steeper", "G5.weights"},
    ),
    # --- on the way: G6 ---
    "times of the loss not divided by α²": (
        {"crossing(data.t, -data.loss": "crossing(data.t * data.alpha_hat, -data.loss"},
        None,
        {"G6.feature", "G6.lazy"},
    ),
    "times of the loss in units of √h·α": (
        {"crossing(data.t, -data.loss": "crossing(data.t / data.alpha_hat, -data.loss"},
        None,
        {"G6.feature", "G6.lazy"},
    ),
    "f not divided by √h": ({"one.t, one.f / np.sqrt(one.h)": "one.t, one.f"}, None, {"G6.size"}),
    "f divided by h": ({"np.sqrt(one.h)": "one.h"}, None, {"G6.size"}),
    "F in the place of f": (
        {"F.square().mean(1).sqrt() / part.alpha": "F.square().mean(1).sqrt()"},
        "depths",
        {"G6.size"},
    ),
    "the root of the mean square forgotten": (
        {".mean(1).sqrt() / part.alpha": ".mean(1) / part.alpha", SPEEDS: 'np.square(speeds.speed).mean("layer")'},
        "depths",
        {"G6.linear", "G6.rate"},
    ),
    "before t1 and after it swapped": ({"t < 0.1 * t1": "t > 0.1 * t1"}, None, {"G6.linear"}),
    "to ten times t1": ({"t < 0.1 * t1": "t < 10 * t1"}, None, {"G6.linear"}),
    "f and t without their logarithms": ({"(np.log(x).where(t": "(x.where(t"}, None, {"G6.linear"}),
    "null: the outputs of the way backwards": (
        {"one.f / np.sqrt(one.h)": "one.f.isel(step=slice(None, None, -1)) / np.sqrt(one.h)"},
        None,
        {"G6.linear"},
    ),
    "half of the loss at a tenth of its time": ({"half_time(one)):": "0.1 * half_time(one)):"}, None, {"G6.up_to"}),
    "a ten-thousandth of the loss for half of it": (
        {"t1, half_time(one)):": 't1, stats.crossing(one.t, -one.loss, -0.9999, dim="step")):'},
        None,
        {"G6.up_to"},
    ),
    "null: half of the loss in the lazy regime": (
        {"one, over_line = widths.isel(alpha_hat=0)": "one, over_line = widths.isel(alpha_hat=-1)"},
        None,
        {"G6.up_to"},
    ),
    "speeds of all units summed": (
        {"found = preactivation_speed(": "found = h**0.5 * preactivation_speed("},
        None,
        {"G6.rate"},
    ),
    "speeds at √h·α = 1, not at α = 1": (
        {"soft_hinge(net, w0, x, y, 1.0)": "soft_hinge(net, w0, x, y, 1 / math.sqrt(h))"},
        None,
        {"G6.rate"},
    ),
    "null: one width under every label": (
        {
            "begun, data = time.perf_counter(), images(seed)": "begun, data, h = time.perf_counter(), images(seed), p.h",
            "images(init % p.trials), FullyConnected(d, h, 3)": "images(init % p.trials), FullyConnected(d, p.h, 3)",
        },
        "depths",
        {"G4.width", "G5.inner", "G5.all", "G6.size", "G6.rate", "G16.inner"},
    ),
    # --- frozen kernels: G7 ---
    "the final kernel is the initial one": (
        {KERNELS: '{"initial": w0[0], "final": w0[0]}.items()'},
        "frozen",
        {"G7.agreement", "G7.alignment", "G7.final?"},
    ),
    "the initial kernel is the final one": (
        {KERNELS: '{"initial": (w0 + flow.u)[0], "final": (w0 + flow.u)[0]}.items()'},
        "frozen",
        {"G7.agreement", "G7.alignment", "G7.each", "G7.initial"},
    ),
    "initial and final kernel swapped": (
        {KERNELS: '{"final": w0[0], "initial": (w0 + flow.u)[0]}.items()'},
        "frozen",
        {"G7.agreement", "G7.alignment", "G7.each", "G7.initial", "G7.final?"},
    ),
    "classes shuffled for the frozen kernels": (
        {"train_frozen(kernel(data.x), cross, data.y": "train_frozen(kernel(data.x), cross, data.y.roll(1)"},
        "frozen",
        {"G7.agreement", "G7.final"},
    ),
    "training images in another order in one of two kernels": (
        {"cross = kernel(data.x_test, data.x)": "cross = kernel(data.x_test, data.x.flip(0))"},
        "frozen",
        {"G7.final", "G7.agreement"},
    ),
    "the frozen kernels' errors not in %": (
        {"found |= {name: 100 * data.error(F)": "found |= {name: data.error(F)"},
        "frozen",
        {"G7.each", "G7.initial"},
    ),
    "the network's error less the kernel's": (
        {"mean(one.initial - one.network)": "mean(one.network - one.initial)"},
        None,
        {"G7.each", "G7.initial"},
    ),
    "null: permuted test classes": (
        {DATA: f"{DATA}\n    data = replace(data, y_test=data.y_test.roll(1))"},
        "frozen",
        {"G7.initial?", "G7.each?"},
    ),
    "null: the kernel of shuffled weights": (
        {KERNELS: '{"initial": w0[0], "final": (w0 + flow.u)[0].flip(0)}.items()'},
        "frozen",
        {"G7.agreement", "G7.alignment?", "G7.final?"},
    ),
    "null: lazy training": (
        {"p.frozen_alpha_hat / math.sqrt(h)": "100 / math.sqrt(h)"},
        "frozen",
        {"G7.agreement", "G7.alignment?", "G7.initial?", "G7.each?"},
    ),
    # --- ReLU: G9 ---
    "null: softplus for ReLU": ({NETWORK: "FullyConnected(x.shape[1], h, L)"}, "kinks", {"G9.apart", "G9.relu"}),
    "ReLU for softplus": (
        {
            NETWORK: 'FullyConnected(x.shape[1], h, L, "relu")',
            "seen=p.seen": "seen=p.relu_seen",  # as many images as the ReLU net has: few flips are a noisy slope
        },
        "both",
        {"G4.lazy", "G9.apart", "G9.softplus"},
    ),
    "ReLU and softplus swapped": (
        {'{"ReLU": kinks.kernel, "softplus":': '{"softplus": kinks.kernel, "ReLU":'},
        None,
        {"G9.apart", "G9.relu", "G9.softplus"},
    ),
    "in between goes on to the end": (
        {'"alpha_hat", p.relu_low, p.relu_high)': '"alpha_hat", p.relu_low)'},
        None,
        {"G9.relu"},
    ),
    "the beginning of the range for its end": (
        {'local["ReLU"].isel(alpha_hat=-1)': 'local["ReLU"].isel(alpha_hat=0)'},
        None,
        {"G9.end"},
    ),
    "softplus less ReLU": (
        {'local["ReLU"] - local["softplus"]': 'local["softplus"] - local["ReLU"]'},
        None,
        {"G9.apart"},
    ),
    "the slope before the last for the last": (
        {'local["ReLU"].isel(alpha_hat=-1)': 'local["ReLU"].isel(alpha_hat=-2)'},
        None,
        {"G9.end"},
    ),
    # --- ReLU in the feature regime: G15 ---
    "the deepest network for the shallowest": (
        {"in p.depths[:: len(p.depths) - 1]": "in p.depths[:: 1 - len(p.depths)]"},
        None,
        {"G15.deeper"},
    ),
    "not divided by the shallowest network's": ({"last / first,": "last,"}, None, {"G15.deeper"}),
    "weights in the place of the kernel": (
        {'powers[unit, L] = fit(data.sel(L=L), "kernel",': 'powers[unit, L] = fit(data.sel(L=L), "weights",'},
        None,
        {"G15.below"},
    ),
    "null: so few images that no unit flips": (
        {'"seen": p.relu_seen}, p.store)': '"seen": 10}, p.store)'},
        "kinks",
        {"G9.apart", "G9.relu"},
    ),
}


CAUGHT = [limbs for *_, limbs in PLANTED.values()]  # for each error the limbs that tell it


@pytest.fixture(scope="module")
def chapter():
    """The chapter's namespace after an unchanged run."""
    return run_cells(CHAPTER, parameters=PARAMETERS)


def judged(chapter, patches, family):
    """The namespace after what a planted error touches, and the checks, have been run again."""

    def chosen(cell, touched):
        aside = "mystnb" in cell.metadata or {"hide-input", "remove-cell", "parameters"} & set(cell.metadata.tags)
        made = {name for name in SWEEPS if f"{name} = sweep(" in cell.source}
        return touched or not (aside or made - set(MADE_OF.get(family, [])))

    return run_again(chapter, CHAPTER, patches, chosen)


@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_planted_nothing_found(chapter, claim):
    assert verdicts(chapter)[claim] in (*HOLDS, *OPEN.get(claim, ()))


@pytest.mark.parametrize(("patches", "family", "limbs"), PLANTED.values(), ids=PLANTED)
def test_a_planted_error_is_told_by_the_limbs_that_it_breaks(chapter, patches, family, limbs):
    found = told(judged(chapter, patches, family), chapter)
    assert found >= limbs
    assert {name.split(".")[0] for name in found} <= {name.split(".")[0] for name in limbs}


STOPPED = {  # what is wrong, where the run itself says so → code replaced, sweep to run again
    "one seed for all trials": (
        {"images(seed)\n    parts": "images(0)\n    parts", "net.init(seed, dtype": "net.init(0, dtype"}, "depths",
    ),
    "one set of images for all trials": (
        {"begun, data = time.perf_counter(), images(seed)": "begun, data = time.perf_counter(), images(0)"}, "depths",
    ),
    "training images for test images": (
        {DATA: f"{DATA}\n    data = replace(data, x_test=data.x, y_test=data.y)"}, "frozen",
    ),
}  # fmt: skip


@pytest.mark.parametrize("patches", STOPPED.values(), ids=STOPPED)
def test_a_planted_error_stops_the_run(chapter, patches):
    with refused():
        judged(chapter, *patches)
