"""The differential of two-layer nets, the tangent model's path, the solver's error: against Jacobians and formulas."""

import numpy as np
import pytest
import torch

from lazylib.flows import flow_error, gradient_flow
from lazylib.measures import (
    differential,
    early_gap,
    jacobian_norm,
    tangent_path,
    two_layer_differential,
)
from lazylib.nets import Deep, TwoLayer, from_module
from lazylib.objectives import square_loss
from lazylib.problems import teacher_student

F64 = torch.float64
NETS = [TwoLayer(4, 6, "softplus", scale=0.3), TwoLayer(4, 6, "gelu"), TwoLayer(4, 6)]


def case(net, n=9):
    problem = teacher_student(0, d=net.d, n=n, n_test=1, dtype=F64)
    return net.init(1.0, [0, 1, 2], dtype=F64), problem.x, problem.y


def jacobian(net, w, x):
    return torch.func.jacrev(lambda v: net(v, x))(w)  # (n, P)


def rms(outputs):
    return outputs.square().mean(-1).sqrt()


# ---- the differential ----


@pytest.mark.parametrize("dense", [differential.DENSE, 0])
@pytest.mark.parametrize("net", NETS, ids=str)
def test_the_norms_are_those_of_the_jacobian(net, dense, monkeypatch):
    monkeypatch.setattr(differential, "DENSE", dense)
    w, x, _ = case(net)
    first, rest = two_layer_differential(net, w[0], x), two_layer_differential(net, w, x)
    norms = [float(torch.linalg.matrix_norm(jacobian(net, v, x), 2)) / 3 for v in w]  # over √n = 3
    turned = float(torch.linalg.matrix_norm(jacobian(net, w[1], x) - jacobian(net, w[0], x), 2)) / 3
    assert rest.norm().tolist() == pytest.approx(norms, rel=1e-9)
    assert (rest - first).norm().tolist()[:2] == pytest.approx([0, turned], rel=1e-9)
    assert float(first.norm()) == pytest.approx(jacobian_norm(lambda v: net(v, x), w[0]).value, rel=1e-7)
    assert rest.norm().tolist() != pytest.approx([2 * norm for norm in norms], rel=0.1)  # not of 2h


def test_a_differential_acts_as_the_jacobian_does():
    net = NETS[0]
    w, x, _ = case(net)
    d, u = two_layer_differential(net, w[0], x), w[1]
    alpha, beta = net.split(u)
    acts = alpha @ d.hidden + (d.gates * (beta @ x.T)).sum(0)
    torch.testing.assert_close(acts, jacobian(net, w[0], x) @ u)


def test_what_does_not_fit_a_two_layer_net_is_refused():
    net = NETS[0]
    w, x, _ = case(net)
    for args in ((w[:, 1:], x), (w, x[:, 1:]), (w, x[0])):
        with pytest.raises(ValueError, match=r"w and x must be \(…, 30\) and \(n, 4\)"):
            two_layer_differential(net, *args)
    with pytest.raises(ValueError, match="finite"):
        two_layer_differential(net, w * torch.nan, x).norm()


# ---- the tangent model's path ----


@pytest.mark.parametrize("net", [NETS[1], Deep(4, (3, 2), "gelu")], ids=str)
def test_the_path_is_the_flow_of_the_tangent_model(net):
    w, x, y = case(net)
    goals, times = torch.stack([y, -2 * y]), [0.0, 0.5, 2.0]
    u, h = tangent_path(net, w[0], x, goals, times)
    slope, h0 = jacobian(net, w[0], x), net(w[0], x)
    torch.testing.assert_close(h, h0 + u @ slope.T)  # outputs belong to displacements
    assert not u[:, 0].any() and u.shape == (2, 3, net.size)
    steps = 20_000
    v = torch.zeros_like(u[:, 0])
    for _ in range(steps):  # Euler's method up to the last time
        v = v - 2.0 / steps * (h0 + v @ slope.T - goals) @ slope / len(x)
    torch.testing.assert_close(u[:, 2], v, rtol=1e-3, atol=1e-4)


def test_targets_must_have_a_row_for_each_path():
    w, x, y = case(NETS[0])
    for wrong in (y, y[None, 1:], y[None][:0]):
        with pytest.raises(ValueError, match=r"y must be \(B, 9\), a row for each path"):
            tangent_path(NETS[0], w[0], x, wrong, [1.0])
    with pytest.raises(ValueError, match="T must be ≥ 0"):
        tangent_path(NETS[0], w[0], x, y[None], [-1.0])


@pytest.mark.parametrize("net", NETS[:2], ids=str)
def test_the_gap_starts_as_predicted(net):
    w, x, y = case(net)
    goals = torch.stack([y, 3 * y])
    rate = early_gap(net, w[0], x, goals)
    t = 1e-3
    flow = gradient_flow(square_loss(net, w[0].repeat(2, 1), x, goals), t, rtol=1e-10)
    outputs = torch.stack([net(w[0] + u, x) for u in flow.u])
    gap = rms(outputs - tangent_path(net, w[0], x, goals, [t])[1][:, 0])
    assert (gap / t**2).tolist() == pytest.approx(rate.tolist(), rel=0.02)
    assert float(early_gap(net, w[0], x, y)) == pytest.approx(float(rate[0]))


def test_the_gap_of_a_module_with_layer_norm():
    """Against the same by reverse mode twice, with no forward mode."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 5), torch.nn.LayerNorm(5), torch.nn.Tanh(), torch.nn.Linear(5, 1)
    net, w0 = from_module(torch.nn.Sequential(*layers).double())
    x, y = case(NETS[0])[1:]
    velocity = -jacobian(net, w0, x).T @ (net(w0, x) - y) / len(x)

    def speed(w):  # ḣ at w
        slope = torch.func.jacrev(lambda v: net(v, x))(w)
        return -slope @ (slope.T @ (net(w, x) - y)) / len(x)

    second = torch.func.jacrev(speed)(w0) @ velocity
    kernel = jacobian(net, w0, x) @ jacobian(net, w0, x).T / len(x)
    expected = 0.5 * rms(second - kernel @ (kernel @ (net(w0, x) - y)))
    torch.testing.assert_close(early_gap(net, w0, x, y), expected, rtol=1e-10, atol=0)


# ---- the error of the solver ----


def test_the_error_follows_the_tolerance_and_a_wrong_answer_is_seen():
    net = NETS[1]
    w, x, y = case(net)
    times = [0.5, 2.0]
    u, h = (part[0] for part in tangent_path(net, w[0], x, y[None], times))
    loose, tight = (np.array(flow_error(net, w[0], x, y, times, (u, h), rtol=rtol)) for rtol in (1e-2, 1e-8))
    assert (tight < 1e-5).all() and (tight < 0.1 * loose).all() and tight.shape == (2, 2)
    planted = np.array(flow_error(net, w[0], x, y, times, (1.01 * u, h), rtol=1e-8))
    assert planted[0] == pytest.approx([0.01 / 1.01] * 2, rel=1e-2) and planted[1] == pytest.approx(tight[1])


def test_the_answer_must_fit():
    w, x, y = case(NETS[1])
    u, h = (part[0] for part in tangent_path(NETS[1], w[0], x, y[None], [1.0, 2.0]))
    for exact in ((u[:1], h), (u, h[:, 1:])):
        with pytest.raises(ValueError, match=r"exact must be \(2, 30\) and \(2, 9\), a row a time"):
            flow_error(NETS[1], w[0], x, y, [1.0, 2.0], exact)
