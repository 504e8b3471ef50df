"""Compiled kernels for two-layer ReLU nets on a CPU: a gradient, a step, a power iteration; the loss on a plane.

One run of the published size (its inputs, its preactivations, its stages) fits in the cache of a core, where two
matrix products are nearly all that a gradient costs.  The functions release Python's lock, so threads take one run
each.  Numbers are those of ``objectives.FusedSquareLoss``, of which this is the other implementation.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numba
import numpy as np
from scipy.linalg import blas  # noqa: F401  (loads the library that numba's matrix products call)
from threadpoolctl import ThreadpoolController

CHUNK = 256  # inputs at a time: what a gradient works on stays in the cache that a core has for itself
# sums may be reordered; NaN and infinity keep their meaning
_compile = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread():
    """A context in which matrix products outside torch take one thread each: the callers share the cores."""
    return _libraries().limit(limits=1, user_api="blas")


def blas_has_threads() -> bool:
    """Whether matrix products outside torch would take more than one."""
    return any(library["num_threads"] > 1 for library in _libraries().info() if library["user_api"] == "blas")


class Run(NamedTuple):
    """One run: what does not change along it, and the arrays that every gradient overwrites."""

    a0: np.ndarray  # (m,) output weights at w0
    w0: np.ndarray  # (P,)
    x: np.ndarray  # (n, d)
    p0: np.ndarray  # (m, n) preactivations at w0
    h0: np.ndarray  # (n,) outputs at w0
    y: np.ndarray  # (n,)
    scale: np.floating  # output factor; its type is that of all arrays
    relu: np.ndarray  # (m·c,) relu(p) on c = min(n, CHUNK) inputs
    gated: np.ndarray  # (m·c,) r·1[p > 0] there, r the residual
    part: np.ndarray  # (m, d) their part of ∇F
    out: np.ndarray  # (n,) outputs h(w0 + u)
    r: np.ndarray  # (n,) (h − y)·scale/n


@_compile
def evaluate(run: Run, u, f):
    """f ← −∇F(w0 + u), both (P,); leaves the outputs in ``run``."""
    m, n = run.p0.shape
    d = run.x.shape[1]
    scale, zero = run.scale, run.out.dtype.type(0)
    ub, gb = u[m:].reshape(m, d), f[m:].reshape(m, d)
    f[:] = zero
    for first in range(0, n, CHUNK):
        width = min(CHUNK, n - first)
        x = run.x[first : first + width]
        relu, gated = run.relu[: m * width].reshape(m, width), run.gated[: m * width].reshape(m, width)
        out, r = run.out[first : first + width], run.r[first : first + width]
        h0, y = run.h0[first : first + width], run.y[first : first + width]
        np.dot(ub, x.T, relu)  # u_b·x
        out[:] = zero
        for j in range(m):
            p0, row = run.p0[j, first : first + width], relu[j]
            a, ua = run.a0[j] + u[j], u[j]
            for i in range(width):
                relu0 = max(p0[i], zero)
                change = max(row[i] + min(p0[i], zero), -relu0)  # relu(p) − relu(p0) with no cancellation
                out[i] += a * change + ua * relu0
                row[i] = change + relu0
        for i in range(width):
            out[i] = h0[i] + scale * out[i]
            r[i] = (out[i] - y[i]) * (-scale / n)
        for j in range(m):
            row, gate = relu[j], gated[j]
            total = zero
            for i in range(width):
                total += row[i] * r[i]
                gate[i] = r[i] if row[i] > zero else zero
            f[j] += total
        np.dot(gated, x, run.part)
        for j in range(m):
            for k in range(d):
                gb[j, k] += run.part[j, k]
    for j in range(m):
        a = run.a0[j] + u[j]
        for k in range(d):
            gb[j, k] *= a


@_compile
def take_step(run: Run, y0, f0, stages, y, f, old):
    """One step of Runge–Kutta–Chebyshev from y0 with slope f0 = −∇F(y0): y ← the end, f ← −∇F there, (P,) each.

    stages: (s, 5) coefficients, the last two columns multiplied by h.  old: (P,) is overwritten.
    """
    for stage in range(len(stages)):
        c0, c1, c2, c3, c4 = stages[stage]
        if stage == 0:
            for k in range(len(y)):
                y[k] = c0 * y0[k] + c4 * f0[k]
                old[k] = y0[k]
        else:
            for k in range(len(y)):
                new = c0 * y0[k] + c1 * y[k] + c2 * old[k] + c3 * f[k] + c4 * f0[k]
                old[k] = y[k]
                y[k] = new
        evaluate(run, y, f)


@_compile
def defect(run: Run, y0, f0, y, f, h, into):
    """The embedded error estimate 0.8 (y0 − y) + 0.4 h (f0 + f), and the norms of it, of y0, y and w0 + y."""
    e2 = o2 = n2 = w2 = 0.0
    for k in range(len(y)):
        e = np.float64(y0[k] - y[k]) * 0.8 + 0.4 * h * np.float64(f0[k] + f[k])
        into[k] = e
        e2 += e * e
        o2 += np.float64(y0[k]) * y0[k]
        n2 += np.float64(y[k]) * y[k]
        w = np.float64(run.w0[k]) + y[k]
        w2 += w * w
    return np.sqrt(e2), np.sqrt(o2), np.sqrt(n2), np.sqrt(w2)


@_compile
def moved(run: Run, u, v):
    """rms over x of Dh(w0 + u) v; overwrites the work arrays of ``run``."""
    m, n = run.p0.shape
    d = run.x.shape[1]
    zero, square = run.out.dtype.type(0), 0.0
    ub, vb = u[m:].reshape(m, d), v[m:].reshape(m, d)
    for first in range(0, n, CHUNK):
        width = min(CHUNK, n - first)
        x, total = run.x[first : first + width], run.r[first : first + width]
        relu, gated = run.relu[: m * width].reshape(m, width), run.gated[: m * width].reshape(m, width)
        np.dot(ub, x.T, relu)
        np.dot(vb, x.T, gated)
        total[:] = zero
        for j in range(m):
            p0, row, along = run.p0[j, first : first + width], relu[j], gated[j]
            a, va = run.a0[j] + u[j], v[j]
            for i in range(width):
                value = max(row[i] + p0[i], zero)
                total[i] += va * value + (a * along[i] if value > zero else zero)
        for i in range(width):
            square += np.float64(total[i]) * total[i]
    return run.scale * np.sqrt(square / n)


@_compile
def power_iteration(run: Run, y0, f0, v, length, point, f):
    """One power iteration v ← −∇²F v/‖·‖ by a difference of gradients; the estimate of λmax."""
    for k in range(len(v)):
        point[k] = y0[k] + length * v[k]
    evaluate(run, point, f)
    total = 0.0
    for k in range(len(v)):
        total += np.float64(f[k] - f0[k]) ** 2
    growth = np.sqrt(total)
    if growth > 0:
        for k in range(len(v)):
            v[k] = (f[k] - f0[k]) / growth
    return growth / length


@_compile
def plane_loss_sums(z, a, s, t, y, total):
    """total[k, l] += Σ_i (h_i − y_i)² at the points (s_k, t_l) of a plane, on which preactivations are linear.

    z: (3, m, n) b·x for the plane's origin and its two directions, m a multiple of 4.  a: (3, m) output weights,
    times the output factor.  s: (S,), t: (T,).  y: (n,).  total: (S, T).  Inputs go in chunks whose outputs along
    t stay in the cache, and four neurons at once, so that an output is read and written a fourth as often.
    """
    chunk, n, zero = 128, len(y), y.dtype.type(0)
    out = np.empty((len(t), chunk), y.dtype)
    base = np.empty((4, chunk), y.dtype)
    for first in range(0, n, chunk):
        width = min(chunk, n - first)
        for k in range(len(s)):
            out[:] = zero
            for j in range(0, z.shape[1], 4):
                for l in range(4):
                    z0, z1, b = z[0, j + l, first:], z[1, j + l, first:], base[l]
                    for i in range(width):
                        b[i] = z0[i] + s[k] * z1[i]
                z0, z1, z2, z3 = z[2, j, first:], z[2, j + 1, first:], z[2, j + 2, first:], z[2, j + 3, first:]
                b0, b1, b2, b3 = base[0], base[1], base[2], base[3]
                for c in range(len(t)):
                    row, tc = out[c], t[c]
                    w0 = a[0, j] + s[k] * a[1, j] + tc * a[2, j]
                    w1 = a[0, j + 1] + s[k] * a[1, j + 1] + tc * a[2, j + 1]
                    w2 = a[0, j + 2] + s[k] * a[1, j + 2] + tc * a[2, j + 2]
                    w3 = a[0, j + 3] + s[k] * a[1, j + 3] + tc * a[2, j + 3]
                    for i in range(width):
                        row[i] += (
                            w0 * max(b0[i] + tc * z0[i], zero)
                            + w1 * max(b1[i] + tc * z1[i], zero)
                            + w2 * max(b2[i] + tc * z2[i], zero)
                            + w3 * max(b3[i] + tc * z3[i], zero)
                        )
            for c in range(len(t)):
                row, part = out[c], zero
                for i in range(width):
                    error = row[i] - y[first + i]
                    part += error * error
                total[k, c] += part
