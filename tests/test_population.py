"""The population risk in closed form against sampling and against autograd."""

import math

import pytest
import torch

from lazylib.nets import TwoLayer
from lazylib.objectives import arccos_kernel, batch_gradient, population_loss
from lazylib.problems import sphere, teacher_student

F64 = torch.float64


@pytest.fixture
def problem():
    net = TwoLayer(7, 6, scale=1 / 6)
    p = teacher_student([0, 1, 2], d=7, n=5, n_test=5, dtype=F64)
    w0 = net.init([0.5, 1.0, 3.0], [4, 5, 6], dtype=F64)
    return net, p, w0, torch.randn(3, net.size, generator=torch.Generator().manual_seed(0), dtype=F64)


def independent_risk(net, p, w):
    """½ E (h − h*)² of one run by acos instead of atan2, with the diagonal put in by hand; differentiable."""
    a, b = net.split(w)
    a0, b0 = p.teacher_net.split(p.teacher[0])
    c = torch.cat([net.scale * a, -a0])
    v = torch.cat([b, b0])
    norms = v.norm(dim=1)
    off = 1 - torch.eye(len(v), dtype=F64)
    cos = off * (v @ v.T) / (norms[:, None] * norms)  # 0 on the diagonal, where acos has no derivative
    theta = torch.acos(cos)
    k = norms[:, None] * norms * (torch.sin(theta) + (math.pi - theta) * cos) / (2 * math.pi * net.d)
    k = off * k + torch.diag(norms**2 / (2 * net.d))
    return 0.5 * c @ k @ c


def test_risk_agrees_with_monte_carlo_within_its_error_bars(problem):
    net, p, w0, u = problem
    n = 200_000
    x = sphere(n, 7, torch.Generator().manual_seed(1))
    exact = population_loss(net, w0, p.teacher_net, p.teacher).risk(u)
    half = 0.5 * (net(w0 + u, x) - p.teacher_net(p.teacher, x)).square()  # (B, n)
    error = half.std(1) / math.sqrt(n)
    assert ((half.mean(1) - exact).abs() < 4 * error).all()
    assert (error < 0.01 * exact).all()


def test_gradient_agrees_with_monte_carlo_within_its_error_bars(problem):
    net, p, w0, u = problem
    n = 200_000
    x = sphere(n, 7, torch.Generator().manual_seed(2))
    g = population_loss(net, w0, p.teacher_net, p.teacher).gradient(u)[0][1]
    w = (w0 + u)[1]
    a, b = net.split(w)
    pre = x @ b.T
    r = net(w, x) - p.teacher_net(p.teacher[1], x)
    terms = (
        torch.cat([pre.relu(), (a * (pre > 0))[:, :, None].mul(x[:, None]).flatten(1)], 1) * (net.scale * r)[:, None]
    )
    error = terms.std(0) / math.sqrt(n)
    assert ((terms.mean(0) - g).abs() < 5 * error + 1e-12).all()


def test_gradient_and_risk_agree_with_autograd_of_an_independent_formula(problem):
    net, p, w0, u = problem
    w = (w0 + u)[0].requires_grad_()
    risk = independent_risk(net, p, w)
    (expected,) = torch.autograd.grad(risk, w)
    objective = population_loss(net, w0, p.teacher_net, p.teacher)
    g, out = objective.gradient(u)
    assert float((g[0] - expected).abs().max()) < 1e-10
    assert float((out[0, 0] - risk.detach()).abs()) < 1e-12
    weighted = population_loss(net, w0, p.teacher_net, p.teacher, b_metric=7.0).gradient(u)[0]
    assert torch.allclose(weighted[:, :6], g[:, :6]) and torch.allclose(weighted[:, 6:], 7 * g[:, 6:])


def test_the_teacher_itself_has_no_risk_and_no_gradient(problem):
    _, p, _, _ = problem
    objective = population_loss(p.teacher_net, p.teacher, p.teacher_net, p.teacher)
    g, risk = objective.gradient(torch.zeros_like(p.teacher))
    assert risk.abs().max() < 1e-15 and g.abs().max() < 1e-8


def test_kernel_of_a_neuron_with_itself_and_with_its_opposite():
    b = torch.tensor([[3.0, 4.0]], dtype=F64)
    assert float(arccos_kernel(b, b)[0]) == pytest.approx(25 / 4)  # ‖b‖²/(2d)
    assert float(arccos_kernel(b, -b)[0]) == pytest.approx(0, abs=1e-7)


def test_wrong_partners_are_refused(problem):
    net, p, w0, _ = problem
    with pytest.raises(ValueError, match="the teacher must be a TwoLayer ReLU net of d = 7"):
        population_loss(net, w0, TwoLayer(8, 3), p.teacher)
    with pytest.raises(ValueError, match="b_metric must be > 0"):
        population_loss(net, w0, p.teacher_net, p.teacher, b_metric=0.0)


@pytest.fixture
def batch(problem):
    net, p, w0, u = problem
    x = sphere(40, 7, torch.Generator().manual_seed(3))
    return net, w0 + u, x, p.teacher_net(p.teacher, x)


def by_autograd(net, w, x, y, b_metric):
    """Gradient and value of ½ mean (h − y)² on the batch, that of b times b_metric."""
    w = w.detach().requires_grad_()
    loss = 0.5 * (net(w, x) - y).square().mean(1)
    (g,) = torch.autograd.grad(loss.sum(), w)
    return torch.cat([g[:, : net.m], b_metric * g[:, net.m :]], dim=1), loss.detach()


@pytest.mark.parametrize("b_metric", [1.0, 7.0])
def test_gradient_of_a_batch_agrees_with_autograd(batch, b_metric):
    net, w, x, y = batch
    for target in (y, y[0]):  # (B, n), and (n,) shared by all runs
        before = w.clone()
        found = batch_gradient(net, w, x, target, b_metric)
        for here, there in zip(found, by_autograd(net, w, x, target, b_metric), strict=True):
            torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-14)
        assert torch.equal(w, before)


@pytest.mark.parametrize("error", ["b_metric forgotten", "scale forgotten", "teacher of another run"])
def test_an_error_planted_in_the_gradient_of_a_batch_is_seen(batch, error):
    net, w, x, y = batch
    expected = by_autograd(net, w, x, y, 7.0)[0]
    wrong = {
        "b_metric forgotten": (net, w, x, y),
        "scale forgotten": (TwoLayer(net.d, net.m), w, x, y, 7.0),
        "teacher of another run": (net, w, x, y.roll(1, 0), 7.0),
    }[error]
    assert float((batch_gradient(*wrong)[0] - expected).norm() / expected.norm()) > 0.01


def test_a_wrong_batch_is_refused(batch):
    net, w, x, y = batch
    with pytest.raises(ValueError, match="the student must be a TwoLayer ReLU net"):
        batch_gradient(TwoLayer(7, 6, activation="gelu"), w, x, y)
    for wrong in ((w[:, 1:], x, y), (w, x[:, 1:], y), (w, x, y[:, 1:])):
        with pytest.raises(ValueError, match=r"w must be \(B, 48\), x \(n, 7\) and y"):
            batch_gradient(net, *wrong)
    with pytest.raises(ValueError, match="b_metric must be > 0"):
        batch_gradient(net, w, x, y, 0.0)
