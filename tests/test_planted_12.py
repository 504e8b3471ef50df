"""Chapter 12 at the smoke preset: a planted error turns the claims that it breaks.

The digits and narrow networks are enough for that. Errors in what is done with the flows share the flows, by the store of the
sweeps; errors in the flows are planted together, one for each claim.
"""

import os
import tempfile
from unittest import mock

import pytest

from tests.notebooks import run_cells, verdicts
from tools.pages import ROOT

CHAPTER = ROOT / "chapters" / "12_fluctuations.ipynb"
CLAIMS = ("G2", "G3", "G11", "G12", "G13")
SMALL = {"n": 60, "sizes": [20, 60], "widths": [16, 48, 144], "curve_widths": [16, 48], "h": 16, "trials": 5}
FALSE = "does not hold"

IN_THE_FLOWS = {  # what is wrong → what becomes of the claims, lines replaced
    "a width without effect; an output that is large at small α; biases thirty times too large": (
        {"G2": FALSE, "G12": FALSE, "G13": FALSE},
        {
            "FullyConnected(data.x.shape[1], h, 3, bias=bias)": "FullyConnected(data.x.shape[1], 16, 3, bias=bias)",
            "for factor in (0.1, 1.0))": "for factor in (3.0, 1.0))",
            "/ math.sqrt(h)\n    w0": "/ math.sqrt(h) * torch.tensor([1e4 if a == p.feature and not centred else 1.0 for a in alpha_hats])\n    w0",
        },
    ),
    "classes shuffled in the lazy regime; n without effect; the initial output always subtracted; the biases left out": (
        {"G3": FALSE, "G11": FALSE, "G12": FALSE, "G13": FALSE},
        {
            "* data.y_test  # (A, n_test)": "* torch.stack([data.y_test.roll(int(a == p.lazy)) for a in alpha_hats])",
            "number * size + n)": "number * size + p.n)",
            "centred=centred": "centred=True",
            "bias=bias": "bias=0.0",
        },
    ),
}
AFTER_THEM = {
    "the standard deviation for the variance": (
        {"G2": FALSE},
        {"np.log(s[name]))": "2 * np.log(s[name]))"},
    ),
    "an ensemble of one": (
        {"G3": FALSE},
        {
            "    return measures.by_subset(summary)": "    found = measures.by_subset(summary)\n    return found.assign(many=found.one)"
        },
    ),
    "a run of each kind did not reach its margin": (
        dict.fromkeys(CLAIMS, FALSE),
        {
            "everything = (": "for part in (nets, of_size, of_set, uncentred, biased, large):\n    part.reached[{name: 0 for name in part.reached.dims}] = False\neverything = ("
        },
    ),
}


CAUGHT = [
    set(claims) for claims, _ in [*IN_THE_FLOWS.values(), *AFTER_THEM.values()]
]  # for each error the claims that find it


@pytest.fixture(scope="module")
def store():
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def chapter(patches=(), store: str = "") -> dict[str, str]:
    """Verdicts of the chapter; flows that were already run with a store are read from it."""
    with mock.patch.dict(os.environ, {"LAZYLIB_STORE": store}):
        return verdicts(run_cells(CHAPTER, patches=dict(patches), parameters=SMALL))


def test_nothing_planted_nothing_found(store):
    """Else the tests below would prove nothing."""
    found = chapter(store=store)
    assert FALSE not in [found[claim] for claim in CLAIMS]


@pytest.mark.parametrize("error", IN_THE_FLOWS)
def test_an_error_in_the_flows_is_found(error):
    claims, patches = IN_THE_FLOWS[error]
    found = chapter(patches)
    assert {claim: found[claim] for claim in claims} == claims


@pytest.mark.parametrize("error", AFTER_THEM)
def test_an_error_after_them_is_found(error, store):
    claims, patches = AFTER_THEM[error]
    found = chapter(patches, store)
    assert {claim: found[claim] for claim in claims} == claims


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
