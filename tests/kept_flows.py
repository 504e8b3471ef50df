"""Gradient flows that have run before, taken from memory: for tests that plant errors in what is measured of them.

A flow depends on its objective, its times and its tolerance, not on what is observed on the way. Its states at the
times are kept, and whatever observes them later is called on them.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
import torch

from lazylib.flows import batch, one_run
from lazylib.runs.cell_key import identity

LARGEST = 8 << 20  # bytes of the states of a flow that is kept
SCRATCH = {"p", "z", "delta", "layers", "relu", "gated", "_latest"}  # of lazylib's objectives: what they write over

_flows = dict[bytes, batch.Flow]()


def forget() -> None:
    """Let the flows of another chapter go."""
    _flows.clear()


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Flows on a CPU are kept inside the block, and taken from those that are."""
    integrate = one_run.integrate

    class Integrator:
        def __init__(self, *arguments):
            self.arguments = arguments

        def run(self):
            return _flow(lambda *arguments: batch.Integrator(*arguments).run(), *self.arguments)

    with (
        mock.patch("lazylib.flows.flow.Integrator", Integrator),
        mock.patch("lazylib.flows.one_run.integrate", lambda *arguments: _flow(integrate, *arguments)),
    ):
        yield


def _flow(integrate: Callable, objective, runs, T, times, observe, rtol, max_evals) -> batch.Flow:
    """As `integrate` would give, with states from memory where there are some."""
    states = times.size * objective.size * objective.w0.element_size()
    scratch = SCRATCH if type(objective).__module__.startswith("lazylib.") else ()
    content = {name: value for name, value in vars(objective).items() if name not in scratch}
    constants = objective.features, objective.curvature, objective.ends
    try:
        key = identity([type(objective), constants, content, T, times, rtol, max_evals], {})
    except TypeError:  # it holds something that has no value to know it by
        key = b""
    if not key or states > LARGEST:
        return integrate(objective, runs, T, times, observe, rtol, max_evals)
    if key not in _flows:
        _flows[key] = integrate(objective, runs, T, times, lambda u, _: {"u": u}, rtol, max_evals)
    kept = _flows[key]
    flow = replace(kept, u=kept.u.clone(), loss=kept.loss.clone(), observed={})
    for column in range(times.shape[1]):
        seen = kept.observed["u"][:, column] if kept.observed else np.full((len(T), 1), np.nan)
        rows = np.flatnonzero(np.isfinite(seen[:, 0]))
        # In no order and not all at once, as the runs of a batch come: who observes may not rely on either.
        for part in filter(len, (rows[1::2], rows[::2][::-1])):
            flow.record(part, column, observe(torch.as_tensor(seen[part]).to(objective.w0), runs[part]))
    return flow
