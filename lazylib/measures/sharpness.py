"""Curvature of a loss at given weights, matrix-free: the top eigenvalue of its Hessian, and the trace.

Both are also offered in units of the weights: with ``unit`` D (P,), they are those of D H D, the Hessian of
v → loss(w + D v). The raw Hessian is not a property of the function that a net computes: writing w = c v
multiplies it by c². D = ‖w‖, or ``filter_rms``, takes that out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from scipy.special import stdtrit
from torch import Tensor
from torch.func import grad, jvp, vmap

from .norms import random_rows, require_finite


class TopEigenvalue(NamedTuple):
    """From `top_eigenvalue`: the value, its unit eigenvector (P,), and the Hessian–vector products that it took."""

    value: float
    vector: Tensor
    products: int


class Trace(NamedTuple):
    """An estimate with its confidence interval, from so many random probes; from `hessian_trace`."""

    value: float
    low: float
    high: float
    probes: int


def hessian_product(
    loss: Callable[[Tensor], Tensor], w: Tensor, unit: Tensor | float = 1.0
) -> Callable[[Tensor], Tensor]:
    """The map v → D H D v at w, with H the Hessian of a loss and D a diagonal, forward over reverse.

    For ReLU this is the Hessian that exists almost everywhere: the kinks have no part in it.

    Args:
        loss: function of weights (P,) → scalar.
        w: (P,).
        unit: D, the unit of each weight, (P,), or one number.

    Returns:
        A function (P,) → (P,).

    Example:
        >>> import torch
        >>> from lazylib.measures import hessian_product
        >>> loss = lambda w: 0.5 * (torch.tensor([1.0, 10.0]) * w**2).sum()
        >>> hessian_product(loss, torch.zeros(2))(torch.ones(2))
        tensor([ 1., 10.])
    """
    if w.dim() != 1:
        raise ValueError(f"w must be the parameters of one run, (P,), got shape {tuple(w.shape)}.")
    require_finite(w, "w")
    gradient = grad(loss)
    return lambda v: unit * jvp(gradient, (w,), (unit * v,))[1]


def top_eigenvalue(
    loss: Callable[[Tensor], Tensor],
    w: Tensor,
    *,
    unit: Tensor | float = 1.0,
    tol: float = 1e-4,
    seed: int = 0,
) -> TopEigenvalue:
    """The largest (not the largest in size) eigenvalue of D H D, by implicitly restarted Lanczos (ARPACK).

    Args:
        loss: function of weights (P,) → scalar.
        w: (P,), float64 for tol below 1e-5.
        unit: D, the unit of each weight, (P,), or one number.
        tol: relative tolerance.
        seed: of the first vector.

    Returns:
        The eigenvalue, its vector and the number of products.

    Raises:
        ValueError: the curvature is not finite.
        RuntimeError: ARPACK does not converge.

    Example:
        >>> import torch
        >>> from lazylib.measures import top_eigenvalue
        >>> curvatures = torch.tensor([-20.0, 1.0, 10.0, 3.0], dtype=torch.float64)
        >>> round(top_eigenvalue(lambda w: 0.5 * (curvatures * w**2).sum(), torch.zeros(4).double()).value, 6)
        10.0
    """
    product, count, size = hessian_product(loss, w, unit), 0, len(w)

    def apply(v: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        out = product(torch.from_numpy(np.ascontiguousarray(v).reshape(-1)).to(w))
        require_finite(out, "the curvature of the loss")
        return out.detach().double().cpu().numpy()

    if size < 3:  # too small for Lanczos
        rows = np.stack([apply(row) for row in np.eye(size)])
        values, vectors = np.linalg.eigh((rows + rows.T) / 2)
    else:
        start = random_rows(torch.zeros(1, dtype=torch.float64), 1, size, seed)[0].numpy()
        operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
        try:
            values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tol)
        except ArpackNoConvergence as error:
            raise RuntimeError(f"the top eigenvalue did not converge to {tol} in {count} products.") from error
    return TopEigenvalue(float(values[-1]), torch.from_numpy(vectors[:, -1].copy()).to(w), count)


def hessian_trace(
    loss: Callable[[Tensor], Tensor],
    w: Tensor,
    *,
    unit: Tensor | float = 1.0,
    probes: int = 32,
    confidence: float = 0.95,
    block: int = 8,
    seed: int = 0,
) -> Trace:
    """tr(D H D) by Hutchinson's estimator, the mean of vᵀDHDv over random signs v, with Student's interval.

    The interval says how well the probes know this trace.

    Args:
        loss: function of weights (P,) → scalar.
        w: (P,).
        unit: D, the unit of each weight, (P,), or one number.
        probes: vectors v, at least two.
        confidence: of the interval.
        block: vectors at once.
        seed: of the signs.

    Returns:
        The estimate, its interval and the number of probes.

    Source: M. Hutchinson, Communications in Statistics 19 (1990), 433–450.

    Example:
        >>> import torch
        >>> from lazylib.measures import hessian_trace
        >>> loss = lambda w: 0.5 * (torch.tensor([1.0, 10.0]) * w**2).sum()
        >>> hessian_trace(loss, torch.zeros(2)).value  # of a diagonal Hessian every probe is exact
        11.0
    """
    if not (isinstance(probes, int) and probes >= 2):
        raise ValueError(f"probes must be a whole number ≥ 2, got {probes!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    product = hessian_product(loss, w, unit)
    signs = torch.sign(random_rows(w, probes, len(w), seed))  # (probes, P)
    values = torch.cat([(v * vmap(product)(v)).sum(1) for v in signs.split(block)]).double()  # (probes,)
    require_finite(values, "the curvature of the loss")
    mean, deviation = float(values.mean()), float(values.std())
    half = float(stdtrit(probes - 1, (1 + confidence) / 2)) * deviation / probes**0.5
    return Trace(mean, mean - half, mean + half, probes)
