"""The Runge–Kutta–Chebyshev method of order 2: its coefficients, and how steps are chosen.

The functions that choose steps take numbers, for one run, or arrays, for a batch.
Sommeijer, Shampine & Verwer, RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998), §2.
"""

import functools
import math

import numpy as np

DAMPING = 2 / 13
MAX_STAGES = 200  # rounding grows with s²
RADIUS_SAFETY = 1.1  # the power method finds λmax from below
FIRST_PROBES, PROBES = 40, 3  # power iterations at most: at the start, and later
PROBE_EVERY = 6  # steps between two estimates of λmax; one that has grown is found out by the error of a step
MAX_FAILURES, KINK_FAILURES = 20, 3  # refused steps in a row
END = 1 - 1e-12  # a time this close to T is T


def _chebyshev(s: int, x: float) -> np.ndarray:
    """T_j, T_j′, T_j″ at x for j = 0 … s, (3, s + 1)."""
    t = np.zeros((3, s + 1))
    t[0, :2], t[1, 1] = (1.0, x), 1.0
    for j in range(2, s + 1):
        t[0, j] = 2 * x * t[0, j - 1] - t[0, j - 2]
        t[1, j] = 2 * t[0, j - 1] + 2 * x * t[1, j - 1] - t[1, j - 2]
        t[2, j] = 4 * t[1, j - 1] + 2 * x * t[2, j - 1] - t[2, j - 2]
    return t


@functools.cache
def coefficients(s: int) -> np.ndarray:
    """The s ≥ 2 stages as rows of (s, 5).

    Stage j is row j − 1: Y_j = c₀ Y₀ + c₁ Y_{j−1} + c₂ Y_{j−2} + h (c₃ f(Y_{j−1}) + c₄ f(Y₀)); Y_s ends the step.
    """
    x = 1 + DAMPING / s**2
    t, dt, ddt = _chebyshev(s, x)
    slope = dt[s] / ddt[s]
    b = np.empty(s + 1)
    b[2:] = ddt[2:] / dt[2:] ** 2
    b[:2] = b[2]
    a = 1 - b * t
    rows = [[1.0, 0.0, 0.0, 0.0, b[1] * slope]]
    for j in range(2, s + 1):
        mu, nu, mu_f = 2 * b[j] * x / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * slope / b[j - 1]
        rows.append([1 - mu - nu, mu, nu, mu_f, -a[j - 1] * mu_f])
    rows[1][0], rows[1][2] = rows[1][0] + rows[1][2], 0.0  # Y_{j−2} of stage 2 is Y₀ itself
    return np.array(rows)


def stability(s: int) -> float:
    """β(s) ≈ 2/3 (s² − 1)(1 − 2/15·damping): a step h is stable on [−β/h, 0]."""
    return 2 / 3 * (s * s - 1) * (1 - 2 / 15 * DAMPING)


def stages_for(z: float) -> int:
    """The smallest s ≥ 2 with β(s) ≥ z = h λmax, at most MAX_STAGES."""
    s = math.ceil(math.sqrt(1 + 1.5 * z / (1 - 2 / 15 * DAMPING)))
    return min(max(2, s), MAX_STAGES)


def next_step(h, radius, left):
    """The step to try, from the one proposed (0: none), the estimate of λmax and the time left."""
    radius = np.maximum(RADIUS_SAFETY * radius, 1e-300)
    h = np.minimum(np.where(h > 0, h, 1 / radius), stability(MAX_STAGES) / radius)
    return np.where(h >= left, left, np.minimum(h, np.maximum(left / 2, h / 2)))  # no tiny last step


def after_success(h, error, failures):
    """The next step to propose; error ≤ 1 is that of the step over its tolerance."""
    growth = 0.8 * np.maximum(error, 1e-6) ** (-1 / 3)
    return h * np.clip(growth, 0.1, np.where(failures > 0, 1.0, 5.0))


def after_failure(h, error, failures):
    """The step to propose instead; error > 1 or NaN, in so many steps in a row.

    On a kink the error of a shorter step may be no smaller until it is short enough not to cross it: then a quarter.
    """
    most = np.where(failures > KINK_FAILURES, 0.25, 1.0)
    return h * np.where(np.isfinite(error), np.clip(0.8 * error ** (-1 / 3), 0.1, most), 0.1)


def probes_due(steps, failures):
    """How many power iterations to make before the next step."""
    return np.where((failures > 0) | (steps % PROBE_EVERY == 0), PROBES, 0)


def hermite(theta, h):
    """Weights of the states at the two ends of a step h and of the slopes there, (k, 4), at shares theta (k,) of it."""
    rest = 1 - theta
    on_ends = [(1 + 2 * theta) * rest**2, theta**2 * (3 - 2 * theta)]
    on_slopes = [h * theta * rest**2, -h * theta**2 * rest]
    return np.stack(on_ends + on_slopes, axis=1)


def settled(estimate, radius):
    """Whether one more power iteration has not changed λmax much."""
    return np.abs(estimate - radius) <= 0.05 * estimate
