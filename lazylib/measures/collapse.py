"""Do curves fall on each other if the axis is scaled by a power of what tells them apart?"""

from __future__ import annotations

from typing import Any

import numpy as np

POINTS = 80  # at which shifted curves are compared


def unshared(curves: Any, x: Any, h: Any, exponents: Any) -> np.ndarray:
    """The share S of the variance along the axis that curves of several sizes h do not have in common over x·h^q.

    With averages over log(x·h^q), at the points that all curves reach, and over h,

        S(q) = ⟨Var_h c_h⟩ / ⟨(c_h − c̄)²⟩,

    where c̄ is the mean of all: 0 if the curves collapse, 1 if each is flat at a level of its own.

    Args:
        curves: c_h(x), (H, k), of any unit.
        x: positive and increasing, (k,); over log x curves are interpolated linearly.
        h: positive, (H,), of any unit.
        exponents: q, pure numbers, of any shape.

    Returns:
        S, a pure number from 0 to 1 for each q.

    Raises:
        ValueError: shapes do not fit; x or h is not positive, or x not increasing; moved curves have no x in common.

    Example:
        >>> import numpy as np
        >>> from lazylib.measures import unshared
        >>> x = np.geomspace(1, 1000, 10)
        >>> curves = [np.log(x), np.log(x / 2)]  # widths 1 and 4: functions of x·h^(−1/2)
        >>> unshared(curves, x, h=[1, 4], exponents=[-0.5, 0.0]).round(3)
        array([0.   , 0.029])
    """
    curves, x, h, q = (np.asarray(part, dtype=float) for part in (curves, x, h, exponents))
    if not (x.ndim == 1 and len(x) > 1 and x[0] > 0 and (np.diff(x) > 0).all()):
        raise ValueError(f"x must be at least two positive increasing numbers, got {x.tolist()}.")
    if h.ndim != 1 or curves.shape != (len(h), len(x)) or not (h > 0).all():
        raise ValueError(f"h must be positive, one a curve of {len(x)} points, got {h.shape} and {curves.shape}.")
    u, found = np.log(x), []
    for exponent in q.ravel():
        shifts = exponent * np.log(h)
        low, high = u[0] + shifts.max(), u[-1] + shifts.min()
        if not low < high:
            raise ValueError(f"over x·h^{exponent:g} the curves have no part of the axis in common.")
        common = np.linspace(low, high, POINTS)
        lines = np.stack([np.interp(common, u + s, curve) for s, curve in zip(shifts, curves, strict=True)])  # (H, …)
        found.append(lines.var(0).mean() / lines.var())
    return np.reshape(found, q.shape)
