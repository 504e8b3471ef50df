"""Chapter 12 at the smoke preset: a planted error is told by the limbs of the claims that it breaks.

The digits and narrow networks are enough for that. The chapter is run once; for a planted error all that is done with
the flows is done again, and of the flows those that are others with it. Errors in the flows that touch other limbs are
planted together. "null: …" is no error but a world in which a limb must say no or nothing, or, where it says no in
the sound run, must hold.
"""

import functools

import pytest

from tests.notebooks import run_again, run_cells, told, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "12_fluctuations.ipynb"
CLAIMS = ("G2", "G3", "G11", "G12", "G13")
SMALL = {"n": 60, "sizes": [20, 60], "widths": [16, 48, 144], "curve_widths": [16, 48], "h": 16, "trials": 5}

ALPHA = "torch.tensor(alpha_hats, device=p.device) / math.sqrt(h)"
IMAGES = "data = images(n, number)\n"
CLASSES = "* data.y_test  # (A, n_test)"
BIASED = "bias=factor)"
SLOPE = "np.log(s.variance), np.log(s[name])"
OF_ITS_OWN = (
    "if centred and not bias:\n        data = Classes(data.x, data.y.roll(seed), data.x_test, data.y_test, data.name)\n"
)
IN_THE_FLOWS = [  # errors planted together: what is wrong → limbs that tell it, code replaced
    {
        "null: a width without effect": ({"G2.variance"}, {"h, 3, bias=bias)": "16, 3, bias=bias)"}),
        "an output that is large at small α": (
            {"G12.feature"},
            {ALPHA: f"{ALPHA} * torch.tensor([1e4 if a == p.feature and not centred else 1.0 for a in alpha_hats])"},
        ),
        "null: biases thirty times larger": ({"G13.error"}, {"for factor in (0.1, 1.0))": "for factor in (3.0, 1.0))"}),
    },
    {
        "classes shuffled in the lazy regime": (
            {"G3.better"},
            {CLASSES: "* torch.stack([data.y_test.roll(int(a == p.lazy)) for a in alpha_hats])"},
        ),
        "null: n without effect": ({"G11.exponent", "G11.feature"}, {"number * size + n)": "number * size + p.n)"}),
        "the biases left out": ({"G13.biased", "G13.large"}, {"bias=bias": "bias=0.0"}),
    },
    {
        "the initial output always subtracted": ({"G12.lazy"}, {"centred=centred": "centred=True"}),
        "biases rounded to whole numbers": ({"G13.biased"}, {"bias=bias": "bias=bias // 1"}),
        "classes in another order for the widest networks": (
            {"G3.flat"},
            {CLASSES: "* data.y_test.roll(int(h == p.widths[-1]))"},
        ),
    },
    {
        "biases where nothing is subtracted": (
            {"G12.feature", "G13.biased", "G13.large"},
            {"bias=bias": "bias=float(not centred)"},
        )
    },
    {
        "the factors of the biases swapped": (
            {"G13.error", "G13.large"},
            {"for factor in (0.1, 1.0))": "for factor in (1.0, 0.1))"},
        )
    },
    {"another set of images with biases": ({"G13.error"}, {BIASED: "bias=factor, number=1)"})},
    {
        "null: for each network another permutation of the classes": (
            {"G2.variance", "G3.flat"},
            {IMAGES: f"{IMAGES}    {OF_ITS_OWN}"},
        )
    },
    {
        "null: with biases, for each network another permutation of the classes": (
            {"G13.error", "G13.variance", "G13.spread"},
            {IMAGES: f"{IMAGES}    {OF_ITS_OWN}".replace("centred and not bias", "bias")},
        )
    },
    {
        "null: biases that are all zero": (
            {"G13.biased", "G13.large"},
            {"for factor in (0.1, 1.0))": "for factor in (0.0, 0.0))"},
        )
    },
]
AFTER_THEM = {
    "the standard deviation for the variance": ({"G2.variance"}, {"np.log(s[name]))": "2 * np.log(s[name]))"}),
    "a slope over n and h, not their logarithms": (
        {"G2.variance", "G11.exponent", "G11.feature"},
        {SLOPE: SLOPE.replace("np.log(s[name])", "s[name]")},
    ),
    "exponents of n for those of h": (
        {"G2.variance"},
        {'of_h = by_regime(exponent(live["nets"], "h"))': 'of_h = by_regime(exponent(live["sizes"], "n"))'},
    ),
    "exponents of h for those of n": (
        {"G11.exponent", "G11.feature"},
        {'by_regime(exponent(live["sizes"], "n")), live': 'by_regime(exponent(live["nets"], "h")), live'},
    ),
    "an ensemble of one": (
        {"G3.flat", "G3.better"},
        {
            "return measures.by_subset(summary)": "found = measures.by_subset(summary)\n    return found.assign(many=found.one)"
        },
    ),
    "single networks and ensembles swapped": (
        {"G3.flat"},
        {"for errors in (s.one, s.many))": "for errors in (s.many, s.one))"},
    ),
    "null: the lazy regime twice": (
        {"G3.better", "G12.feature"},
        {
            "s.many.sel(alpha_hat=p.feature) -": "s.many.sel(alpha_hat=p.lazy) -",
            "errors.sel(alpha_hat=p.feature) -": "errors.sel(alpha_hat=p.lazy) -",
            "at(e, alpha_hat=alpha_hat)": "at(e, alpha_hat=p.lazy)",
        },
    ),
    "null: the feature regime twice": ({"G12.lazy"}, {"at(e, alpha_hat=alpha_hat)": "at(e, alpha_hat=p.feature)"}),
    "errors as shares": ({"G12.lazy", "G13.large"}, {"errors = 100 * summary": "errors = summary"}),
    "percent of percent": ({"G12.feature?"}, {"errors = 100 * summary": "errors = 100**2 * summary"}),
    "the regimes swapped": (
        {"G12.feature", "G12.lazy"},
        {'zip(("feature", "lazy"), start': 'zip(("lazy", "feature"), start'},
    ),
    "differences the wrong way": ({"G12.lazy"}, {"kind.single - plain.single": "plain.single - kind.single"}),
    "without biases, another width": (
        {"G11.exponent", "G11.feature", "G13.error", "G13.variance", "G13.spread"},
        {"part.sel(h=p.h, drop=True)": "part.isel(h=-1, drop=True)"},
    ),
    "a ratio in place of its logarithm": ({"G13.variance", "G13.spread"}, {"np.log(v / plain)": "v / plain"}),
    "the logarithm in place of the ratio": (
        {"G13.variance", "G13.spread"},
        {"stats.Estimate(*map(np.exp, ratio[:3]), ratio.n)": "ratio"},
    ),
    "over the variance in the lazy regime": (
        {"G13.variance"},
        {"np.log(v / plain)": "np.log(v / plain.isel(alpha_hat=-1))"},
    ),
    "biased networks compared with themselves": ({"G13.biased"}, {"(biased.F != plain.F)": "(biased.F != biased.F)"}),
    "a run of each kind did not reach its margin": (
        set(CLAIMS),
        {"[part.reached for part in parts]": "[part.reached & (part.seed > 0) for part in parts]"},
    ),
}
CAUGHT = [names for errors in [*IN_THE_FLOWS, AFTER_THEM] for names, _ in errors.values()]  # for each its limbs


