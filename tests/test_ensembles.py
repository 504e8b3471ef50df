"""Statistics of ensembles: on networks that are a known mean plus Gaussian noise, and counted one by one."""

import functools
import itertools

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr, ndtri

from lazylib.measures import (
    by_subset,
    ensemble_error,
    ensemble_variance,
    largest_share,
    mean_product,
    over_halves,
    pair_variances,
    subsets,
    summarize_ensemble,
)

N, SIGMA = 1000, 0.5
MEAN = 1 + ndtri((np.arange(N) + 0.5) / N)  # the mean of F·y on the inputs, N(1, 1) without scatter


def networks(k, seed, directions=0):
    """F·y (k, N): the noise is independent from network to network; also from input to input, or in few directions."""
    rng = np.random.default_rng(seed)
    if not directions:
        return MEAN + SIGMA * rng.normal(size=(k, N))
    x = rng.normal(size=(directions, N))
    return MEAN + SIGMA * rng.normal(size=(k, directions)) @ (x / np.linalg.norm(x, axis=0))


@functools.cache
def statistics(k, directions=0):
    """Var F, the error of single networks and that of their mean, by the rows of subsets: (150, 3, rows)."""
    members, found = subsets(k), []
    for seed in range(150):
        F = networks(k, seed, directions)
        single = members @ ensemble_error(F, np.eye(k)) / members.sum(1)
        found.append([ensemble_variance(pair_variances(F), members), single, ensemble_error(F, members)])
    return np.array(found)


def limits(k, directions=0):
    """(value, low, high) of each, (3, 150, 3)."""
    return np.array(over_halves(np.moveaxis(statistics(k, directions), -1, 0), k))


def covered(found):
    return ((found[1] < TRUTH) & (TRUTH < found[2])).mean(0)


TRUTH = SIGMA**2, ndtr(-MEAN / SIGMA).mean(), (MEAN <= 0).mean()


@pytest.mark.parametrize("k", [5, 6])
def test_without_bias_for_a_known_mean_plus_gaussian_noise(k):
    value = limits(k)[0]
    standard_error = value.std(0) / np.sqrt(len(value))
    assert (abs(value.mean(0) - TRUTH) < 4 * standard_error + [0, 0, 1e-3]).all()  # 1e-3: of second order in 1/k


def test_the_error_of_a_few_is_too_large_and_has_the_known_expectation():
    """So the estimate would be wrong if it were the error of all networks, or that of the halves."""
    found = statistics(6)[:, 2].mean(0)
    of_six, of_three = (ndtr(-MEAN * j**0.5 / SIGMA).mean() for j in (6, 3))
    assert found[0] == pytest.approx(of_six, abs=1e-3) and found[1:].mean() == pytest.approx(of_three, abs=1e-3)
    assert of_three > of_six + 4e-3 > TRUTH[2] + 8e-3


@pytest.mark.parametrize(
    ("directions", "least"), [(3, (0.88, 0.88, 0.88)), (0, (0.93, 0.9, 0.75))], ids=["few directions", "every input"]
)
def test_the_interval_covers_the_truth_as_often_as_said(directions, least):
    assert (covered(limits(6, directions)) >= least).all()


def test_an_interval_that_is_too_narrow_covers_it_less_often():
    """Planted: the scatter of a mean of six for that of the statistic."""
    value, low, high = limits(6, 3)
    narrow = np.array([value, value - (value - low) / 6**0.5, value + (high - value) / 6**0.5])
    assert (covered(narrow) < 0.88).all()


def test_variance_and_error_one_by_one():
    F, members = networks(5, 0)[:, :40], subsets(5)
    for row, variance, error in zip(
        members, ensemble_variance(pair_variances(F), members), ensemble_error(F, members), strict=True
    ):
        assert variance == pytest.approx(F[row].var(0, ddof=1).mean())
        assert error == sum(F[row, x].mean() <= 0 for x in range(40)) / 40


