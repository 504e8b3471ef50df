"""Chapter 12 at the smoke preset: its claims hold, and a planted error turns just the claims that it breaks.

The digits and narrow networks are enough for that. Where one claim is tested, the others are made small.
"""

import functools

import pytest

from tests.notebooks import run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "12_fluctuations.ipynb"
CLAIMS = ("G2", "G3", "G11", "G12", "G13")
WIDTHS_ONLY = {"scales": [0.01, 1000.0], "sizes": [10, 20]}
SMALL = {"widths": [12, 24], "scales": [0.01, 1000.0]}

PLANTED = {  # what is wrong → the claims that it breaks, lines replaced, parameters changed
    "other images for other initializations": (["G2"], {"data = images(n, number)": "data = images(n, seed % p.sets)"}, WIDTHS_ONLY),
    "the standard deviation for the variance": (
        ["G2"],
        {"    return part.sum((-2, -1)) / (part.shape[-1] * (part.shape[-1] - 1))": "    return (part.sum((-2, -1)) / (part.shape[-1] * (part.shape[-1] - 1))) ** 0.5"},
        WIDTHS_ONLY,
    ),
    "a run did not reach its margin": (list(CLAIMS), {'"reached": flow.reached': '"reached": flow.reached & (seed != 1)'}, SMALL),
    "classes shuffled in the lazy regime": (
        ["G3"],
        {"* data.y_test  # (A, n_test)": "* torch.stack([data.y_test.roll(int(s == p.lazy)) for s in scales])"},
        SMALL,
    ),
    "an ensemble of one": (["G3"], {"    return k * s.mean_of_all - (k - 1) * s.without": "    return s.single"}, WIDTHS_ONLY),
    "n without effect": (["G11"], {"start : start + n]": "start : start + p.n]"}, SMALL),
    "the initial output always subtracted": (["G12"], {"centred=centred": "centred=True"}, SMALL),
    "an output that is large at small α": (["G12"], {"/ math.sqrt(h)\n    w0": "/ math.sqrt(h) * (1 if centred else 1e4)\n    w0"}, SMALL | {"few_scales": [0.01, 1.0], "scales": [0.01, 1.0], "lazy": 1.0}),
    "narrower where there are biases": (["G13"], {"FullyConnected(data.x.shape[1], h, 3, bias=bias)": "FullyConnected(data.x.shape[1], 2 if bias else h, 3, bias=bias)"}, SMALL),
}
SOUND = ("holds", "holds with a caveat")  # so few networks and images decide little


@functools.cache
def sound() -> dict[str, str]:
    return verdicts(run_cells(CHAPTER))


@pytest.mark.parametrize("claim", CLAIMS)
def test_nothing_planted_nothing_found(claim):
    assert sound()[claim] in SOUND


@pytest.mark.parametrize("error", PLANTED)
def test_a_planted_error_is_found(error):
    claims, patches, parameters = PLANTED[error]
    found = verdicts(run_cells(CHAPTER, patches=patches, parameters=parameters))
    assert {claim: found[claim] for claim in claims} == dict.fromkeys(claims, "does not hold")


@pytest.mark.parametrize("parameters", [{"feature": 0.5}, {"few_scales": [0.01, 5.0, 1000.0]}, {"h": 13}, {"widths": [40, 12]}, {"trials": 2}, {"lazy": 0.01}])
def test_parameters_that_do_not_fit_stop_with_one_sentence(parameters):
    with pytest.raises(ValueError, match=r"^(feature|few_scales|h|widths|trials) must be .*\.$"):
        run_cells(CHAPTER, parameters=parameters)
