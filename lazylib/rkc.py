"""Coefficients of the Runge–Kutta–Chebyshev method of order 2.

Sommeijer, Shampine & Verwer, RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88 (1998), §2.
"""

import functools
import math

import numpy as np

DAMPING = 2 / 13
MAX_STAGES = 200  # rounding grows with s²


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
