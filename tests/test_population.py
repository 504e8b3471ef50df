"""The population risk in closed form against sampling and against autograd."""

import math

import pytest
import torch

from lazylib.nets import TwoLayer
from lazylib.objectives import arccos_kernel, population_loss
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
