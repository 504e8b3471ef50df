"""Intervals cover the truth as often as they say; exponents and plateaus are those that were planted."""

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats as reference

from lazylib.book.stats import Estimate, crossing, estimate, exponent, local_slopes, plateau, power_law

X = np.logspace(-2, 1, 31)


def noisy(curve, seeds=10, noise=0.02, seed=0):
    return curve * np.exp(noise * np.random.default_rng(seed).standard_normal((seeds, len(curve))))


def covers(law, mean, n, samples=20_000):
    """Share of the samples of n whose interval of the mean holds the true one."""
    draws = law(np.random.default_rng(1), (samples, n))
    found = estimate(draws, axis=1, resamples=500)  # all samples at once: the units are the columns
    return np.mean((found.low <= mean) & (mean <= found.high))


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("law", ["normal", "skewed"])
def test_the_interval_of_a_mean_covers_at_its_confidence(law, n):
    """The skewed law is a gamma law of shape 4, taken after a look at five laws; 93 % is not reached for them all."""
    laws = {
        "normal": (lambda rng, size: rng.normal(3.0, 2.0, size), 3.0),
        "skewed": (lambda rng, size: rng.gamma(4.0, size=size), 4.0),
    }
    assert 0.93 <= covers(*laws[law], n) <= 0.975


def test_the_interval_is_too_narrow_for_a_much_skewed_law():
    """What the docstring says of the exponential law: a limit of the method, known and not hidden."""
    shares = [covers(lambda rng, size: rng.exponential(size=size), 1.0, n) for n in (3, 5, 10)]
    np.testing.assert_allclose(shares, [0.885, 0.884, 0.898], atol=0.01)


def test_a_bootstrap_of_three_would_not_cover():
    """The planted error: what the percentiles of resamples say at n = 3."""
    rng = np.random.default_rng(1)
    samples = rng.normal(3.0, 2.0, (600, 3))
    draws = rng.integers(3, size=(500, 3))
    low, high = np.quantile(samples[:, draws].mean(2), [0.025, 0.975], axis=1)
    assert np.mean((low <= 3.0) & (high >= 3.0)) < 0.85


def test_few_units_have_students_interval_of_the_jackknife():
    sample = np.array([1.0, 4.0, 2.0, 9.0])
    theirs = reference.t.interval(0.95, 3, sample.mean(), reference.sem(sample))
    np.testing.assert_allclose(estimate(sample).ci, theirs, rtol=1e-12)
    ratio = estimate(
        np.array([[1.0, 2.0], [2.0, 5.0], [3.0, 7.0], [2.0, 3.0]]), lambda s, axis: np.divide(*s.mean(axis))
    )
    assert ratio.value == pytest.approx(8 / 17)
    pseudo = [4 * 8 / 17 - 3 * others for others in (7 / 15, 6 / 12, 5 / 10, 6 / 14)]
    half = reference.t.ppf(0.975, 3) * np.std(pseudo, ddof=1) / 2
    np.testing.assert_allclose(ratio.ci, (8 / 17 - half, 8 / 17 + half), rtol=1e-12)


def test_many_units_are_resampled_and_agree_with_students_t():
    sample = np.random.default_rng(2).normal(size=40)
    value, low, high, n = estimate(sample, resamples=20000)
    t_low, t_high = reference.t.interval(0.95, 39, sample.mean(), reference.sem(sample))
    assert (value, n) == (sample.mean(), 40)
    assert abs(low - t_low) < 0.02 and abs(high - t_high) < 0.02


def test_an_estimate_of_the_median_is_not_that_of_the_mean():
    skewed = np.random.default_rng(3).exponential(size=1000)  # median log 2, mean 1
    assert estimate(skewed, np.median).value == np.median(skewed)
    median, mean = estimate(skewed, np.median), estimate(skewed)
    assert median.low < math.log(2) < median.high < mean.low < 1 < mean.high


