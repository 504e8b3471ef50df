"""Gradient flow ẇ = −∇F(w) by a stabilized explicit Runge–Kutta method, over a batch of runs.

A gradient flow is a stiff equation with a real spectrum.  Gradient descent crawls along it, its step bounded by
stability (step·λmax < 2) and not by accuracy.  The Runge–Kutta–Chebyshev method (``lazylib.flows.rkc``) covers a step
of 0.65 s²/λmax with s gradients.  ``lazylib.flows.batch`` takes the steps of a batch of any nets on any device,
``lazylib.flows.one_run`` those of two-layer ReLU nets on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..nets.deep import denormals_flushed
from ..objectives._deep_hinge import DeepHinge
from ..objectives._objective import Objective
from ..objectives.hinge import frozen_kernel
from ..objectives.square import FusedSquareLoss
from ..runs._memory import require_memory
from .batch import Flow, Integrator

BLOCK_BYTES = 64 << 20  # on a CPU, what a block of runs works on should stay near the cores


def gradient_flow(
    objective: Objective,
    T=None,
    *,
    times=None,
    observe: Callable[[Tensor, np.ndarray], dict[str, Tensor]] | None = None,
    rtol: float = 0.05,
    max_evals: int = 100_000,
) -> Flow:
    """Integrate u̇ = −∇F(w0 + u) from u = 0 to flow time T, for every run of ``objective``.

    The error of one step may be, in the outputs, rtol times the root mean square of the residual or, where that is
    larger, of the targets; and in the displacement u = w − w0, rtol·‖u‖, or less where u is not small: an error of
    the features stays for good, so the tolerance is divided by 10 ‖u‖/‖w‖ where that exceeds 1.
    The default leaves the test loss at the end within a few per mille of a converged flow in and near the lazy
    regime, and within a few per cent deep in the feature-learning one (measured by ``make bench``).

    Args:
        objective: see ``lazylib.objectives``.
        T: flow time > 0, one number or one a run.  (k steps of gradient descent of size η last T = kη.)  None, the
            default, where the objective has an end of its own.
        times: observation times, (K,) or (B, K), each in [0, T]; states there are interpolated (cubic Hermite).
        observe: function (u (k, P), runs (k,)) → dict of name → (k, …) tensors, the measures at those times;
            ``runs`` says to which runs of the batch the rows of u belong, in no particular order.
        rtol: see above, in [1e-12, 0.5].
        max_evals: a run that needs more gradients than this is "stalled".

    Raises: ValueError for T, times or rtol out of range; MemoryError if the batch does not fit.

    Returns:
        Displacements at the end, what was observed, and how each run ended.

    Source: Sommeijer, Shampine, Verwer 1998, for the method.

    Example:
        >>> import torch
        >>> from lazylib.flows import gradient_flow
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import square_loss
        >>> net, x = TwoLayer(d=1, m=1), torch.tensor([[1.0]])
        >>> objective = square_loss(net, torch.tensor([[1.0, 1.0]]), x, torch.tensor([4.0]))
        >>> flow = gradient_flow(objective, T=10.0, times=[0.0, 10.0], observe=lambda u, runs: {"a": 1 + u[:, 0]})
        >>> flow.status, flow.observed["a"].round(2)  # a = b = 2 fits a·b = 4
        (array(['reached'], dtype='<U8'), array([[1., 2.]]))
    """
    T = _horizons(T, objective)
    times = _observation_times(times, T)
    if not 1e-12 <= rtol <= 0.5:
        raise ValueError(f"rtol must lie between 1e-12 and 0.5, got {rtol}.")
    if times.shape[1] and observe is None:
        raise ValueError("times were given but no function to observe at them; pass observe=….")
    if not (isinstance(max_evals, int) and max_evals >= 1):
        raise ValueError(f"max_evals must be a whole number ≥ 1, got {max_evals!r}.")
    device, block = objective.w0.device, objective.runs
    if device.type == "cpu":
        block = max(1, min(block, BLOCK_BYTES // objective.bytes_per_run))
    needed = block * (objective.bytes_per_run + 8 * objective.size * objective.w0.element_size())
    require_memory(needed, f"a batch of {block} runs", device)
    parts = []
    for start in range(0, objective.runs, block):
        runs = np.arange(start, min(start + block, objective.runs))
        part = objective if block == objective.runs else objective.select(torch.as_tensor(runs, device=device))
        arguments = runs, T[runs], times[runs], observe, rtol, max_evals
        if device.type == "cpu" and isinstance(part, FusedSquareLoss):
            from .one_run import integrate  # loads a compiler

            parts.append(integrate(part, *arguments))
            continue
        with denormals_flushed() if isinstance(part, DeepHinge) else contextlib.nullcontext():
            parts.append(Integrator(part, *arguments).run())
    return _join(parts)


def course(objective: Objective, times, observe, **options) -> tuple[Flow, dict[str, np.ndarray]]:
    """`gradient_flow` seen at times on the way and at its end, from where on a run stays where it is.

    Args:
        objective, times, observe, options: as for `gradient_flow`.

    Returns:
        The flow, and what was observed, name → (B, K + 1, …): at the times, or as at the end of the run where that
        comes before, and last at the end itself; with "t", the flow times.

    Raises: as `gradient_flow` does.

    Example:
        One image with tangent kernel 1 and the margin 1 reaches F = 1; the last two columns are the end.

        >>> import torch
        >>> from lazylib.flows import course
        >>> from lazylib.objectives import frozen_kernel
        >>> objective = frozen_kernel(torch.ones(1, 1), torch.ones(1))
        >>> flow, seen = course(objective, [0.5, 9.0], lambda u, runs: {"F": objective.outputs(u)[:, 0]}, rtol=0.01)
        >>> seen["t"].round(1), seen["F"].round(1)
        (array([[0.5, 1.1, 1.1]]), array([[0.5, 1. , 1. ]]))
    """
    flow = gradient_flow(objective, times=times, observe=observe, **options)
    seen = {"t": np.c_[np.minimum(flow.times, flow.time[:, None]), flow.time]}
    for name, value in observe(flow.u, np.arange(objective.runs)).items():
        on_the_way, last = flow.observed[name], torch.as_tensor(value).detach().cpu().numpy()[:, None]
        past = (flow.times > flow.time[:, None]).reshape(flow.times.shape + (1,) * (last.ndim - 2))
        seen[name] = np.concatenate([np.where(past, last, on_the_way), last], axis=1)
    return flow, seen


def train_frozen(kernel: Tensor, cross: Tensor, y: Tensor, rtol: float = 0.05) -> Tensor:
    """Outputs on other inputs after training with a frozen kernel (``frozen_kernel``) until every margin exceeds 1.

    Args:
        kernel: Θ between the training inputs, (n, n).
        cross: Θ between the other inputs and the training inputs, (m, n).
        y: classes ±1, (n,).
        rtol: as for `gradient_flow`.

    Returns:
        (m,), float64; NaN if the flow came to no end.

    Raises: as ``frozen_kernel`` does.

    Source: Geiger, Spigler, Jacot, Wyart 2020, section 4.

    Example:
        An input whose kernel with the only training image is half of that image's own has half of its output.

        >>> import torch
        >>> from lazylib.flows import train_frozen
        >>> train_frozen(torch.ones(1, 1), torch.tensor([[1.0], [0.5]]), torch.ones(1), rtol=0.01).numpy().round(1)
        array([1. , 0.5])
    """
    objective = frozen_kernel(kernel, y)
    flow = gradient_flow(objective, rtol=rtol)
    F = objective.predict(flow.u, cross)[0]
    return F if flow.reached.all() else torch.full_like(F, torch.nan)


def _horizons(T, objective: Objective) -> np.ndarray:
    runs = objective.runs
    if T is None:
        if not objective.ends:
            raise ValueError("T, the flow time, must be given, for this objective has no end of its own.")
        return np.full(runs, np.inf)
    T = np.asarray(T.cpu() if isinstance(T, Tensor) else T, dtype=float)
    if T.shape not in ((), (runs,)):
        raise ValueError(f"T must be one number or {runs} of them, one a run, got shape {T.shape}.")
    if not (np.isfinite(T).all() and (T > 0).all()):
        raise ValueError(f"T must be finite and > 0, got {T.tolist()}.")
    return np.broadcast_to(T, (runs,)).copy()


def _observation_times(times, T: np.ndarray) -> np.ndarray:
    if times is None:
        return np.empty((len(T), 0))
    times = np.asarray(times, dtype=float)
    if times.ndim not in (1, 2) or times.shape[-1] == 0 or (times.ndim == 2 and len(times) != len(T)):
        raise ValueError(f"times must be (K,) or ({len(T)}, K) with K ≥ 1, got shape {times.shape}.")
    times = np.broadcast_to(times, (len(T), times.shape[-1]))
    if not ((times >= 0) & (times <= T[:, None] * (1 + 1e-12))).all() or (np.diff(times, axis=1) < 0).any():
        raise ValueError("times must be sorted and lie in [0, T] of their run.")
    return times


def _join(parts: list[Flow]) -> Flow:
    def glue(values: list):
        return (torch.cat if isinstance(values[0], Tensor) else np.concatenate)(values)

    names = [name for name in vars(parts[0]) if name != "observed"]
    flow = Flow(**{name: glue([getattr(p, name) for p in parts]) for name in names})
    start = 0
    for part in parts:
        stop = start + len(part.status)
        for name, value in part.observed.items():
            if name not in flow.observed:
                flow.observed[name] = np.full((len(flow.status), *value.shape[1:]), np.nan)
            flow.observed[name][start:stop] = value
        start = stop
    return flow
