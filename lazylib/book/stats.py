"""Numbers with their uncertainty: intervals over seeds, power laws, plateaus.

Everything is deterministic: the resamples are drawn from a generator with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import special

MANY = 10  # units from which on resampling them tells how much a statistic varies


class Estimate(NamedTuple):
    """A value, its confidence interval [low, high], and the number n of seeds behind it.

    low and high are NaN where nothing says how sure the value is (fewer than three seeds): unknown, not zero width.
    Fields are floats, or arrays of one shape where many values are estimated at once.
    """

    value: Any
    low: Any
    high: Any
    n: int

    @property
    def ci(self) -> tuple[float, float] | None:
        """(low, high), or None if the interval is not known."""
        return None if np.isnan(self.low).any() or np.isnan(self.high).any() else (self.low, self.high)

    def significant(self, digits: int = 2) -> str:
        """As `str`, with at most so many digits of the largest of the numbers: the last bits of a machine do not show.

        Example:
            >>> from lazylib.book.stats import Estimate
            >>> Estimate(1.0002, 0.998, 1.0024, 10).significant(3), Estimate(16.6, 15.9, 17.3, 3).significant()
            ('1.00 [1.00, 1.00] (n = 10)', '17 [16, 17] (n = 3)')
        """
        return f"{self.text(digits)} (n = {self.n})"

    def rounded(self, decimals: int = 1) -> Estimate:
        """The same, of floats, to so many decimals."""
        value, low, high = (round(float(number), decimals) + 0.0 for number in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n)

    def minus(self, number: float) -> Estimate:
        """What is measured, less a number that is known."""
        return Estimate(self.value - number, self.low - number, self.high - number, self.n)

    def over(self, unit: float) -> Estimate:
        """What is measured, in units of a positive number that is known."""
        return Estimate(self.value / unit, self.low / unit, self.high / unit, self.n)

    def within(self, low: float, high: float) -> bool | None:
        """Of floats: does the true value lie in (low, high)? None (undecided) if the interval does not tell.

        True if the whole interval lies there, False if none of it does; so a wide interval, or none, decides nothing,
        and "no difference" is an equivalence test with a margin.
        """
        if low < self.low and self.high < high:
            return True
        return False if self.high <= low or self.low >= high else None

    def detects(self) -> float:
        """Of floats: the smallest difference from a bound that so many units tell in 80 % of the cases.

        The interval of 95 % says how much the units vary: its half-width is t s/√n with t the quantile of Student's
        law at n − 1 degrees of freedom, exactly so for a mean. A difference δ shifts the mean in units of s/√n to the
        noncentral t of δ√n/s; δ is such that 80 % of it lie above t. NaN where no interval is known, it has no end,
        or one fit gave it (n < 3).

        Example:
            >>> from lazylib.book.stats import Estimate
            >>> round(Estimate(0.0, -1.0, 1.0, 10).detects(), 2)  # units as scattered as the interval says
            1.39
        """
        if self.n < 3 or self.ci is None or not math.isfinite(self.high - self.low):
            return math.nan
        t = special.stdtrit(self.n - 1, 0.975)
        shift = special.nctdtrinc(self.n - 1, 1 - 0.8, t)  # δ√n/s
        return float(shift / t * (self.high - self.low) / 2)

    def near(self, claimed: float, margin: float) -> bool | None:
        """The same of (claimed − margin, claimed + margin)."""
        return self.within(claimed - margin, claimed + margin)

    def text(self, most: int = 10) -> str:
        """Of floats: `1.98 [1.95, 2.01]`, to as many digits as the interval supports (two of its width), or `most`."""
        numbers = [self.value, *(self.ci or ())]
        finite = [abs(number) for number in numbers if math.isfinite(number)]
        size, width = max(finite, default=0.0), (self.high - self.low if self.ci else 0.0)
        digits = 3  # significant ones
        if size > 0 and 0 < width < math.inf:
            digits = max(1 + math.floor(math.log10(size)) - math.floor(math.log10(width)) + 1, 2)
        digits = min(digits, most)
        exponent = math.floor(math.log10(size)) if size > 0 else 0
        style = f".{max(digits - 1 - exponent, 0)}f" if -4 <= exponent < 6 else f".{digits - 1}e"
        return f"{self:{style}}"

    def __str__(self) -> str:
        """The same with n: `1.98 [1.95, 2.01] (n = 10)`."""
        if np.ndim(self.value):
            return f"{np.size(self.value)} estimates (n = {self.n})"
        return f"{self.text()} (n = {self.n})"

    def __format__(self, spec: str) -> str:
        """Of floats: `f"{estimate:.2f}"` is `1.98 [1.95, 2.01]`, without n; with no format as `str`."""
        if not spec:
            return str(self)
        first, *interval = [format(number, "z" + spec) for number in (self.value, *(self.ci or ()))]  # z: no "-0.00"
        return first + (f" [{', '.join(interval)}]" if interval else "")


def estimate(
    values: Any,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    axis: int = 0,
    dim: str = "seed",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Statistic of a sample over independent units, such as seeds, with its confidence interval.

    Below ten units the interval is Student's t of the jackknife's pseudo-values n s − (n − 1) s_(−i), with s_(−i)
    the statistic without unit i; for a mean that is the ordinary one. From ten on, units are drawn with replacement
    (bootstrap), and the interval is the *expanded percentile* one: percentiles moved out so that for a mean it agrees
    with Student's t, where plain percentiles are too narrow (90 % instead of 95 % at n = 10). Fewer units than three
    can't tell how much they vary: their interval is NaN, unknown. So is that of units which agree to the last bit in
    anything but zero: they are one unit, counted several times.

    How often it covers the mean, from samples of 3, 5 and 10 (20 000 each): normal law 95, 95, 94 %; gamma law of
    shape 4 93, 93, 93 %; uniform 92, 93, 95 %; lognormal with σ = ½ 92, 91, 92 %; exponential 89, 88, 90 %.

    Args:
        values: numbers, (units, …) (another axis: `axis`); or a DataArray, whose dimension of units is `dim`.
        statistic: called as statistic(sample, axis=0) on arrays (units, …), e.g. np.mean, np.median.
        confidence: of the interval, between 0 and 1.
        resamples: of the bootstrap.
        seed: of its draws, which are the same in every call.

    Returns:
        Estimate of floats; for more than one dimension, of arrays (DataArrays for a DataArray) without that of the
        units.

    Raises:
        ValueError: no units, or a value that is not finite. What to do with a diverged run is for the caller to say.

    Source: R. G. Miller, *The jackknife – a review*, Biometrika 61 (1974), 1–15; T. Hesterberg, *What teachers should
    know about the bootstrap*, The American Statistician 69 (2015), 371–386.

    Example:
        >>> from lazylib.book import stats
        >>> f"{stats.estimate([1.0, 2.0, 3.0]):.2f}"
        '2.00 [-0.48, 4.48]'
    """
    rows = _rows(values, "values", dim, axis)  # (units, …)
    _check_numbers(confidence, resamples)
    value = np.asarray(statistic(rows, axis=0))
    low, high = _interval(rows, statistic, value, confidence, resamples, seed)
    if value.ndim == 0:
        return Estimate(float(value), float(low), float(high), len(rows))
    if isinstance(values, xr.DataArray):
        like = values.isel({dim: 0}, drop=True)
        return Estimate(like.copy(data=value), like.copy(data=low), like.copy(data=high), len(rows))
    return Estimate(value, low, high, len(rows))


