"""Numbers with their uncertainty: bootstrap over seeds, power laws, plateaus.

Everything is deterministic: the resamples are drawn from a generator with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import special


class Estimate(NamedTuple):
    """A value, its confidence interval [low, high], and the number n of seeds behind it.

    low and high are NaN where nothing says how sure the value is (one seed): unknown, not zero width.
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

    def significant(self, digits: int = 2) -> Estimate:
        """The same, of floats, to so many significant digits: the last bits of a machine do not show."""
        value, low, high = (float(f"{number:.{digits}g}") for number in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n)

    def rounded(self, decimals: int = 1) -> Estimate:
        """The same, of floats, to so many decimals."""
        value, low, high = (round(float(number), decimals) + 0.0 for number in (self.value, self.low, self.high))
        return Estimate(value, low, high, self.n)

    def __str__(self) -> str:
        """`1.98 [1.95, 2.01] (n = 10)`: as many digits as the interval supports (two of its width)."""
        if np.ndim(self.value):
            return f"{np.size(self.value)} estimates (n = {self.n})"
        numbers = [self.value, *(self.ci or ())]
        finite = [abs(number) for number in numbers if math.isfinite(number)]
        size, width = max(finite, default=0.0), (self.high - self.low if self.ci else 0.0)
        digits = 3  # significant ones
        if size > 0 and 0 < width < math.inf:
            digits = min(max(1 + math.floor(math.log10(size)) - math.floor(math.log10(width)) + 1, 2), 10)
        exponent = math.floor(math.log10(size)) if size > 0 else 0
        style = f".{max(digits - 1 - exponent, 0)}f" if -4 <= exponent < 6 else f".{digits - 1}e"
        first, *interval = [format(number, "z" + style) for number in numbers]  # z: no "-0.00"
        return first + (f" [{', '.join(interval)}]" if interval else "") + f" (n = {self.n})"


def bootstrap(
    values: Any,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    axis: int = 0,
    dim: str = "seed",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Statistic of a sample over seeds, with its bootstrap confidence interval.

    The seeds are drawn with replacement, whole rows at a time. The interval is the *expanded percentile*
    interval: the percentiles are moved out so that for a mean it agrees with Student's t at small n, where
    plain percentiles are too narrow (90 % instead of 95 % at n = 10). It never leaves the range that
    resampling can reach. With one seed the interval is NaN.

    Parameters
    ----------
    values : numbers, shape (seeds, …) (another axis: `axis`); or a DataArray, whose dimension of seeds is
    `dim`.
    statistic : called as statistic(sample, axis=0) on arrays of shape (seeds, …), e.g. np.mean, np.median.

    Returns
    -------
    Estimate of floats; for more than one dimension, of arrays (DataArrays for a DataArray) without that of
    the seeds.

    Raises
    ------
    ValueError : no seeds, or a value that is not finite. What to do with a diverged run is for the caller to
    say.

    Source: T. Hesterberg, *What teachers should know about the bootstrap*, The American Statistician 69
    (2015), 371–386.
    """
    rows = _rows(values, "values", dim, axis)  # (seeds, …)
    _check_numbers(confidence, resamples)
    value = np.asarray(statistic(rows, axis=0))
    tail = _tail(confidence, len(rows))
    if tail is None:
        low = high = np.full(value.shape, np.nan)
    else:
        spread = np.stack([statistic(rows[draw], axis=0) for draw in _draws(len(rows), resamples, seed)])
        low, high = np.quantile(spread, [tail, 1 - tail], axis=0)
    if value.ndim == 0:
        return Estimate(float(value), float(low), float(high), len(rows))
    if isinstance(values, xr.DataArray):
        like = values.isel({dim: 0}, drop=True)
        return Estimate(like.copy(data=value), like.copy(data=low), like.copy(data=high), len(rows))
    return Estimate(value, low, high, len(rows))


def power_law(
    x: Any, y: Any, confidence: float = 0.95, dim: str = "seed", resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Exponent p of y ∝ x^p, with a confidence interval from resampling the seeds.

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
        return bootstrap(slopes, np.mean, confidence, resamples=resamples, seed=seed)
    p, free = float(slopes[0]), len(x) - 2
    if free == 0:
        return Estimate(p, math.nan, math.nan, 1)
    residual = v[0] - v[0].mean() - p * u  # (points,)
    error = math.sqrt(residual @ residual / free / (u @ u))
    half = float(special.stdtrit(free, (1 + confidence) / 2)) * error
    return Estimate(p, p - half, p + half, 1)


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
    """Where a curve levels off towards large x, and at which level, with intervals from resampling the seeds.

    Definition, for the mean curve ȳ over seeds on the points x_1 < … < x_N:
    level = mean of ȳ over the last ⌈tail·N⌉ points (at least two);
    start = the first x_i such that |ȳ(x_j) − level| ≤ tolerance·|level| for every j ≥ i.
    If start lies behind the first of the last ⌈tail·N⌉ points, the curve has not levelled off: start = inf.
    It is a point of the grid (no interpolation), also in each resample, so its interval is as coarse as the
    grid; an upper end of inf says that some resamples do not level off. With one curve both intervals are
    NaN.

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
    quantile = _tail(confidence, len(y))
    if quantile is None:
        ends = np.full((2, 2), np.nan)
    else:
        spread = np.stack([locate(y[draw]) for draw in _draws(len(y), resamples, seed)])  # (resamples, 2)
        # Points of the grid, and inf: no interpolation between them.
        starts = np.quantile(spread[:, 0], [quantile, 1 - quantile], method="inverted_cdf")
        ends = np.stack([starts, np.quantile(spread[:, 1], [quantile, 1 - quantile])])
    return Plateau(
        *(
            Estimate(float(value), float(low), float(high), len(y))
            for value, (low, high) in zip((start, level), ends, strict=True)
        )
    )


def _tail(confidence: float, n: int) -> float | None:
    """Share of resamples below the expanded percentile interval: Φ(−√(n/(n−1)) t_{n−1, (1+confidence)/2})."""
    if n == 1:
        return None
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
