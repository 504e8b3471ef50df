"""Flows taken from memory are those that would have run, whatever observes them; of anything else none is taken."""

import numpy as np
import pytest
import torch

from lazylib.flows import gradient_flow
from lazylib.nets import FullyConnected, TwoLayer
from lazylib.objectives import frozen_kernel, soft_hinge, square_loss
from tests import kept_flows

X, Y = torch.randn(12, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, -1.0] * 6)


def hinge(x=X, y=Y):
    net = FullyConnected(d=5, h=6, L=2)
    return soft_hinge(net, net.init(0).expand(2, -1), x, y, torch.tensor([0.1, 10.0]))


def square(x=X, y=Y, activation="relu"):
    net = TwoLayer(5, 4, activation=activation)
    return square_loss(net, net.init([0.3, 1.0], 0, dtype=x.dtype), x, y)


OBJECTIVES = {
    "hinge": hinge,
    "ReLU": square,
    "softplus": lambda x=X, y=Y: square(x, y, "softplus"),
    "kernel": lambda x=X, y=Y: frozen_kernel(x @ x.T + torch.eye(len(x)), y),
}


@pytest.fixture(autouse=True)
def _nothing_kept():
    kept_flows.forget()
    yield
    kept_flows.forget()


def ran(objective, observe, T=3.0, rtol=0.05):
    return gradient_flow(objective, T, times=[0.0, 0.5, T], observe=observe, rtol=rtol)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_flow_from_memory_is_the_one_that_would_have_run(objective, monkeypatch):
    def size(u, runs):
        return {"size": u.norm(dim=1), "runs": torch.as_tensor(runs)}

    def largest(u, runs):
        return {"largest": u.abs().max(1).values}

    plain, other = ran(objective(), size), ran(objective(), largest)
    with kept_flows.keeping():
        ran(objective(), size)
        monkeypatch.setattr("lazylib.flows.batch.Integrator.run", None)  # nothing runs from here on
        monkeypatch.setattr("lazylib.flows.one_run.integrate", None)
    with kept_flows.keeping():
        kept, also = ran(objective(), size), ran(objective(), largest)
    assert torch.equal(kept.u, plain.u) and (kept.status == plain.status).all() and (kept.evals == plain.evals).all()
    for found, right in ((kept, plain), (also, other)):
        assert found.observed.keys() == right.observed.keys()
        for name in right.observed:
            np.testing.assert_allclose(found.observed[name], right.observed[name], rtol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        lambda: ran(square(X + 1e-6), of),
        lambda: ran(square(y=-Y), of),
        lambda: ran(square(activation="softplus"), of),
        lambda: ran(square(), of, T=3.1),
        lambda: ran(square(), of, rtol=0.04),
    ],
    ids=["inputs", "targets", "activation", "time", "tolerance"],
)
def test_whatever_differs_runs_again(changed):
    with kept_flows.keeping():
        ran(square(), of)
        assert len(kept_flows._flows) == 1
        ran(square(), of)
        assert len(kept_flows._flows) == 1
        changed()
        assert len(kept_flows._flows) == 2


def test_who_observes_may_not_forget_which_runs_it_sees():
    objective = square()
    with kept_flows.keeping(), pytest.raises(RuntimeError, match="size"):
        ran(objective, lambda u, runs: {"loss": objective.loss(objective.outputs(u))})


def of(u, runs):
    return {"u": u}
