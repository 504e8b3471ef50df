"""Iso-lines of a table of values over a plane of two scales: where they run, and the q with which y·x^q is constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

STEEPEST = 1e9  # exponent of lines along y


def level_points(x: Sequence[float], y: Sequence[float], values: ArrayLike, levels: int = 8) -> list[np.ndarray]:
    """Points (x, y) at which a table of positive values crosses given levels.

    Levels are equally spaced in log values, strictly between the smallest and the largest value. Rows or columns of
    the table are followed, along the axis with more values (y, if it is as many), by the monotone cubic interpolant of
    log values between them; what does not change along that axis is not found.

    Args:
        x: positive and increasing, (X,).     y: positive and increasing, (Y,); two values each at least.
        values: positive and finite, (X, Y), of any unit.
        levels: their number.

    Returns:
        An array (k, 2) for each level, with k the number of crossings, possibly 0, in the units of x and y.

    Raises:
        ValueError: x or y is not positive and increasing; values are not positive, finite and (X, Y).

    Example:
        >>> from lazylib.measures import level_points
        >>> level_points([1.0, 2.0], [1.0, 10.0], [[1.0, 100.0], [1.0, 100.0]], levels=1)[0].round(3)
        array([[1.   , 3.162],
               [2.   , 3.162]])
    """
    s, t, v = _logs(x, y, values)  # (X,), (Y,), (X, Y)
    along_x = len(s) > len(t)
    along, across, curves = (s, t, v.T) if along_x else (t, s, v)
    fine = np.linspace(along[0], along[-1], 30 * len(along))
    dense = PchipInterpolator(along, curves, axis=1)(fine)  # (across, fine)
    points = []
    for level in np.linspace(v.min(), v.max(), levels + 2)[1:-1]:
        above = dense - level
        line, k = np.nonzero(above[:, :-1] * above[:, 1:] < 0)
        part = above[line, k] / (above[line, k] - above[line, k + 1])
        at = fine[k] + part * (fine[k + 1] - fine[k])  # (k,)
        pairs = (at, across[line]) if along_x else (across[line], at)
        points.append(np.exp(np.stack(pairs, axis=1)))
    return points


def isoline_exponent(x: Sequence[float], y: Sequence[float], values: ArrayLike, levels: int = 8) -> float:
    """q of the lines y·x^q = const that fit the iso-lines of a table best.

    One slope, −q, of log y over log x, for parallel lines through the points of each level, by total least squares:
    neither axis is the given one.

    Args: as of `level_points`.

    Returns:
        q, a pure number. ±1e9 stands for lines along y, and for no line at all, where no level has two points.

    Raises:
        ValueError: as `level_points`.

    Example:
        >>> import numpy as np
        >>> from lazylib.measures import isoline_exponent
        >>> x, y = np.geomspace(1, 2, 5), np.geomspace(1, 100, 9)
        >>> round(isoline_exponent(x, y, y * x[:, None] ** 3), 3)  # values are a function of y·x³
        3.0
    """
    groups = [np.log(points) for points in level_points(x, y, values, levels) if len(points) > 1]
    centred = [points - points.mean(0) for points in groups]
    spread = sum((c.T @ c for c in centred), 1e-12 * np.eye(2))  # (2, 2)
    along = np.linalg.eigh(spread)[1][:, -1]  # direction of the lines
    return float(-along[1] / (along[0] if abs(along[0]) > 1 / STEEPEST else 1 / STEEPEST))


def grid_mismatch(x: Sequence[float], y: Sequence[float], values: ArrayLike, q: float) -> float:
    """Typical factor between neighbouring rows of a table at equal y·x^q: 1 if values are a function of it.

    exp of the root mean square of the log ratios, over all points of a row that the row before it reaches, by the
    monotone cubic interpolant of that one.

    Args:
        x, y, values: as of `level_points`.
        q: the exponent.

    Returns:
        A factor ≥ 1; NaN where no two neighbouring rows share a value of y·x^q.

    Raises:
        ValueError: as `level_points`.

    Example:
        >>> from lazylib.measures import grid_mismatch
        >>> values = [[1.0, 2.0, 4.0], [6.0, 12.0, 24.0]]  # the second row should be 2, 4, 8
        >>> round(grid_mismatch([1.0, 2.0], [1.0, 2.0, 4.0], values, q=1), 3)
        3.0
    """
    s, t, v = _logs(x, y, values)
    gaps: list[float] = []
    for k in range(len(s) - 1):
        at = t + q * (s[k + 1] - s[k])  # y·x^q of the second row, in units of the first row's x^q
        shared = (at >= t[0]) & (at <= t[-1])
        gaps.extend(PchipInterpolator(t, v[k])(at[shared]) - v[k + 1][shared])
    return float(np.exp(np.sqrt(np.mean(np.square(gaps))))) if gaps else float("nan")


def _logs(x: Sequence[float], y: Sequence[float], values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = []
    for name, given in (("x", x), ("y", y)):
        axis = np.asarray(given, dtype=float)
        if not (axis.ndim == 1 and len(axis) > 1 and axis[0] > 0 and (np.diff(axis) > 0).all()):
            raise ValueError(f"{name} must be at least two positive increasing numbers, got {axis.tolist()}.")
        axes.append(np.log(axis))
    table = np.asarray(values, dtype=float)
    if table.shape != (len(axes[0]), len(axes[1])):
        raise ValueError(f"values must be ({len(axes[0])}, {len(axes[1])}), a row for each x, got {table.shape}.")
    if not (np.isfinite(table) & (table > 0)).all():
        raise ValueError("values must be positive and finite, they are not all.")
    return axes[0], axes[1], np.log(table)
