"""The hand-derived gradients against autograd, and the displacement form against cancellation."""

import pytest
import torch

from lazylib.nets import Deep, TwoLayer
from lazylib.objectives import SquareLoss, square_loss
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
