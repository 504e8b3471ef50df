"""The steps of ``gradient_flow``: one block of runs, integrated side by side.

Every run has its own time, step, number of stages and end.  All runs on their way share each gradient evaluation:
one evaluation advances every run by one stage of its own step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import rkc


@dataclass
class Flow:
    """What ``gradient_flow`` returns, for B runs and K observation times.

    u: displacement w − w0 at the end, (B, P).     time: flow time there, (B,).
    status: per run, "reached" (T, or the objective's own end where it has one), "diverged" (not finite) or
        "stalled" (budget of gradients spent, a step below rounding, or T spent before the objective's own end);
        u and time of such a run are those of its last accepted step.
    loss: F at the end, (B,).                      evals, steps, rejected: counts per run.
    times: observation times, (B, K).              observed: name → (B, K, …); NaN past the end of a run.
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

    def record(self, runs: np.ndarray, columns, measures: dict) -> None:
        """Enter what ``observe`` returned for some runs at some columns of ``times``."""
        for name, value in measures.items():
            value = torch.as_tensor(value).detach().cpu().numpy()
            if name not in self.observed:
                self.observed[name] = np.full((*self.times.shape, *value.shape[1:]), np.nan)
            self.observed[name][runs, columns] = value


@dataclass
class _Steering:
    """What steers the runs of a block, on the host: arrays with one row a run that is on its way."""

    run: np.ndarray  # its place in the block
    T: np.ndarray
    times: np.ndarray  # (B, K)
    table: np.ndarray  # (B, MAX_STAGES, 5), the coefficients of its step
    t: np.ndarray  # flow time of Y₀
    h: np.ndarray  # step
    radius: np.ndarray  # λmax
    probes: np.ndarray  # power iterations it may still make before the next step
    s: np.ndarray  # stages of the step
    j: np.ndarray  # stage at whose point F is evaluated next; 0: a probe
    evals: np.ndarray
    steps: np.ndarray
    rejected: np.ndarray
    failures: np.ndarray  # in a row
    next: np.ndarray  # next observation

    @classmethod
    def start(cls, T: np.ndarray, times: np.ndarray) -> _Steering:
        b = len(T)
        table = np.zeros((b, rkc.MAX_STAGES, 5))
        t, h, radius = np.zeros((3, b))
        probes, evals, steps, rejected, failures, following = np.zeros((6, b), int)
        s, j = np.ones((2, b), int)  # a step of size 0 at its only stage: the first evaluation is at u = 0
        return cls(
            np.arange(b), T, times, table, t, h, radius, probes, s, j, evals, steps, rejected, failures, following
        )

    def keep(self, mask: np.ndarray) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[mask])


class Integrator:
    """One block of runs.

    ``slots`` (B, 5, P) holds Y₀, the two latest stages in turn, −∇F at the latest stage and −∇F(Y₀); the next
    stage is one small matrix product with them.
    """

    def __init__(self, objective, runs, T, times, observe, rtol, max_evals):
        self.objective, self.runs, self.observe = objective, runs, observe
        self.rtol, self.max_evals = rtol, max_evals
        b, p = objective.runs, objective.size
        like = dict(dtype=objective.w0.dtype, device=objective.w0.device)
        self.steer = _Steering.start(T.copy(), times)
        self.slots = torch.zeros(b, 5, p, **like)
        probe = torch.randn(p, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(**like)
        self.probe = (probe / probe.norm()).repeat(b, 1)  # power-method vectors (B, P)
        self.reach = objective.reach.unsqueeze(1)  # length of a probe (B, 1)
        zeros = np.zeros(b)
        evals, steps, rejected = np.zeros((3, b), int)
        status = np.full(b, "", dtype="<U8")
        lost = torch.full((b,), torch.nan, **like)
        self.result = Flow(torch.zeros(b, p, **like), zeros, status, lost, evals, steps, rejected, times)

    def run(self) -> Flow:
        point, turn = self.slots[:, 0].clone(), 0  # where F is evaluated next (B, P)
        while True:
            gradient, out = self.objective.gradient(point)
            torch.neg(gradient, out=self.slots[:, 3])
            self.steer.evals += 1
            probed, ended = self.steer.j == 0, self.steer.j == self.steer.s
            self._probed(np.flatnonzero(probed))
            self._ended(np.flatnonzero(ended), point, out)
            if not len(self.steer.run):
                return self.result
            point, turn = self._advance(turn), 1 - turn

    def _on_device(self, values: np.ndarray) -> Tensor:
        dtype = self.slots.dtype if values.dtype.kind == "f" else None
        return torch.as_tensor(values, dtype=dtype, device=self.slots.device)

    def _advance(self, turn: int) -> Tensor:
        """The next stage of every run on its way, or its next probe, (B, P)."""
        steer = self.steer
        probing = steer.probes > 0
        c = steer.table[np.arange(len(steer.j)), np.where(probing, 0, steer.j)]
        c = c[:, [0, 2, 1, 3, 4]] if turn else c.copy()  # the older stage lies in slot 2 − turn
        c[:, 3:] *= steer.h[:, None]
        c[probing] = 0.0
        point = torch.bmm(self._on_device(c).unsqueeze(1), self.slots).squeeze(1)
        if probing.any():
            rows = self._on_device(np.flatnonzero(probing))
            point[rows] = self.slots[rows, 0] + self.reach[rows] * self.probe[rows]
        steer.j[~probing] += 1
        self.slots[:, 2 - turn] = point
        return point

    def _probed(self, rows: np.ndarray) -> None:
        """One power iteration: −∇F(Y₀ + εv) + ∇F(Y₀) ≈ −ε ∇²F v."""
        if not len(rows):
            return
        steer, at = self.steer, self._on_device(rows)
        change = self.slots[at, 3] - self.slots[at, 4]
        growth = change.norm(dim=1, keepdim=True)
        self.probe[at] = change / growth.clamp(min=torch.finfo(change.dtype).tiny)
        radius = (growth / self.reach[at]).squeeze(1).double().cpu().numpy()
        radius = np.where(np.isfinite(radius), radius, steer.radius[rows])
        steer.probes[rows] = np.where(rkc.settled(radius, steer.radius[rows]), 0, steer.probes[rows] - 1)
        steer.radius[rows] = radius
        self._begin(rows[steer.probes[rows] == 0])

    def _begin(self, rows: np.ndarray) -> None:
        """Choose the stages of the next step, or a shorter step where it would need too many."""
        steer = self.steer
        h = rkc.next_step(steer.h[rows], steer.radius[rows], steer.T[rows] - steer.t[rows])
        steer.h[rows] = h
        for row, z in zip(rows, h * rkc.RADIUS_SAFETY * steer.radius[rows], strict=True):
            steer.s[row] = s = rkc.stages_for(z)
            steer.table[row, :s] = rkc.coefficients(s)
        steer.j[rows] = 0

    def _ended(self, rows: np.ndarray, point: Tensor, out: Tensor) -> None:
        """Accept or reject the steps that are complete, observe, and let runs that are done leave."""
        if not len(rows):
            return
        steer, at = self.steer, self._on_device(rows)
        error = self._error(rows, at, point, out[at])
        good = error <= 1  # not for NaN
        accepted, refused = rows[good], rows[~good]
        if len(accepted):
            at_good = self._on_device(accepted)
            self._observe(accepted, point)
            self.slots[at_good, 0] = point[at_good]
            self.slots[at_good, 4] = self.slots[at_good, 3]
            steer.t[accepted] += steer.h[accepted]
            steer.steps[accepted] += steer.h[accepted] > 0
            steer.h[accepted] = rkc.after_success(steer.h[accepted], error[good], steer.failures[accepted])
            steer.failures[accepted] = 0
        if len(refused):
            steer.rejected[refused] += 1
            steer.failures[refused] += 1
            steer.h[refused] = rkc.after_failure(steer.h[refused], error[~good], steer.failures[refused])
            self.slots[self._on_device(refused), 1:4] = 0.0  # may hold NaN
        first = steer.radius[rows] == 0
        due = rkc.probes_due(steer.steps[rows], steer.failures[rows])
        steer.probes[rows] = np.where(first, rkc.FIRST_PROBES, due)
        steer.j[rows] = 0
        self._begin(rows[steer.probes[rows] == 0])
        self._leave(rows, good, out)

    def _error(self, rows: np.ndarray, at: Tensor, point: Tensor, out: Tensor) -> np.ndarray:
        """Estimated error of the step over its tolerance, (k,); NaN where a value is not finite.

        The defect 0.8 (Y₀ − Y) + 0.4 h (F₀ + F) is RKC2's embedded estimate.
        """
        new = point[at]
        slots = self.slots if len(rows) == len(self.slots) else self.slots[at]  # no copy of all runs
        old, _, _, f, f0 = slots.unbind(1)  # (k, P)
        h = self._on_device(0.4 * self.steer.h[rows]).unsqueeze(1)
        defect = (f0 + f).mul_(h).add_(old, alpha=0.8).sub_(new, alpha=0.8)
        tiny = torch.finfo(new.dtype).tiny
        size = defect.norm(dim=1)
        length = torch.maximum(old.norm(dim=1), new.norm(dim=1)).clamp(min=tiny)
        weight = (self.objective.w0[at] + new).norm(dim=1).clamp(min=tiny)
        error = size / length * (self.objective.features * length / weight).clamp(min=1.0)
        allowed = self.objective.error_size(out, at).clamp(min=tiny)
        curvature, radius = self.objective.curvature, self.steer.radius[rows]
        slope = np.sqrt(radius / curvature) if curvature else np.full(len(rows), np.inf)  # ≥ ‖Dh‖
        bound = self._on_device(slope) * size / allowed
        unsure = torch.nonzero(bound > error).squeeze(1)
        if len(unsure):
            of_outputs = self.objective.moved(point, defect[unsure], at[unsure]) / allowed[unsure]
            error[unsure] = torch.maximum(error[unsure], of_outputs)
        error = torch.where(torch.isfinite(allowed), error, torch.nan)
        error = (error / self.rtol).double().cpu().numpy()
        return np.where(np.isfinite(error), error, np.nan)

    def _observe(self, rows: np.ndarray, point: Tensor) -> None:
        """Measures at the observation times inside the steps just accepted, by cubic Hermite interpolation."""
        steer = self.steer
        if not steer.times.shape[1]:
            return
        pairs = []  # (row, column) of every observation that is due
        for row in rows:
            end = steer.t[row] + steer.h[row]
            end = np.inf if end >= steer.T[row] * rkc.END else end
            last = np.searchsorted(steer.times[row], end, side="right")
            pairs += [(row, column) for column in range(steer.next[row], last)]
            steer.next[row] = last
        if not pairs:
            return
        chosen, columns = np.array(pairs).T
        at, h = self._on_device(chosen), steer.h[chosen]
        theta = np.clip((steer.times[chosen, columns] - steer.t[chosen]) / np.where(h > 0, h, 1.0), 0, 1)
        weights = self._on_device(rkc.hermite(theta, h)).unsqueeze(1)  # (k, 1, 4)
        states = torch.stack([self.slots[at, 0], point[at], self.slots[at, 4], self.slots[at, 3]], dim=1)
        u, local = torch.bmm(weights, states).squeeze(1), steer.run[chosen]
        self.result.record(local, columns, self.observe(u, self.runs[local]))

    def _leave(self, rows: np.ndarray, good: np.ndarray, out: Tensor) -> None:
        """Runs at their end, or beyond hope, hand in their result and leave the batch."""
        steer, result = self.steer, self.result
        status = np.full(len(steer.run), "", dtype="<U8")
        status[rows[steer.evals[rows] >= self.max_evals]] = "stalled"
        lost = rows[~good]
        lost = lost[
            (steer.failures[lost] >= rkc.MAX_FAILURES) | (steer.radius[lost] == 0)
        ]  # or at the very first evaluation
        if len(lost):
            overflow = ~torch.isfinite(out[self._on_device(lost)]).all(1).cpu().numpy()
            status[lost] = np.where(overflow, "diverged", "stalled")
        at_T = rows[steer.t[rows] >= steer.T[rows] * rkc.END]
        status[at_T] = "stalled" if self.objective.ends else "reached"  # its own end counts, and T is a budget
        if self.objective.ends:
            whole = rows[good]
            status[whole[self.objective.ended(out)[self._on_device(whole)].cpu().numpy()]] = "reached"
        done = status != ""
        if not done.any():
            return
        local, at, to = steer.run[done], self._on_device(np.flatnonzero(done)), self._on_device(steer.run[done])
        result.u[to], result.loss[to] = self.slots[at, 0], self.objective.loss(out)[at]
        result.time[local], result.status[local] = steer.t[done], status[done]
        for name in ("evals", "steps", "rejected"):
            getattr(result, name)[local] = getattr(steer, name)[done]
        keep = self._on_device(np.flatnonzero(~done))
        self.slots, self.probe = self.slots[keep], self.probe[keep]
        self.reach = self.reach[keep]
        steer.keep(~done)
        if len(keep):
            self.objective = self.objective.select(keep)