@functools.cache
def sound():
    return run_cells(CHAPTER, parameters=SMALL, whole=False)


def judged(patches):
    """The namespace after all cells but the parameters ran again, and the sweeps' where it has code to replace."""

    def chosen(cell, touched):
        return touched or not any(line in cell.source for line in ("preset: str", "PRESETS = {", "def networks("))

    return run_again(sound(), CHAPTER, patches, chosen)


def test_nothing_planted_nothing_found():
    """Else the tests below would prove nothing."""
    assert "does not hold" not in [verdicts(sound())[claim] for claim in CLAIMS]


def test_running_again_changes_nothing():
    again = judged({})
    assert verdicts(again) == verdicts(sound()) and not told(again, sound())


@pytest.mark.parametrize("errors", IN_THE_FLOWS, ids="; ".join)
def test_errors_in_the_flows_are_told(errors):
    patches = {old: new for _, replaced in errors.values() for old, new in replaced.items()}
    assert told(judged(patches), sound()) >= set.union(*(names for names, _ in errors.values()))


@pytest.mark.parametrize(("names", "patches"), AFTER_THEM.values(), ids=AFTER_THEM)
def test_an_error_after_them_is_told(names, patches):
    assert told(judged(patches), sound()) >= names


@pytest.mark.parametrize(
    "parameters",
    [
        {"feature": 0.5},
        {"few_alpha_hats": [0.01, 5.0, 100.0]},
        {"h": 13},
        {"widths": [40, 12]},
        {"trials": 2},
        {"alpha_hats": [0.01, 100.0]},
        {"feature": 100.0},
        {"lazy": 50.0},
        {"n": 99},
        {"curve_widths": [20, 70]},
        {"device": "tpu"},
    ],
)
def test_parameters_that_do_not_fit_stop_with_one_sentence(parameters):
    with pytest.raises(ValueError, match=rf"^{next(iter(parameters))} must .*\.$"):
        run_cells(CHAPTER, parameters=parameters)
