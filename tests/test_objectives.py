"""The hand-derived gradients against autograd, and the displacement form against cancellation."""

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from lazylib.flows import gradient_descent, gradient_flow
from lazylib.nets import Deep, TwoLayer, centred, from_module
from lazylib.objectives import SquareLoss, empirical_loss, square_loss
from lazylib.objectives.square import FusedSquareLoss
from lazylib.problems import teacher_student

F64 = torch.float64


def batch(shared: bool, dtype=F64):
    net = TwoLayer(7, 6, scale=0.3)
    p = teacher_student(2 if shared else [0, 1, 2], d=7, n=20, n_test=9, dtype=dtype)
    w0 = net.init([0.5, 1.0, 3.0], [4, 5, 6], dtype=dtype)
    u = torch.randn(3, net.size, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)
    return net, p, w0, u


@pytest.mark.parametrize("shared", [True, False])
def test_fused_gradient_outputs_and_jvp_equal_autograds(shared):
    net, p, w0, u = batch(shared)
    fused, plain = square_loss(net, w0, p.x, p.y), SquareLoss(net, w0, p.x, p.y.expand(3, -1))
    assert isinstance(fused, FusedSquareLoss)
    (g, out), (g_plain, out_plain) = fused.gradient(u), plain.gradient(u)
    assert torch.allclose(g, g_plain, atol=1e-13) and torch.allclose(out, out_plain, atol=1e-13)
    assert g.abs().max() > 1e-3
    v = torch.randn_like(u)
    assert torch.allclose(fused.jvp(u, v), plain.jvp(u, v), atol=1e-13)
    assert torch.allclose(fused.outputs(u, p.x_test), plain.outputs(u, p.x_test), atol=1e-13)
    rows = torch.tensor([2, 0])
    size = plain.jvp(u, v)[rows].square().mean(1).sqrt()
    assert torch.allclose(fused.moved(u, v[rows], rows), size) and torch.allclose(plain.moved(u, v[rows], rows), size)
    fused.gradient(0 * u)  # what it leaves behind belongs to another u
    assert torch.allclose(fused.moved(u, v[rows], rows), size)


@pytest.mark.parametrize("net", [TwoLayer(7, 6, "softplus"), Deep(7, (5, 4), "gelu"), Deep(7, (5, 4))])
def test_any_net_has_the_gradient_of_its_loss(net):
    p = teacher_student([0, 1], d=7, n=20, n_test=9, dtype=F64)
    w0 = net.init([0.5, 1.0], [4, 5], dtype=F64)
    objective, u = square_loss(net, w0, p.x, p.y), 0.1 * torch.randn(2, net.size, dtype=F64)
    g, out = objective.gradient(u)
    h = 1e-6
    for row in range(2):
        for k in (0, net.size // 2, net.size - 1):
            step = torch.zeros_like(u)
            step[row, k] = h
            ahead, behind = (objective.loss(objective.outputs(u + sign * step))[row] for sign in (1, -1))
            assert float(g[row, k]) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-4, abs=1e-8)
    assert torch.allclose(objective.loss(out), 0.5 * (net(w0 + u, p.x) - p.y).square().mean(1))


def test_selected_rows_are_the_same_runs():
    net, p, w0, u = batch(shared=False)
    whole = square_loss(net, w0, p.x, p.y)
    rows = torch.tensor([2, 1])
    part = whole.select(rows)
    assert torch.allclose(part.gradient(u[rows])[0], whole.gradient(u)[0][rows], atol=1e-14)


def test_float32_resolves_a_displacement_a_million_times_smaller_than_w0():
    net, p, w0, u = batch(shared=True)
    w0 = net.init(1e3, [4, 5, 6], symmetrized=True, dtype=F64)
    u = u * 1e-3
    exact = SquareLoss(net, w0, p.x, p.y.expand(3, -1))
    change = exact.outputs(u) - exact.outputs(0 * u)
    single = square_loss(net, w0.float(), p.x.float(), p.y.float())
    fused = (single.outputs(u.float()) - single.outputs(0 * u.float())).double()
    naive = (net((w0 + u).float(), p.x.float()) - net(w0.float(), p.x.float())).double()
    assert (fused - change).abs().max() < 1e-5 * change.abs().max()
    assert (naive - change).abs().max() > 1e-3 * change.abs().max()  # what the displacement form avoids


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (dict(w0=torch.ones(42)), "w0 must be"),
        (dict(x=torch.ones(4, 20, 7)), "x must be"),
        (dict(y=torch.ones(19)), "y must be"),
        (dict(y=torch.full((20,), torch.nan)), "y must be finite"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(spoil, sentence):
    given = dict(w0=torch.ones(3, 48), x=torch.ones(20, 7), y=torch.ones(20)) | spoil
    with pytest.raises(ValueError, match=sentence):
        square_loss(TwoLayer(7, 6), **given)


# ---- nets made from modules, several outputs, any loss ----


def modules():
    torch.manual_seed(0)
    images, tokens = torch.randn(5, 2, 4, 4).double(), torch.randint(6, (5, 3))
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).eval()
    words = nn.Sequential(nn.Embedding(6, 3), nn.LayerNorm(3), nn.Flatten(), nn.Linear(9, 1))
    series = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Flatten(), nn.Linear(9, 2))
    return {
        "images": (conv, images),
        "tokens": (words, tokens),
        "series": (series, torch.randn(5, 3, 4).double()),
        "named": (conv, {"input": images}),
    }


