"""The steps of ``gradient_flow``, and the gradients of a descent, for two-layer ReLU nets on a CPU.

Every core takes one run at a time.

The method is that of ``lazylib.flows.batch``, which advances a batch side by side as an accelerator wants it.  A
core works better on a single run, whose arrays stay in its cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ..nets import _two_layer_cpu as compiled
from ..objectives.square import FusedSquareLoss
from . import rkc
from .batch import Flow


def integrate(objective: FusedSquareLoss, runs, T, times, observe, rtol, max_evals) -> Flow:
    """All runs of a block; arguments as for ``Integrator``."""
    b, p = objective.w0.shape
    dtype = objective.w0.numpy().dtype
    states = np.full((b, times.shape[1], p), np.nan, dtype)
    u, loss = np.zeros((b, p), dtype), np.zeros(b, dtype)
    time, status, counts = np.zeros(b), np.full(b, "", dtype="<U8"), np.zeros((3, b), int)
    probe = torch.randn(p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = (probe / probe.norm()).numpy().astype(dtype)

    def one(row: int) -> None:
        single = _Single(_run(objective, row), objective.features, times[row], states[row])
        status[row] = single.integrate(T[row], probe.copy(), rtol, max_evals)
        u[row], time[row], loss[row] = single.y0, single.t, 0.5 * np.mean((single.run.out - single.run.y) ** 2)
        counts[:, row] = single.evals, single.steps, single.rejected

    with np.errstate(over="ignore", invalid="ignore"), compiled.one_blas_thread():
        if (workers := min(torch.get_num_threads(), b)) == 1:
            for row in range(b):
                one(row)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(one, range(b)))
    evals, steps, rejected = counts
    result = Flow(torch.from_numpy(u), time, status, torch.from_numpy(loss), evals, steps, rejected, times)
    for column in range(times.shape[1]):
        rows = np.flatnonzero(np.isfinite(states[:, column, 0]))
        if len(rows):
            result.record(rows, column, observe(torch.from_numpy(states[rows, column]), runs[rows]))
    return result


def gradients(objective: FusedSquareLoss) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What ``objective.gradient`` does, run by run: on a small net nearly all of its time is torch's own overhead."""
    every = [_run(objective, row) for row in range(objective.runs)]
    alone = compiled.one_blas_thread if compiled.blas_has_threads() else contextlib.nullcontext

    def gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        downhill, out = np.empty(u.shape, every[0].w0.dtype), np.empty((len(every), len(every[0].y)), every[0].w0.dtype)
        with alone():
            for run, at, f, h in zip(every, u.numpy(), downhill, out, strict=True):
                compiled.evaluate(run, at, f)
                h[:] = run.out
        return torch.from_numpy(downhill).neg_(), torch.from_numpy(out)

    return gradient


def _run(objective: FusedSquareLoss, row: int) -> compiled.Run:
    def own(tensor: Tensor, dims: int) -> np.ndarray:
        return np.ascontiguousarray((tensor if tensor.dim() == dims else tensor[row]).numpy())

    negative, floor, h0 = (piece[row].numpy() for piece in objective.base)
    w0, y, x = own(objective.w0, 1), own(objective.y, 1), own(objective.x, 2)
    (m, n), d, dtype = negative.shape, x.shape[1], h0.dtype
    inner = np.empty((2, m * min(n, compiled.CHUNK)), dtype)
    work = *inner, np.empty((m, d), dtype), *np.empty((2, n), dtype)
    return compiled.Run(own(objective.a0, 1), w0, x, negative - floor, h0, y, dtype.type(objective.net.scale), *work)


class _Single:
    """One run on its way: y0 is its displacement at flow time t, f0 = −∇F there."""

    def __init__(self, run: compiled.Run, features: float, times: np.ndarray, states: np.ndarray):
        self.run, self.features, self.times, self.states = run, features, times, states
        self.y0, self.f0, self.y, self.f, self.spare = np.zeros((5, len(run.w0)), run.w0.dtype)
        self.t, self.observed = 0.0, 0
        self.evals = self.steps = self.rejected = 0

    def integrate(self, T: float, v: np.ndarray, rtol: float, max_evals: int) -> str:
        """Go to flow time T; the status.  v: first vector of the power method, overwritten."""
        run = self.run
        compiled.evaluate(run, self.y0, self.f0)
        self.evals = 1
        if not np.isfinite(run.out).all():
            return "diverged"
        length = run.w0.dtype.type(1e-3 * (np.linalg.norm(run.w0) or 1.0))
        targets = np.mean(np.square(run.y, dtype=float))
        h = radius = 0.0
        probes, failures = rkc.FIRST_PROBES, 0
        while True:
            while probes:
                estimate = compiled.power_iteration(run, self.y0, self.f0, v, length, self.y, self.f)
                estimate = estimate if np.isfinite(estimate) else radius
                probes = 0 if rkc.settled(estimate, radius) else probes - 1
                radius = estimate
                self.evals += 1
            h = float(rkc.next_step(h, radius, T - self.t))
            stages = rkc.coefficients(rkc.stages_for(h * rkc.RADIUS_SAFETY * radius)) * [1, 1, 1, h, h]
            compiled.take_step(run, self.y0, self.f0, stages.astype(run.w0.dtype), self.y, self.f, self.spare)
            self.evals += len(stages)
            error = self._error(h, radius, targets) / rtol
            if error <= 1:  # not for NaN
                self._observe(h, T)
                self.y0, self.y, self.f0, self.f = self.y, self.y0, self.f, self.f0
                self.t += h
                self.steps += 1
                h, failures = float(rkc.after_success(h, error, failures)), 0
                if self.t >= T * rkc.END:
                    return "reached"
            else:
                self.rejected += 1
                failures += 1
                h = float(rkc.after_failure(h, error, failures))
                if failures >= rkc.MAX_FAILURES:
                    return "stalled" if np.isfinite(run.out).all() else "diverged"
            if self.evals >= max_evals:
                return "stalled"
            probes = int(rkc.probes_due(self.steps, failures))

    def _error(self, h: float, radius: float, targets: float) -> float:
        """The error of the step: see ``Integrator._error``."""
        run, tiny = self.run, np.finfo(self.run.w0.dtype).tiny
        size, old, new, weight = compiled.defect(run, self.y0, self.f0, self.y, self.f, h, self.spare)
        length = max(old, new, tiny)
        error = size / length * max(1.0, self.features * length / max(weight, tiny))
        allowed = max(np.sqrt(max(np.mean(np.square(run.out - run.y, dtype=float)), targets)), tiny)
        if not (np.isfinite(error) and np.isfinite(allowed)):
            return np.nan
        if np.sqrt(radius) * size / allowed > error:  # the bound ‖Dh‖² ≈ λmax does not settle it
            error = max(error, compiled.moved(run, self.y, self.spare) / allowed)
        return error

    def _observe(self, h: float, T: float) -> None:
        """States at the observation times inside the step just accepted, by cubic Hermite interpolation."""
        end = self.t + h
        last = int(np.searchsorted(self.times, np.inf if end >= T * rkc.END else end, side="right"))
        theta = np.clip((self.times[self.observed : last] - self.t) / h, 0, 1)
        weights = rkc.hermite(theta, h).astype(self.y.dtype)  # (k, 4)
        if len(theta):
            self.states[self.observed : last] = weights @ np.stack([self.y0, self.y, self.f0, self.f])
            self.observed = last
