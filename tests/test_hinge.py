"""The soft hinge loss: its slope, the end at the margin, and frozen kernels against the tangent net."""

import functools
import importlib
import math

import numpy as np
import pytest
import torch

from lazylib.flows import course, gradient_flow, train_frozen
from lazylib.measures import tangent_kernel
from lazylib.nets import FullyConnected, TwoLayer, tangent
from lazylib.objectives import frozen_kernel, soft_hinge
from lazylib.objectives.hinge import BETA
from tests.test_deep import F64, classes, inputs


@pytest.fixture
def runs():
    net = FullyConnected(6, 20, 2)
    return net, net.init([0, 1], dtype=F64), inputs(15), classes(15)


def test_slope_is_the_derivative_of_the_loss(runs):
    net, w0, x, y = runs
    objective = soft_hinge(net, w0, x, y, [0.5, 3.0])
    out = torch.linspace(-3, 3, 30, dtype=F64).view(2, 15).requires_grad_()
    grad = torch.autograd.grad(objective.loss(out).sum(), out)[0]
    assert torch.allclose(objective.slope(out) / (15 * objective.alpha[:, None] ** 2), grad)
    zero = objective.loss(torch.zeros(2, 15, dtype=F64))
    assert torch.allclose(zero * objective.alpha**2, torch.ones(2, dtype=F64), atol=1e-8)  # softplus(1) = 1


def test_a_course_is_the_flow_and_its_end(runs):
    net, w0, x, y = runs
    objective = soft_hinge(net, w0, x, y, [0.5, 3.0])
    times = np.array([0.1, 0.5, 1e3])

    def observe(u, rows):
        return {"F": objective.select(torch.as_tensor(rows)).outputs(u), "u": u.norm(dim=1)}

    flow, seen = course(objective, times, observe)
    plain = gradient_flow(objective, times=times, observe=observe)
    assert flow.reached.all() and (flow.time > 0.5).all() and (flow.time < 1e3).all()
    assert seen["F"].shape == (2, 4, 15) and seen["u"].shape == seen["t"].shape == (2, 4)
    np.testing.assert_array_equal(seen["F"][:, :2], plain.observed["F"][:, :2])
    np.testing.assert_array_equal(seen["t"], np.c_[[times[:2]] * 2, flow.time, flow.time])
    end = objective.outputs(flow.u).numpy()
    np.testing.assert_array_equal(seen["F"][:, 2:], np.stack([end, end], 1))
    assert np.isnan(plain.observed["F"][:, 2]).all()  # what it is for


def test_training_with_a_frozen_kernel_is_the_flow_of_its_objective(runs, monkeypatch):
    net, w0, x, y = runs
    kernel, cross = tangent_kernel(net, w0, x)[0], tangent_kernel(net, w0, inputs(7, seed=2), x)[0]
    objective = frozen_kernel(kernel, y)
    F = train_frozen(kernel, cross, y)
    torch.testing.assert_close(F, objective.predict(gradient_flow(objective).u, cross)[0])
    assert ((train_frozen(kernel, kernel, y) * y) > 0.99).all() and not torch.allclose(
        train_frozen(kernel, cross, -y), F
    )
    brief = functools.partial(gradient_flow, max_evals=500)  # of a run without an end
    monkeypatch.setattr(importlib.import_module("lazylib.flows.flow"), "gradient_flow", brief)
    both = torch.ones(2, 2, dtype=F64)  # one kernel for both classes: no margin can be reached
    assert train_frozen(both, both, torch.tensor([1.0, -1.0])).isnan().all()


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_a_run_ends_as_soon_as_every_margin_is_reached(runs, margin):
    net, w0, x, y = runs
    objective = soft_hinge(net, w0, x, y, 3.0, margin=margin)
    times = [0.0, *[10.0**k for k in range(-2, 7)]]
    flow = gradient_flow(objective, 1e6, times=times, observe=lambda u, r: {"F": objective.select(r).outputs(u)})
    assert flow.reached.all() and (flow.time < 1e5).all()
    least = (objective.outputs(flow.u) * y).min(1).values
    assert (least > margin).all() and (least < margin + 0.5).all()  # it is judged at the ends of steps
    before = torch.as_tensor(flow.observed["F"]) * y  # NaN after the end
    for row in range(2):
        seen = before[row][torch.as_tensor(flow.times[row] < 0.5 * flow.time[row])]
        assert len(seen) > 2 and (seen.min(1).values < margin).all()
        assert torch.isnan(before[row][torch.as_tensor(flow.times[row] > flow.time[row])]).all()


def test_without_a_margin_the_flow_goes_to_T_and_with_one_T_is_a_budget(runs):
    net, w0, x, y = runs
    flow = gradient_flow(soft_hinge(net, w0, x, y, 3.0, margin=None), 1e5)
    assert flow.reached.all() and (flow.time == 1e5).all()
    short = gradient_flow(soft_hinge(net, w0, x, y, 3.0), 0.1)
    assert (short.status == "stalled").all() and (short.time == 0.1).all()


def test_without_centring_the_initial_output_counts(runs):
    net, w0, x, y = runs
    assert torch.allclose(soft_hinge(net, w0, x, y, 3.0, centred=False).outputs(0 * w0), 3 * net(w0, x))
    assert torch.equal(soft_hinge(net, w0, x, y, 3.0).outputs(0 * w0), 0 * net(w0, x))