def _interval(rows, statistic, value, confidence, resamples, seed) -> tuple[np.ndarray, np.ndarray]:
    """See `estimate`."""
    n = len(rows)
    if n < 3 or (rows.any() and (rows == rows[0]).all()):
        return np.full(value.shape, np.nan), np.full(value.shape, np.nan)
    if n >= MANY:
        tail = _tail(confidence, n)
        spread = np.stack([statistic(rows[draw], axis=0) for draw in _draws(n, resamples, seed)])
        return tuple(np.quantile(spread, [tail, 1 - tail], axis=0))
    without = np.stack([statistic(np.delete(rows, i, axis=0), axis=0) for i in range(n)])
    pseudo = n * value - (n - 1) * without  # (units, …)
    half = special.stdtrit(n - 1, (1 + confidence) / 2) * pseudo.std(axis=0, ddof=1) / math.sqrt(n)
    return value - half, value + half


def power_law(
    x: Any, y: Any, confidence: float = 0.95, dim: str = "seed", resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Exponent p of y ∝ x^p, with a confidence interval over the seeds (see `estimate`).

    Least squares of log y = c + p log x, every point with the same weight, over all seeds at once. As p is
    linear in log y, it is the mean of the seeds' own exponents, and so is it in each resample. The interval
    knows the scatter between seeds, not whether the points lie on a line: choose x inside the range of the
    power law. With one curve the interval is that of the fit's standard error (Student's t, points − 2
    degrees of freedom; NaN for two points).

    Parameters
    ----------
    x : positive numbers, shape (points,), at least two different ones.
    y : positive numbers, shape (points,) or (seeds, points); or a DataArray whose dimension of seeds is
    `dim`.

    Raises
    ------
    ValueError : a number that is not positive and finite; shapes that do not fit.
    """
    x, y = _curves(x, y, dim)
    _check_numbers(confidence, resamples)
    for name, array in (("x", x), ("y", y)):
        if not (array > 0).all():
            raise ValueError(f"{name} of a power law must be positive, got {array[~(array > 0)].flat[0]}")
    if len(np.unique(x)) < 2:
        raise ValueError(f"x of a power law must have at least two different values, got {x.tolist()}")
    u, v = np.log(x), np.log(y)  # (points,), (seeds, points)
    u = u - u.mean()
    slopes = v @ u / (u @ u)  # (seeds,)
    if len(slopes) > 1:
        return estimate(slopes, np.mean, confidence, resamples=resamples, seed=seed)
    p, free = float(slopes[0]), len(x) - 2
    if free == 0:
        return Estimate(p, math.nan, math.nan, 1)
    residual = v[0] - v[0].mean() - p * u  # (points,)
    error = math.sqrt(residual @ residual / free / (u @ u))
    half = float(special.stdtrit(free, (1 + confidence) / 2)) * error
    return Estimate(p, p - half, p + half, 1)


def exponent(y: xr.DataArray, x: str, low: float = 0.0, high: float = math.inf, **options: Any) -> Estimate:
    """Exponent of y ∝ x^p over a coordinate x, by `power_law`, fitted on low ≤ x ≤ high, ends included.

    Args:
        y: positive numbers, of two dimensions: x and the seeds.
        x: name of the coordinate; at least two of its values lie in the range.
        low, high: the range, in units of x.
        options: of `power_law`.

    Returns:
        The exponent; NaN, unknown, where a y in the range is not finite: a run that failed.

    Raises:
        ValueError: as `power_law` does.

    Example:
        >>> import xarray as xr
        >>> from lazylib.book.stats import exponent
        >>> y = xr.DataArray([[9.0, 4.0, 16.0], [9.0, 4.0, 16.0]], dims=("seed", "h"), coords={"h": [1.0, 2.0, 4.0]})
        >>> f"{exponent(y, 'h', low=2):.2f}"
        '2.00'
    """
    inside = (y[x] >= low * (1 - 1e-9)) & (y[x] <= high * (1 + 1e-9))  # the ends, however they were rounded
    part = y.sel({x: y[x][inside]})
    if not np.isfinite(part).all():
        return Estimate(math.nan, math.nan, math.nan, part.size // max(part.sizes[x], 1))
    return power_law(part[x], part.transpose(..., x), **options)


def local_slopes(y: xr.DataArray, x: str) -> xr.DataArray:
    """Slopes d log y/d log x between neighbouring points of a coordinate x.

    Args:
        y: positive numbers, of any dimensions.
        x: name of one of them, with increasing positive values.

    Returns:
        Of the dimensions of y, with one point less along x, each at the geometric mean of its two neighbours.

    Raises:
        ValueError: fewer than two points, or values of x that are not positive and increasing.

    Example:
        >>> import xarray as xr
        >>> from lazylib.book.stats import local_slopes
        >>> slopes = local_slopes(xr.DataArray([1.0, 4.0, 2.0], dims="h", coords={"h": [1.0, 2.0, 8.0]}), "h")
        >>> slopes.values, slopes.h.values
        (array([ 2. , -0.5]), array([1.41421356, 4.        ]))
    """
    at = y[x].values.astype(float)
    if len(at) < 2 or not (at[0] > 0 and (np.diff(at) > 0).all()):
        raise ValueError(f"{x} must have at least two positive increasing values, got {at.tolist()}")
    run = xr.DataArray(np.diff(np.log(at)), dims=x)
    rise = y.copy(data=np.log(y.values)).drop_vars(x).diff(x)
    return (rise / run).transpose(*y.dims).assign_coords({x: np.sqrt(at[1:] * at[:-1])})


def crossing(x: Any, y: Any, level: float, dim: str | None = None) -> Any:
    """Where curves first reach a level from below, between two points by a straight line over log x.

    Args:
        x: positive numbers, (…, points).
        y: the curves, (…, points).
        level: in units of y.
        dim: for DataArrays, the dimension of the points.

    Returns:
        x of the crossing, (…,), a DataArray if dim is given; NaN for a curve that never reaches the level, or starts
        there.

    Raises:
        ValueError: x and y differ in shape.

    Example:
        >>> import numpy as np
        >>> from lazylib.book.stats import crossing
        >>> crossing(np.array([1.0, 10.0, 1000.0]), np.array([0.0, 1.0, 3.0]), 2.0)
        array(100.)
    """
    if dim is not None:
        return xr.apply_ufunc(crossing, x, y, level, input_core_dims=[[dim], [dim], []])
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"x and y must be of the same shape, got {x.shape} and {y.shape}")
    above = y >= level
    after = np.maximum(above.argmax(-1), 1)[..., None]
    u0, u1, y0, y1 = (np.take_along_axis(a, k, -1)[..., 0] for a in (np.log(x), y) for k in (after - 1, after))
    share = (level - y0) / np.where(y1 > y0, y1 - y0, np.nan)
    return np.where(above.any(-1) & ~above[..., 0], np.exp(u0 + share * (u1 - u0)), np.nan)


class Plateau(NamedTuple):
    """Where a curve levels off: `start` in units of x (inf if it does not), `level` in units of y."""

    start: Estimate
    level: Estimate


def plateau(
    x: Any,
    y: Any,
    tolerance: float = 0.1,
    tail: float = 0.25,
    confidence: float = 0.95,
    dim: str = "seed",
    resamples: int = 2000,
    seed: int = 0,
) -> Plateau:
    """Where a curve levels off towards large x, and at which level, with intervals over the seeds (see `estimate`).

    Definition, for the mean curve ȳ over seeds on the points x_1 < … < x_N:
    level = mean of ȳ over the last ⌈tail·N⌉ points (at least two);
    start = the first x_i such that |ȳ(x_j) − level| ≤ tolerance·|level| for every j ≥ i.
    If start lies behind the first of the last ⌈tail·N⌉ points, the curve has not levelled off: start = inf.
    It is a point of the grid (no interpolation), also in each resample, so its interval is as coarse as the
    grid; an upper end of inf says that some resamples do not level off. Below ten seeds its interval is NaN,
    unknown: a few points of a grid don't tell how much it varies.

    Parameters
    ----------
    x : increasing finite numbers, shape (points,), at least four.
    y : finite numbers, shape (points,) or (seeds, points); or a DataArray whose dimension of seeds is `dim`.
    tolerance : relative half-width of the band around the level, in (0, 1).
    tail : share of the points that define the level, in (0, 1).

    Raises
    ------
    ValueError : a number that is not finite or out of its range; shapes that do not fit.
    """
    x, y = _curves(x, y, dim)
    _check_numbers(confidence, resamples)
    for name, number in (("tolerance", tolerance), ("tail", tail)):
        if not 0 < number < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {number}")
    if len(x) < 4 or not (np.diff(x) > 0).all():
        raise ValueError(f"x of a plateau must be at least four increasing values, got {x.tolist()}")
    last = max(math.ceil(tail * len(x)), 2)  # points

    def locate(sample, axis=0):
        curve = sample.mean(axis)  # (points,)
        level = curve[-last:].mean()
        outside = np.flatnonzero(~(abs(curve - level) <= tolerance * abs(level)))
        first = outside[-1] + 1 if len(outside) else 0
        return np.array([x[first] if first <= len(x) - last else np.inf, level])

    start, level = locate(y)
    ends = np.full(2, np.nan)
    if len(y) >= MANY:
        quantile = _tail(confidence, len(y))
        starts = [locate(y[draw])[0] for draw in _draws(len(y), resamples, seed)]
        # Points of the grid, and inf: no interpolation between them.
        ends = np.quantile(starts, [quantile, 1 - quantile], method="inverted_cdf")
    levels = estimate(y[:, -last:].mean(1), np.mean, confidence, resamples=resamples, seed=seed)
    return Plateau(Estimate(float(start), float(ends[0]), float(ends[1]), len(y)), levels)


def _tail(confidence: float, n: int) -> float:
    """Share of resamples below the expanded percentile interval: Φ(−√(n/(n−1)) t_{n−1, (1+confidence)/2})."""
    return float(special.ndtr(-math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + confidence) / 2)))


def _draws(n: int, resamples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(n, size=(resamples, n))  # (resamples, n)


def _rows(values: Any, name: str, dim: str, axis: int = 0) -> np.ndarray:
    """Finite floats, shape (seeds, …)."""
    if isinstance(values, xr.DataArray):
        if dim not in values.dims:
            raise ValueError(f"{name} must have the dimension {dim!r}, got {values.dims}")
        values = values.transpose(dim, ...).values
        axis = 0
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or not -array.ndim <= axis < array.ndim or array.shape[axis] == 0:
        raise ValueError(f"{name} must have an axis {axis} with at least one entry, got shape {array.shape}")
    if not np.isfinite(array).all():
        bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(
            f"{name} must be finite, but {bad} of {array.size} are NaN or infinite; "
            "say first what a run that diverged counts for"
        )
    return np.moveaxis(array, axis, 0)


def _curves(x: Any, y: Any, dim: str) -> tuple[np.ndarray, np.ndarray]:
    """x of shape (points,) and y of shape (seeds, points)."""
    x = _rows(x, "x", dim) if not isinstance(x, xr.DataArray) else _rows(x.values, "x", dim)
    if isinstance(y, xr.DataArray) and y.ndim == 1:
        y = y.values
    y = _rows(y, "y", dim)
    y = y[None] if y.ndim == 1 else y
    if x.ndim != 1 or y.ndim != 2 or y.shape[1] != len(x):
        raise ValueError(f"y must have shape (points,) or (seeds, points) with the {len(x)} points of x, got {y.shape}")
    return x, y


def _check_numbers(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
