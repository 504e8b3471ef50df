"""Gradient flow ẇ = −∇F(w) by a stabilized explicit Runge–Kutta method, over a batch of runs.

A gradient flow is a stiff equation with a real spectrum.  Gradient descent crawls along it, its step bounded by
stability (step·λmax < 2) and not by accuracy.  The Runge–Kutta–Chebyshev method of order 2 (RKC2: Sommeijer,
Shampine & Verwer, J. Comput. Appl. Math. 88, 1997) covers a step of 0.65 s²/λmax with s gradients.

Every run has its own time, step size, number of stages and end.  All runs that are still on their way share each
gradient evaluation: one evaluation advances every run by one stage of its own step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .memory import require_memory

MAX_STAGES = 200
SAFETY_RADIUS = 1.1  # the power method estimates λmax from below
BLOCK_BYTES = 8 << 20  # on a CPU, activations of a block of runs should stay in cache


@dataclass
class Flow:
    """What ``gradient_flow`` returns, for B runs and K observation times.

    u: displacement w(T) − w0, (B, P).      time: flow time reached, (B,).
    status: per run, "reached" (T), "diverged" (not finite) or "stalled" (budget of gradients spent,
        or a step below rounding); u and time are those of the last accepted step.
    loss: F at the end, (B,).               evals, steps, rejected: counts per run.
    times: observation times, (B, K).       observed: name → array (B, K, …); NaN after a run that ended early.
    """

    u: Tensor
    time: np.ndarray
    status: np.ndarray
    loss: Tensor
    evals: np.ndarray
    steps: np.ndarray
    rejected: np.ndarray
    times: np.ndarray
    observed: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def reached(self) -> np.ndarray:
        return self.status == "reached"


def _chebyshev(s: int, w0: float) -> np.ndarray:
    """T_j, T_j′, T_j″ at w0 for j = 0 … s, (3, s + 1)."""
    t = np.zeros((3, s + 1))
    t[0, :2], t[1, 1] = (1.0, w0), 1.0
    for j in range(2, s + 1):
        t[0, j] = 2 * w0 * t[0, j - 1] - t[0, j - 2]
        t[1, j] = 2 * t[0, j - 1] + 2 * w0 * t[1, j - 1] - t[1, j - 2]
        t[2, j] = 4 * t[1, j - 1] + 2 * w0 * t[2, j - 1] - t[2, j - 2]
    return t


_TABLES: dict[int, np.ndarray] = {}


def rkc_coefficients(s: int) -> np.ndarray:
    """Coefficients of the s stages of RKC2 (s ≥ 2) with damping 2/13, as (s, 5).

    Stage j = 1 … s is row j − 1: Y_j = c₀ Y₀ + c₁ Y_{j−1} + c₂ Y_{j−2} + h (c₃ F(Y_{j−1}) + c₄ F(Y₀)).
    """
    if s not in _TABLES:
        w0 = 1 + 2 / 13 / s**2
        t, dt, ddt = _chebyshev(s, w0)
        w1 = dt[s] / ddt[s]
        b = np.empty(s + 1)
        b[2:] = ddt[2:] / dt[2:] ** 2
        b[:2] = b[2]
        a = 1 - b * t
        rows = [[1.0, 0.0, 0.0, 0.0, b[1] * w1]]
        for j in range(2, s + 1):
            mu, nu, mu_f = 2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], 2 * b[j] * w1 / b[j - 1]
            rows.append([1 - mu - nu, mu, nu, mu_f, -a[j - 1] * mu_f])
        rows[1][0], rows[1][2] = rows[1][0] + rows[1][2], 0.0  # Y_{j−2} of stage 2 is Y₀ itself
        _TABLES[s] = np.array(rows)
    return _TABLES[s]


def stages_for(z: float) -> int:
    """Smallest s ≥ 2 whose real stability interval, 2/3 (s² − 1)(1 − 2/15·2/13), covers z = h λmax."""
    return max(2, math.ceil(math.sqrt(1 + 1.5 * z / (1 - 4 / 195))))


def _longest_step(radius: float) -> float:
    return 2 / 3 * (MAX_STAGES**2 - 1) * (1 - 4 / 195) / radius


def gradient_flow(
    objective,
    T,
    *,
    times=None,
    observe: Callable[[Tensor, np.ndarray], dict[str, Tensor]] | None = None,
    rtol: float = 1e-2,
    max_evals: int = 100_000,
) -> Flow:
    """Integrate u̇ = −∇F(w0 + u) from u = 0 to flow time T for every run of ``objective``.

    Args:
        objective: see ``lazylib.objectives``.
        T: flow time > 0, one number or one a run.  (n steps of gradient descent of size η last T = n·η.)
        times: observation times, (K,) or (B, K), each in [0, T]; the state there is interpolated (cubic Hermite).
        observe: function (u (k, P), runs (k,)) → dict of name → (k, …) tensors, the measures at those times, where
            ``runs`` says which runs of the batch the rows of u belong to.
        rtol: tolerance of one step, relative, on the displacement and on the outputs (if the objective has jvp).
        max_evals: a run that needs more gradients than this is "stalled".

    Returns: Flow.  A run that diverges or stalls says so in ``status``, never by a silent NaN.

    Raises: ValueError for T, times or rtol out of range; MemoryError if the batch does not fit.
    """
    T = _horizons(T, objective.runs)
    times = _observation_times(times, T)
    if not 1e-12 <= rtol <= 0.5:
        raise ValueError(f"rtol must lie between 1e-12 and 0.5, got {rtol}.")
    if times.shape[1] and observe is None:
        raise ValueError("times were given but no function to observe at them; pass observe=….")
    if not (isinstance(max_evals, int) and max_evals >= 1):
        raise ValueError(f"max_evals must be a whole number ≥ 1, got {max_evals!r}.")
    device = objective.w0.device
    block = objective.runs
    if device.type == "cpu":
        block = max(1, min(block, BLOCK_BYTES // objective.bytes_per_run))
    state_bytes = 8 * objective.size * objective.w0.element_size()
    require_memory(block * (objective.bytes_per_run + state_bytes), f"a batch of {block} runs", device)
    parts = []
    for start in range(0, objective.runs, block):
        runs = np.arange(start, min(start + block, objective.runs))
        part = objective if block >= objective.runs else objective.select(torch.as_tensor(runs, device=device))
        parts.append(_Integrator(part, runs, T[runs], times[runs], observe, rtol, max_evals).run())
    return _join(parts)


def _horizons(T, runs: int) -> np.ndarray:
    T = np.asarray(T.cpu() if isinstance(T, Tensor) else T, dtype=float)
    if T.shape not in ((), (runs,)):
        raise ValueError(f"T must be one number or {runs} of them, one a run, got shape {T.shape}.")
    if not (np.isfinite(T).all() and (T > 0).all()):
        raise ValueError(f"T must be finite and > 0, got {T.min() if T.size else T}.")
    return np.broadcast_to(T, (runs,)).copy()


def _observation_times(times, T: np.ndarray) -> np.ndarray:
    if times is None:
        return np.empty((len(T), 0))
    times = np.asarray(times, dtype=float)
    if times.ndim not in (1, 2) or times.shape[-1] == 0 or (times.ndim == 2 and len(times) != len(T)):
        raise ValueError(f"times must be (K,) or ({len(T)}, K) with K ≥ 1, got shape {times.shape}.")
    times = np.broadcast_to(times, (len(T), times.shape[-1]))
    slack = T[:, None] * (1 + 1e-12)
    if not ((times >= 0) & (times <= slack)).all() or (np.diff(times, axis=1) < 0).any():
        raise ValueError("times must be sorted and lie in [0, T] of their run.")
    return times


def _join(parts: list[Flow]) -> Flow:
    if len(parts) == 1:
        return parts[0]
    observed = {name: np.concatenate([p.observed[name] for p in parts]) for name in parts[0].observed}
    join = {
        name: (torch.cat if isinstance(getattr(parts[0], name), Tensor) else np.concatenate)(
            [getattr(p, name) for p in parts]
        )
        for name in ("u", "time", "status", "loss", "evals", "steps", "rejected", "times")
    }
    return Flow(**join, observed=observed)


class _Integrator:
    """One block of runs.  Host arrays (numpy, one entry a run) steer; the device holds the states.

    ``slots`` (B, 5, P) holds Y₀, the two latest stages in turn, F(latest stage) and F(Y₀); a stage is one small
    matrix product with them.  A run is at stage j of s; j = 0 means that it probes λmax at Y₀.
    """

    def __init__(self, objective, runs, T, times, observe, rtol, max_evals):
        self.objective, self.observe, self.rtol, self.max_evals = objective, observe, rtol, max_evals
        b, p = objective.runs, objective.size
        like = dict(dtype=objective.w0.dtype, device=objective.w0.device)
        self.slots = torch.zeros(b, 5, p, **like)
        probe = torch.randn(1, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(**like)
        self.probe = (probe / probe.norm()).repeat(b, 1)  # power-method vectors (B, P)
        self.epsilon = 1e-3 * objective.w0.norm(dim=1, keepdim=True)  # length of a probe (B, 1)
        self.scale = torch.zeros(b, **like)  # rms of the outputs' distance to the targets at w0
        zeros = functools.partial(np.zeros, b)
        # a step of size 0, at its only stage: the first evaluation is at u = 0 and is accepted
        self.host = _Host(
            run=np.arange(b), t=zeros(), h=zeros(), T=T.copy(), radius=zeros(), probes=zeros(int),
            s=np.ones(b, int), j=np.ones(b, int), table=np.zeros((b, MAX_STAGES, 5)), evals=zeros(int),
            steps=zeros(int), rejected=zeros(int), failures=zeros(int), next=zeros(int), times=times,
        )
        self.runs, self.result = runs, Flow(
            torch.zeros(b, p, **like), zeros(), np.full(b, "", dtype="<U8"), torch.full((b,), torch.nan, **like),
            zeros(int), zeros(int), zeros(int), times,
        )

    def run(self) -> Flow:
        point, turn = self.slots[:, 0].clone(), 0  # where each run wants F evaluated
        while len(self.host.run):
            g, out = self.objective.gradient(point)
            torch.neg(g, out=self.slots[:, 3])
            self.host.evals += 1
            self._probed(np.flatnonzero(self.host.j == 0))
            self._finished(np.flatnonzero(self.host.j == self.host.s), point, out)
            if not len(self.host.run):
                break
            point, turn = self._advance(turn), 1 - turn
        return self.result

    def _advance(self, turn: int) -> Tensor:
        """The next stage of every run on its way, or the next probe."""
        host = self.host
        probing = np.flatnonzero((host.probes > 0) & (host.j == 0))
        stage = host.probes == 0
        c = host.table[np.arange(len(host.run)), np.where(stage, host.j, 0)]
        c = c[:, [0, 2, 1, 3, 4]] if turn else c.copy()  # slot 1 + turn holds the older stage
        c[:, 3:] *= host.h[:, None]
        c[~stage] = 0.0
        c = torch.as_tensor(c, dtype=self.slots.dtype, device=self.slots.device)
        point = torch.bmm(c.unsqueeze(1), self.slots).squeeze(1)  # (B, P)
        if len(probing):
            rows = torch.as_tensor(probing, device=point.device)
            point[rows] = self.slots[rows, 0] + self.epsilon[rows] * self.probe[rows]
        host.j[stage] += 1
        self.slots[:, 2 - turn] = point
        return point

    def _probed(self, rows: np.ndarray) -> None:
        """One power iteration on ∇²F: F(Y₀ + ε v) − F(Y₀) ≈ −ε ∇²F v."""
        if not len(rows):
            return
        host, at = self.host, torch.as_tensor(rows, device=self.slots.device)
        change = self.slots[at, 3] - self.slots[at, 4]
        growth = change.norm(dim=1, keepdim=True)
        self.probe[at] = change / growth.clamp(min=torch.finfo(change.dtype).tiny)
        radius = (growth / self.epsilon[at]).squeeze(1).double().cpu().numpy()
        radius = np.where(np.isfinite(radius), radius, host.radius[rows])
        settled = np.abs(radius - host.radius[rows]) <= 0.05 * radius
        host.radius[rows] = radius
        host.probes[rows] = np.where(settled, 0, host.probes[rows] - 1)
        self._begin(rows[host.probes[rows] == 0])

    def _begin(self, rows: np.ndarray) -> None:
        """Choose the number of stages of the next step; h is shortened where it would need too many."""
        host = self.host
        radius = np.maximum(SAFETY_RADIUS * host.radius[rows], 1e-300)
        h = np.where(host.h[rows] > 0, host.h[rows], 1 / radius)
        h = np.minimum(h, _longest_step(1.0) / radius)
        left = host.T[rows] - host.t[rows]
        h = np.where(h >= left, left, np.minimum(h, np.maximum(left / 2, h / 2)))
        host.h[rows] = h
        for row, z in zip(rows, h * radius, strict=True):
            host.s[row] = s = stages_for(z)
            host.table[row, :s] = rkc_coefficients(s)
        host.j[rows] = 0

    def _finished(self, rows: np.ndarray, point: Tensor, out: Tensor) -> None:
        """Accept or reject the steps that are complete, observe, and let runs that are done leave."""
        if not len(rows):
            return
        host, at = self.host, torch.as_tensor(rows, device=point.device)
        new, f = point[at], self.slots[at, 3]  # (k, P)
        old, f0 = self.slots[at, 0], self.slots[at, 4]
        h = torch.as_tensor(host.h[rows], dtype=new.dtype, device=new.device).unsqueeze(1)
        error = self._error(at, old, new, 0.8 * (old - new) + 0.4 * h * (f0 + f), out)
        good = error <= 1  # False for NaN

        accepted, at_good = rows[good], at[torch.as_tensor(good, device=at.device)]
        if len(accepted):
            self._observe(accepted, at_good, point)
            self.slots[at_good, 0] = point[at_good]
            self.slots[at_good, 4] = self.slots[at_good, 3]
            host.t[accepted] += host.h[accepted]
            host.steps[accepted] += host.h[accepted] > 0
            factor = 0.8 * np.maximum(error[good], 1e-6) ** (-1 / 3)
            host.h[accepted] *= np.clip(factor, 0.1, np.where(host.failures[accepted] > 0, 1.0, 5.0))
            host.failures[accepted] = 0
        refused = rows[~good]
        if len(refused):
            bad = error[~good]
            host.rejected[refused] += 1
            host.failures[refused] += 1
            host.h[refused] *= np.where(np.isfinite(bad), np.maximum(0.1, 0.8 * bad ** (-1 / 3)), 0.1)
            self.slots[at[torch.as_tensor(~good, device=at.device)], 1:4] = 0  # may hold NaN
        host.j[rows] = 0
        # λmax is probed at first, after a failure, and at every third step
        due = (host.failures[rows] > 0) | (host.steps[rows] % PROBE_EVERY == 0)
        host.probes[rows] = np.where(host.radius[rows] > 0, np.where(due, 3, 0), 40)
        self._begin(rows[host.probes[rows] == 0])
        self._leave(rows, good, out)

    def _error(self, at: Tensor, old: Tensor, new: Tensor, defect: Tensor, out: Tensor) -> np.ndarray:
        """Size of the error estimate of a step in units of the tolerance, (k,); NaN where a value is not finite."""
        size = torch.maximum(old.norm(dim=1), new.norm(dim=1))
        error = STATE_WEIGHT * defect.norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
        if hasattr(self.objective, "jvp"):
            residual = self.objective.residual_norm(out)[at]
            part = self.objective.select(at)
            moved = part.jvp(new, defect).square().mean(1).sqrt()
            self.scale[at] = torch.maximum(self.scale[at], residual)
            floor = OUT_FLOOR * self.scale[at]
            error = torch.maximum(error, OUT_WEIGHT * moved / torch.maximum(residual, floor))
        finite = torch.isfinite(new).all(1) & torch.isfinite(defect).all(1) & torch.isfinite(out[at]).all(1)
        return torch.where(finite, error / self.rtol, torch.nan).double().cpu().numpy()

    def _observe(self, rows: np.ndarray, at: Tensor, point: Tensor) -> None:
        """Measures at the observation times inside the step just accepted, by cubic Hermite interpolation."""
        host = self.host
        if not host.times.shape[1]:
            return
        pick, columns = [], []
        for k, row in enumerate(rows):
            end = host.t[row] + host.h[row]
            last = np.searchsorted(host.times[row], end if end < host.T[row] * (1 - 1e-12) else np.inf, side="right")
            pick += [k] * (last - host.next[row])
            columns += range(host.next[row], last)
            host.next[row] = last
        if not pick:
            return
        chosen, at = rows[pick], at[pick]
        h = host.h[chosen]
        theta = np.clip((host.times[chosen, columns] - host.t[chosen]) / np.where(h > 0, h, 1.0), 0, 1)
        weights = np.stack(
            [(1 + 2 * theta) * (1 - theta) ** 2, theta**2 * (3 - 2 * theta),
             h * theta * (1 - theta) ** 2, -h * theta**2 * (1 - theta)], axis=1,
        )  # (k, 4) on Y₀, Y, F₀, F
        weights = torch.as_tensor(weights, dtype=point.dtype, device=point.device)
        states = torch.stack([self.slots[at, 0], point[at], self.slots[at, 4], self.slots[at, 3]], dim=1)
        u = torch.bmm(weights.unsqueeze(1), states).squeeze(1)
        local = host.run[chosen]
        for name, value in self.observe(u, self.runs[local]).items():
            value = torch.as_tensor(value).detach().cpu().numpy()
            store = self.result.observed
            if name not in store:
                store[name] = np.full((len(self.result.time), host.times.shape[1], *value.shape[1:]), np.nan)
            store[name][local, columns] = value

    def _leave(self, rows: np.ndarray, good: np.ndarray, out: Tensor) -> None:
        """Runs at their end, or beyond hope, hand in their result and leave the batch."""
        host = self.host
        status = np.full(len(host.run), "", dtype="<U8")
        status[rows[host.t[rows] >= host.T[rows] * (1 - 1e-12)]] = "reached"
        lost = rows[~good]
        overflow = ~torch.isfinite(out).all(1).cpu().numpy()
        hopeless = (host.failures[lost] >= 20) | ((host.steps[lost] == 0) & (host.h[lost] == 0))
        status[lost[hopeless]] = np.where(overflow[lost[hopeless]], "diverged", "stalled")
        late = rows[(host.evals[rows] >= self.max_evals) & (status[rows] == "")]
        status[late] = "stalled"
        done = status != ""
        if not done.any():
            return
        local, result = host.run[done], self.result
        index = torch.as_tensor(np.flatnonzero(done), device=out.device)
        ends = torch.as_tensor(local, device=out.device)
        result.u[ends] = self.slots[index, 0]
        result.loss[ends] = self.objective.loss(out)[index]
        result.time[local], result.status[local] = host.t[done], status[done]
        result.evals[local], result.steps[local] = host.evals[done], host.steps[done]
        result.rejected[local] = host.rejected[done]
        keep = torch.as_tensor(np.flatnonzero(~done), device=out.device)
        self.slots, self.probe = self.slots[keep], self.probe[keep]
        self.epsilon, self.scale = self.epsilon[keep], self.scale[keep]
        host.keep(~done)
        if len(keep):
            self.objective = self.objective.select(keep)


OUT_FLOOR = 0.3
PROBE_EVERY = 3
OUT_WEIGHT = 1.0
STATE_WEIGHT = 1.0


@dataclass
class _Host:
    """What steers the runs of a block, on the host; one row a run."""

    run: np.ndarray
    t: np.ndarray
    h: np.ndarray
    T: np.ndarray
    radius: np.ndarray
    probes: np.ndarray
    s: np.ndarray
    j: np.ndarray
    table: np.ndarray
    evals: np.ndarray
    steps: np.ndarray
    rejected: np.ndarray
    failures: np.ndarray
    next: np.ndarray
    times: np.ndarray

    def keep(self, mask: np.ndarray) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[mask])