def test_any_net_will_do():
    net = TwoLayer(6, 30, "softplus", scale=30**-0.5)
    x, y = inputs(10), classes(10)
    objective = soft_hinge(net, net.init(1.0, [0, 1], dtype=F64), x, y, 2.0)
    flow = gradient_flow(objective, 1e6)
    assert flow.reached.all() and (objective.outputs(flow.u) * y > 1).all()


def test_a_frozen_kernel_is_the_tangent_net(runs):
    net, w0, x, y = runs
    other = inputs(8, seed=5)
    objective = frozen_kernel(tangent_kernel(net, w0, x), y, margin=None)
    flow = gradient_flow(objective, 20.0, rtol=1e-3)
    test = objective.predict(flow.u, tangent_kernel(net, w0, other, x))
    for row in range(2):
        linear = soft_hinge(tangent(net, w0[row : row + 1]), w0[row : row + 1], x, y, 5.0, margin=None)
        by_weights = gradient_flow(linear, 20.0, rtol=1e-3)
        assert torch.allclose(objective.outputs(flow.u)[row], linear.outputs(by_weights.u)[0], atol=5e-3)
        assert torch.allclose(test[row], linear.outputs(by_weights.u, other)[0], atol=1e-2)


def test_a_frozen_kernel_follows_its_equation_of_motion(runs):
    net, w0, x, y = runs
    theta = tangent_kernel(net, w0, x)[0]
    flow_ = frozen_kernel(theta, y, margin=None)
    flow = gradient_flow(flow_, 2.0, rtol=1e-4)
    F, steps = torch.zeros(15, dtype=F64), 20_000
    for _ in range(steps):
        F += 2.0 / steps * theta @ (y * torch.sigmoid(BETA * (1 - F * y))) / 15
    assert torch.allclose(flow_.outputs(flow.u)[0], F, atol=2e-3)


def test_the_net_tends_to_its_frozen_kernel_as_alpha_grows(runs):
    net, w0, x, y = runs
    objective = frozen_kernel(tangent_kernel(net, w0, x), y)
    frozen = gradient_flow(objective, 1e6, rtol=1e-3)
    assert frozen.reached.all()
    gaps = []
    for alpha in (0.3, 1e4):
        run = soft_hinge(net, w0, x, y, alpha)
        flow = gradient_flow(run, 1e6, rtol=1e-3)
        gaps.append(float((run.outputs(flow.u) - objective.outputs(frozen.u)).abs().max()))
    assert gaps[1] < 0.05 and gaps[1] < 0.2 * gaps[0]


def test_a_singular_kernel_is_trained_on_its_range():
    j = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    objective = frozen_kernel(j @ j.T, classes(12), margin=None)
    flow = gradient_flow(objective, 5.0, rtol=1e-3)
    outputs = objective.outputs(flow.u)[0]
    assert flow.reached.all() and torch.allclose(j @ torch.linalg.pinv(j) @ outputs, outputs, atol=1e-8)
    assert torch.allclose(objective.predict(flow.u, j @ j.T)[0], outputs, atol=1e-8)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(y=torch.zeros(15, dtype=F64)), "entries ±1"),
        (dict(y=torch.ones(14, dtype=F64)), r"y must be \(15,\)"),
        (dict(alpha=0.0), "alpha must be one finite number > 0"),
        (dict(alpha=[1.0, 2.0, 3.0]), "or 2 of them"),
        (dict(alpha=math.inf), "alpha must be one finite"),
        (dict(alpha=1e14), "use float64"),
        (dict(w0=torch.ones(3, dtype=F64)), r"w0 must be \(runs, parameters\)"),
        (dict(x=torch.full((15, 6), math.nan, dtype=F64)), "x must be finite"),
    ],
)
def test_bad_input_gets_one_sentence(runs, wrong, sentence):
    net, w0, x, y = runs
    with pytest.raises(ValueError, match=sentence):
        soft_hinge(net, **{"w0": w0, "x": x, "y": y, "alpha": 1.0, **wrong})


def test_alpha_beyond_single_precision_is_refused(runs):
    net, w0, x, y = runs
    with pytest.raises(ValueError, match="use float64"):
        soft_hinge(net, w0.float(), x.float(), y, 1e5)


def test_a_bad_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel must be"):
        frozen_kernel(torch.ones(3, 4), torch.ones(3))
    with pytest.raises(ValueError, match="must be finite"):
        frozen_kernel(torch.full((3, 3), math.nan), torch.ones(3))


def test_a_run_with_an_end_of_its_own_needs_no_horizon():
    net, x, y = FullyConnected(6, 12, 2), inputs(15), classes(15)
    w0 = net.init([0, 1], dtype=F64)
    objective = soft_hinge(net, w0, x, y, 2.0)
    free, long = gradient_flow(objective), gradient_flow(objective, 1e8)
    assert free.reached.all() and torch.equal(free.u, long.u) and (free.evals == long.evals).all()
    assert objective.ended(objective.outputs(free.u)).all() and not objective.ended(objective.outputs(0 * free.u)).any()
    with pytest.raises(ValueError, match="T, the flow time, must be given"):
        gradient_flow(soft_hinge(net, w0, x, y, 2.0, margin=None))