def test_an_estimate_of_labelled_values_finds_the_seeds_wherever_they_are():
    values = np.random.default_rng(4).normal(size=(3, 8))  # (tau, seed)
    labelled = xr.DataArray(values, dims=("tau", "seed"), coords={"tau": [1, 2, 3], "seed": range(8)})
    found, plain = estimate(labelled), estimate(values, axis=1)
    assert found.value.dims == ("tau",) and list(found.low.tau) == [1, 2, 3] and found.n == 8
    for ours, theirs in zip(found[:3], plain[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    one = estimate(values[1])
    assert plain.high[1] == one.high and plain.low[1] == one.low


def test_an_estimate_is_deterministic_and_two_units_give_no_interval():
    sample = np.random.default_rng(5).normal(size=12)
    assert estimate(sample) == estimate(sample) != estimate(sample, seed=1)
    for few in ([2.0], [2.0, 3.0]):
        assert estimate(few).ci is None and estimate(few).value == np.mean(few) and estimate(few).n == len(few)
    assert estimate(sample, confidence=0.5).high < estimate(sample, confidence=0.99).high


@pytest.mark.parametrize(
    "values, confidence, sentence",
    [
        ([1.0, np.nan, np.inf], 0.95, "values must be finite, but 2 of 3 are NaN"),
        ([], 0.95, "at least one entry"),
        ([1.0, 2.0], 95, "confidence must lie between 0 and 1, got 95"),
    ],
)
def test_an_estimate_refuses(values, confidence, sentence):
    with pytest.raises(ValueError, match=sentence):
        estimate(values, confidence=confidence)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_a_difference_of_the_size_that_n_units_tell_is_told_in_80_of_100_cases(n):
    half = reference.t.ppf(0.975, n - 1) / math.sqrt(n)  # of the interval if the units' spread is 1
    least = Estimate(0.0, -half, half, n).detects()
    samples = np.random.default_rng(0).normal(least, 1.0, (40_000, n))
    low = samples.mean(1) - reference.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.01)
    assert 1.3 * half < least < 1.45 * half
    assert Estimate(5.0, 5 - 3 * half, 5 + 3 * half, n).detects() == pytest.approx(3 * least)


@pytest.mark.parametrize("ends", [(math.nan, math.nan, 5), (1.0, math.inf, 5), (0.0, 1.0, 2), (0.0, 1.0, 1)])
def test_without_an_interval_of_units_it_is_not_known_what_they_tell(ends):
    assert math.isnan(Estimate(1.0, *ends).detects())


def test_power_law_finds_the_planted_exponent_and_not_one_beside_it():
    for planted in (-1.0, -2.0, 0.5):
        found = power_law(X, noisy(3.0 * X**planted))
        assert found.low <= planted <= found.high and found.high - found.low < 0.02
        assert not found.low <= planted + 1 <= found.high and found.n == 10


def test_power_law_equals_a_fit_to_all_points_in_every_resample():
    y = noisy(X**-1.5, seeds=12, noise=0.3)
    value, low, high, _ = power_law(X, y, resamples=400, seed=5)
    assert value == pytest.approx(np.polyfit(np.tile(np.log(X), 12), np.log(y).ravel(), 1)[0], rel=1e-10)
    draws = np.random.default_rng(5).integers(12, size=(400, 12))
    fits = [np.polyfit(np.tile(np.log(X), 12), np.log(y[draw]).ravel(), 1)[0] for draw in draws]
    tail = reference.norm.cdf(-math.sqrt(12 / 11) * reference.t.ppf(0.975, 11))
    np.testing.assert_allclose([low, high], np.quantile(fits, [tail, 1 - tail]), rtol=1e-9)


def test_power_law_covers_when_seeds_differ_in_their_exponent():
    draw = np.random.default_rng(6)
    inside = 0
    for _ in range(200):
        slopes = -1 + 0.2 * draw.standard_normal(8)
        inside += (lambda e: e.low <= -1 <= e.high)(power_law(X, X ** slopes[:, None], resamples=400))
    assert 0.90 <= inside / 200 <= 0.985


def test_power_law_of_one_curve_has_the_interval_of_the_fit():
    y = noisy(X**0.7, seeds=1)[0]
    fit = reference.linregress(np.log(X), np.log(y))
    value, low, high, n = power_law(X, y)
    half = reference.t.ppf(0.975, len(X) - 2) * fit.stderr
    np.testing.assert_allclose([value, low, high], [fit.slope, fit.slope - half, fit.slope + half], rtol=1e-9)
    two = power_law([1, 2], [1, 4])
    assert n == 1 and two.value == pytest.approx(2) and two.ci is None


def test_power_law_of_labelled_values_is_not_confused_by_the_order_of_dimensions():
    y = noisy(X**-1.0, seeds=len(X))  # as many seeds as points: the shape alone cannot tell
    labelled = xr.DataArray(y.T, dims=("tau", "seed"), coords={"tau": X})
    assert power_law(labelled.tau, labelled) == power_law(X, y)
    with pytest.raises(ValueError, match="must have the dimension 'trial', got \\('tau', 'seed'\\)"):
        power_law(X, labelled, dim="trial")


@pytest.mark.parametrize(
    "x, y, sentence",
    [
        ([1, 2, 3], [1, 0, 2], "y of a power law must be positive, got 0"),
        ([1, 2, 3], [1, np.nan, 2], "y must be finite, but 1 of 3"),
        ([-1, 2, 3], [1, 1, 2], "x of a power law must be positive, got -1"),
        ([2, 2, 2], [1, 1, 2], "at least two different values"),
        ([1, 2, 3], [1, 1], r"with the 3 points of x, got \(1, 2\)"),
    ],
)
def test_power_law_refuses(x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        power_law(x, y)


def bent(slopes=(-1.5, -0.5), seeds=4):
    """Two power laws that meet at x = 0.1, over (x, seed)."""
    curve = np.where(X < 0.1, (X / 0.1) ** slopes[0], (X / 0.1) ** slopes[1])
    return xr.DataArray(noisy(curve, seeds, noise=0.001).T, dims=("x", "seed"), coords={"x": X})


def test_an_exponent_is_that_of_its_range_ends_included():
    curves = bent()
    assert exponent(curves, "x", high=0.1).value == pytest.approx(-1.5, abs=0.01)
    assert exponent(curves, "x", low=0.1).value == pytest.approx(-0.5, abs=0.01)
    assert -1.4 < exponent(curves, "x").value < -0.6  # the planted mistake: fitted over both
    part = curves.isel(x=slice(3, 8))
    ends = {"low": X[3] * (1 + 1e-12), "high": X[7] * (1 - 1e-12)}  # off by rounding
    assert exponent(curves, "x", **ends) == pytest.approx(power_law(part.x, part.T))
    assert exponent(curves.rename(seed="draw"), "x", dim="draw", **ends) == exponent(curves, "x", **ends)


def test_an_exponent_is_unknown_where_a_run_in_its_range_failed():
    curves = bent()
    curves[0, 2] = np.nan
    assert np.isnan(exponent(curves, "x").value) and exponent(curves, "x").n == 4
    assert np.isfinite(exponent(curves, "x", low=X[1]).value)
    with pytest.raises(ValueError, match="at least two different values"):
        exponent(curves, "x", low=9.0)


def test_local_slopes_stand_between_the_points():
    curves = bent(seeds=2).isel(x=slice(None, None, 10))  # 0.01, 0.1, 1, 10
    found = local_slopes(curves, "x")
    assert found.dims == curves.dims
    np.testing.assert_allclose(found.x, [10**-1.5, 10**-0.5, 10**0.5])
    np.testing.assert_allclose(found.mean("seed"), [-1.5, -0.5, -0.5], atol=0.01)
    with pytest.raises(ValueError, match="positive increasing"):
        local_slopes(curves.isel(x=slice(None, None, -1)), "x")


def test_a_crossing_is_on_the_line_over_log_x():
    x, u = np.logspace(0, 4, 9), np.linspace(0, 4, 9)
    assert crossing(x, u, 2.7) == pytest.approx(10**2.7)
    assert crossing(x, np.where(u < 3, u, 0), 1.2) == pytest.approx(10**1.2)  # the first one counts
    many = crossing(np.stack([x, 2 * x, x, x]), np.stack([u, u, u - 9, u + 9]), 2.0)
    assert many[:2] == pytest.approx([100, 200]) and np.isnan(many[2:]).all()  # never; from the start
    assert np.isnan(crossing(x, np.full(9, np.nan), 1.0))
    assert crossing(x, x, 2.0) != pytest.approx(2.0, rel=1e-3)  # a line over x itself is not what it draws
    with pytest.raises(ValueError, match="same shape"):
        crossing(x, u[:-1], 1.0)
    labelled = xr.DataArray(np.stack([u, u - 1]).T, dims=("t", "run"), coords={"run": [5, 7]})
    found = crossing(xr.DataArray(np.stack([x, x]), dims=("run", "t")), labelled, 2.0, dim="t")
    assert list(found.run) == [5, 7] and found.values == pytest.approx([100, 1000])


def test_plateau_is_where_the_curve_enters_the_band_for_good():
    curve = np.minimum(X, 1.0)  # exactly flat from x = 1, within 10 % from x = 0.9
    found = plateau(X, curve)
    assert found.level.value == pytest.approx(1.0, rel=1e-12) and found.start.value == pytest.approx(1.0)
    bump = curve.copy()
    bump[22] = 1.5  # leaves the band once more
    assert plateau(X, bump).start.value == X[23]
    assert plateau(X, curve, tolerance=0.5).start.value == X[np.argmax(X >= 0.5)]
    assert plateau(X, 2 - curve).level.value == pytest.approx(1.0)  # from above too


def test_plateau_interval_holds_the_planted_start_and_level_and_grows_with_noise():
    curve = 0.5 * np.minimum(X / 0.5, 1.0)
    calm, loud = (plateau(X, noisy(curve, noise=noise)) for noise in (0.02, 0.15))
    planted = X[np.argmax(curve >= 0.9 * 0.5)]
    for found in (calm, loud):
        assert found.start.low <= planted * 1.3 and found.start.high >= planted
        assert found.level.low <= 0.5 <= found.level.high and found.level.n == 10
    assert loud.level.high - loud.level.low > calm.level.high - calm.level.low
    later = plateau(X, noisy(np.minimum(X / 2.0, 1.0)))
    assert later.start.low > calm.start.high  # a later plateau is told from an earlier one


def test_a_curve_that_does_not_level_off_has_no_plateau():
    for points in (9, 31, 301):  # however fine the grid
        x = np.logspace(-2, 1, points)
        assert plateau(x, noisy(x)).start.value == math.inf
        assert plateau(x, noisy(1 / x)).start.value == math.inf
    assert plateau(X, np.minimum(X, 1.0)).start.ci is None  # one curve: no interval
    steps = np.where(np.arange(31) < 23, 0.5, 1.0), np.where(np.arange(31) < 24, 0.5, 1.0)
    starts = [plateau(X, step).start.value for step in steps]  # the last 8 points define the level
    assert starts == [X[23], math.inf]


@pytest.mark.parametrize(
    "x, options, sentence",
    [
        ([1, 2, 2, 3], {}, "at least four increasing values"),
        ([1, 2, 3], {}, "at least four increasing values"),
        ([1, 2, 3, 4], {"tail": 0}, "tail must lie between 0 and 1, got 0"),
        ([1, 2, 3, 4], {"tolerance": -0.1}, "tolerance must lie between 0 and 1, got -0.1"),
    ],
)
def test_plateau_refuses(x, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        plateau(x, np.ones(len(x)), **options)


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((1.98, 1.953, 2.012), "1.980 [1.953, 2.012] (n = 10)"),
        ((-0.001, -0.5, 0.5), "0.00 [-0.50, 0.50] (n = 10)"),
        ((1.98e-7, 1.9e-7, 2.1e-7), "1.98e-07 [1.90e-07, 2.10e-07] (n = 10)"),
        ((150.3, 120.0, 190.0), "150 [120, 190] (n = 10)"),
        ((5.0, math.nan, math.nan), "5.00 (n = 10)"),
        ((math.inf, 3.0, math.inf), "inf [3.00, inf] (n = 10)"),
    ],
)
def test_an_estimate_reads_with_the_digits_it_deserves(numbers, text):
    assert str(Estimate(*numbers, 10)) == text


def test_an_interval_lies_within_bounds_outside_or_does_not_tell():
    assert Estimate(0.95, 0.91, 0.99, 5).near(1.0, 0.1) is True
    assert Estimate(0.85, 0.84, 0.86, 5).near(1.0, 0.1) is False
    assert Estimate(0.85, 0.84, 0.86, 5).near(1.0, 0.2) is True
    assert Estimate(1.0, 0.8, 1.2, 5).near(1.0, 0.1) is None  # it holds the claim, and is too wide to say so
    assert Estimate(0.8, 0.6, 0.95, 5).near(1.0, 0.1) is None
    assert Estimate(0.8, 0.6, 0.95, 5).within(0, math.inf) is True
    assert Estimate(-0.8, -0.9, -0.7, 5).within(0, math.inf) is False
    assert Estimate(0.0, 0.0, 0.0, 5).within(0, math.inf) is False  # no difference at all is no gain


def test_without_an_interval_nothing_is_told():
    assert Estimate(1.0, math.nan, math.nan, 2).near(1.0, 0.1) is None
    assert Estimate(*[math.nan] * 3, 5).within(-math.inf, math.inf) is None


def test_an_estimate_takes_a_format():
    assert f"{Estimate(-1.566, -1.6, -0.001, 5):.2f}" == "-1.57 [-1.60, 0.00]"
    assert f"{Estimate(2.0, math.nan, math.nan, 1):.1e}" == "2.0e+00"
    precise = Estimate(1.98, 1.953, 2.012, 10)
    assert f"{precise}" == str(precise) == "1.980 [1.953, 2.012] (n = 10)"


def test_an_estimate_is_rounded_as_a_whole():
    found = Estimate(5.678, -0.04, 12.34, 3)
    assert found.significant(2) == "6 [0, 12] (n = 3)" and str(found) == found.significant(9)
    assert found.rounded(1) == (5.7, 0.0, 12.3, 3) and str(found.rounded(1).low) == "0.0"  # no -0.0
    assert Estimate(1.0, math.nan, math.nan, 1).significant(2) == "1.0 (n = 1)"


def test_the_same_unit_counted_several_times_tells_nothing():
    """As when every trial has the same seed; that a difference is zero in every trial is possible, though."""
    assert estimate([0.3, 0.3, 0.3]).ci is None and estimate([0.3] * 20).ci is None
    assert estimate([0.3, 0.3, np.nextafter(0.3, 1)]).ci is not None
    assert estimate([0.0, 0.0, 0.0]).ci == (0, 0)
    assert power_law([1.0, 2.0, 4.0], [[3.0, 6.0, 13.0]] * 5).ci is None