def many(name):
    """A net of a module, two runs of it, its inputs, and h(w) of one run."""
    module, x = modules()[name]
    net, w0 = from_module(module.double())
    return net, torch.stack([w0, 1.1 * w0]), x


@pytest.mark.parametrize("name", ["images", "tokens", "series", "named"])
def test_the_square_loss_of_any_module_has_its_gradient(name):
    net, w0, x = many(name)
    y = torch.randn(net(w0, x).shape, dtype=F64)
    for targets in (y, y[0]):
        objective = square_loss(net, w0, x, targets)
        u = 0.1 * torch.randn_like(w0)
        gradient, out = objective.gradient(u)
        for k in range(2):
            w = (w0[k] + u[k]).requires_grad_()
            goal = targets if targets.dim() < y.dim() else targets[k]
            loss = 0.5 * (net(w, x) - goal).square().sum() / 5  # over outputs the sum, over inputs the mean
            torch.testing.assert_close(objective.loss(out)[k], loss)
            torch.testing.assert_close(gradient[k], torch.autograd.grad(loss, w)[0])
    flow = gradient_flow(objective, 2.0, rtol=1e-4)
    step = next(values for k, *values in gradient_descent(objective, 4e-3) if k == 500)
    torch.testing.assert_close(flow.u, step[0], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "loss", "y"),
    [
        ("images", nnf.cross_entropy, torch.tensor([0, 1, 1, 0, 1])),
        ("tokens", nnf.binary_cross_entropy_with_logits, torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).double()),
        ("series", lambda out, y: (out - y).abs().pow(1.5).mean(), torch.ones(5, 2, dtype=F64)),
    ],
)
def test_any_loss_has_its_gradient_and_flows(name, loss, y):
    net, w0, x = many(name)
    objective = empirical_loss(net, w0, x, y, loss)
    u = 0.1 * torch.randn_like(w0)
    gradient, out = objective.gradient(u)
    for k in range(2):
        w = (w0[k] + u[k]).requires_grad_()
        value = loss(net(w, x), y)
        torch.testing.assert_close(objective.loss(out)[k], value)
        torch.testing.assert_close(gradient[k], torch.autograd.grad(value, w)[0])
    flow = gradient_flow(objective, 2.0, rtol=1e-4)
    step = next(values for k, *values in gradient_descent(objective, 4e-3) if k == 500)
    torch.testing.assert_close(flow.u, step[0], rtol=0.02, atol=1e-3)
    part = objective.select([1])
    torch.testing.assert_close(part.gradient(u[1:])[0], gradient[1:])


def test_one_set_of_inputs_a_run_needs_a_net_that_knows_it():
    module, inputs = nn.Linear(3, 1).double(), torch.randn(2, 5, 3, dtype=F64)
    y = torch.zeros(2, 5, dtype=F64)
    net, w0 = from_module(module, inputs[0])
    w0 = torch.stack([w0, 2 * w0])
    objective = square_loss(net, w0, inputs, y)
    rows = [square_loss(net, w0[k : k + 1], inputs[k], y[k]) for k in range(2)]
    u = torch.ones_like(w0)
    gradient = torch.cat([row.gradient(u[:1])[0] for row in rows])
    torch.testing.assert_close(objective.gradient(u)[0], gradient)
    torch.testing.assert_close(objective.select([1]).gradient(u[:1])[0], gradient[1:])
    with pytest.raises(ValueError, match=r"y must be \(2, 5\) or \(2, 2, 5\), got \(5,\)"):
        square_loss(from_module(module)[0], w0, inputs, y[0])  # shared inputs (2, 5, 3), for all it knows
    with pytest.raises(ValueError, match=r"must give \(2, n\) or \(2, n, k\) outputs, got \(2, 2, 5, 2\); for a set"):
        square_loss(from_module(nn.Linear(3, 2).double())[0], torch.zeros(2, 8, dtype=F64), inputs, y)


@pytest.mark.parametrize("net", [TwoLayer(5, 20, "softplus"), from_module(nn.Linear(5, 1))[0]], ids=["net", "module"])
def test_what_rounding_would_teach_is_refused(net):
    x, w0 = torch.randn(20, 5), torch.randn(1, net.size)
    y = torch.randn(20)
    flow = gradient_flow(square_loss(centred(net, w0), w0, x, y / 1e3), 5.0)
    w, x2 = w0.double(), x.double()
    exact = gradient_flow(square_loss(centred(net, w), w, x2, y.double() / 1e6), 5.0)
    assert (flow.u.double() / 1e3 - exact.u).norm() < 0.05 * exact.u.norm()
    with pytest.raises(ValueError, match=r"rounding of w0 in torch.float32 moves the outputs by .*: use float64"):
        square_loss(centred(net, w0), w0, x, y / 1e6)


def test_a_loss_that_is_not_a_number_is_refused():
    net, w0, x = many("images")
    with pytest.raises(ValueError, match=r"loss must give one finite number .* got shape \(5, 2\)"):
        empirical_loss(net, w0, x, torch.zeros(5, 2), lambda out, y: out - y)
    with pytest.raises(ValueError, match=r"w0 must be \(runs, parameters\)"):
        empirical_loss(net, w0[0], x, torch.zeros(5, 2), nnf.mse_loss)