def test_leading_axes_are_batches():
    F, members = np.stack([networks(5, seed) for seed in range(4)]).reshape(2, 2, 5, N), subsets(5)
    variance, error = ensemble_variance(pair_variances(F), members), ensemble_error(F, members)
    assert variance.shape == error.shape == (11, 2, 2)
    for a, b in itertools.product(range(2), repeat=2):
        np.testing.assert_allclose(variance[:, a, b], ensemble_variance(pair_variances(F[a, b]), members), rtol=1e-12)
        np.testing.assert_array_equal(error[:, a, b], ensemble_error(F[a, b], members))


def test_a_labelled_array_stays_one():
    members = subsets(5)
    values = ensemble_variance(pair_variances(np.stack([networks(5, 1), networks(5, 2)])), members)
    labelled = over_halves(xr.DataArray(values, dims=("subset", "h"), coords={"h": [10, 30]}), 5)
    for mine, plain in zip(labelled, over_halves(values, 5), strict=True):
        assert mine.dims == ("h",) and (mine.values == plain).all()


@pytest.mark.parametrize(("k", "rows"), [(4, 7), (5, 11), (7, 36), (8, 61), (20, 61)])
def test_halves_are_halves_and_the_same_each_time(k, rows):
    members = subsets(k)
    assert members.shape == (rows, k) and members[0].all() and (members[1:].sum(1) == k // 2).all()
    assert (members == subsets(k)).all() and members[1:].any(0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: subsets(3), "k must be at least 4"),
        (lambda: subsets(8, most=1), "most at least 2"),
        (lambda: ensemble_variance(np.zeros((4, 4)), np.eye(4)), "two networks or more"),
        (lambda: over_halves(np.zeros(5), 4), r"values must be 7 for 4 networks"),
        (lambda: over_halves(np.zeros(7), 4, confidence=1.0), "confidence must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def labelled():
    """F·y of two widths, with the dimensions in an order of their own."""
    F = np.stack([networks(5, 1), networks(5, 2, directions=3)])  # (2, 5, N)
    return xr.DataArray(F, dims=("h", "seed", "test"), coords={"h": [10, 30]}).transpose("test", "h", "seed")


def test_the_summary_holds_what_the_outputs_say():
    F, members = labelled(), subsets(5)
    found = by_subset(summarize_ensemble(F))
    for h in (10, 30):
        plain, part = F.sel(h=h).transpose("seed", "test").values, found.sel(h=h)
        np.testing.assert_allclose(part.variance, ensemble_variance(pair_variances(plain), members), rtol=1e-12)
        np.testing.assert_array_equal(part.many, ensemble_error(plain, members))
        np.testing.assert_allclose(part.one, members @ ensemble_error(plain, np.eye(5)) / members.sum(1), rtol=1e-12)
        pairs = [np.mean(plain[i] * plain[j]) for i, j in itertools.permutations(range(5), 2)]
        assert float(part.power) == pytest.approx(np.mean(pairs))
        assert part.joined.values[4] == pytest.approx(part.mean_of_all)
        for j in (1, 2):
            some = [np.isin(np.arange(5), chosen) for chosen in itertools.combinations(range(5), j)]
            exact = ensemble_error(plain, some).mean()
            assert part.joined.values[j - 1] == pytest.approx(exact, rel=0.05)  # 30 orders, not all choices
    assert found.networks == 5 and found.variance.dims[0] == "subset"


def test_of_one_direction_or_of_all():
    few, many = (largest_share(pair_variances(networks(6, 0, directions))) for directions in (1, 0))
    assert few == pytest.approx(1) and 1 / 5 < many < 1 / 4


def test_how_far_a_mean_moved_is_without_bias():
    """Two kinds of networks whose means differ by 0.1 on every input; planted: the same with equal seeds counted."""
    apart = [
        xr.DataArray(networks(6, seed) + 0.1 - networks(6, 1000 + seed), dims=("seed", "test")) for seed in range(100)
    ]
    found = np.mean([mean_product(each, each) for each in apart])
    planted = np.mean([(each.mean("seed") ** 2).mean("test") for each in apart])
    assert found == pytest.approx(0.01, abs=2e-3) and planted > 0.05


def test_networks_without_an_answer_are_not_right():
    Fy = np.array([[np.nan, np.nan], [1.0, 1.0]])
    assert np.isnan(ensemble_error(Fy, np.array([[1, 0], [1, 1]]))).all()
