"""Measures of laziness against full Jacobians, signs counted one by one, and numbers written out."""

import math

import pytest
import torch
from torch import nn

from lazylib import activation_stability, kernel_change
from lazylib.measures import laziness, preactivation_speed, relative_displacement
from lazylib.nets import Deep, FullyConnected, Scaled, TwoLayer
from lazylib.objectives import soft_hinge, square_loss
from lazylib.problems import null_risk

F64 = torch.float64
NETS = [
    TwoLayer(4, 6, scale=0.3),
    TwoLayer(4, 6, "softplus"),
    Deep(4, (5, 3)),
    FullyConnected(4, 6, 2),
    FullyConnected(4, 6, 3, "relu", bias=0.5),
]
RELU = [TwoLayer(4, 6), FullyConnected(4, 6, 1, "relu"), FullyConnected(4, 6, 3, "relu", bias=0.5)]


def points(n, d, seed=0, dtype=F64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def starts_and_ends(net, dtype=F64):
    """Parameters (3, P) each, no two starts alike, each end five times as far as the one before."""
    w0, way = points(3, net.size, 1, dtype), points(3, net.size, 2, dtype)
    return w0, w0 + torch.tensor([[0.1], [0.5], [2.5]], dtype=dtype) * way


def gram(net, w, x):
    """The tangent kernel from one gradient an input."""
    rows = []
    for point in x:
        v = w.clone().requires_grad_()
        rows.append(torch.autograd.grad(net(v, point[None])[0], v)[0])
    jacobian = torch.stack(rows)  # (n, P)
    return jacobian @ jacobian.T


def change_by_hand(net, w0, w, x):
    before, after = gram(net, w0, x).flatten().tolist(), gram(net, w, x).flatten().tolist()
    return math.hypot(*(k - k0 for k, k0 in zip(after, before, strict=True))) / math.hypot(*before)


def shares_by_hand(net, w0, w, x):
    """Pairs of a unit and an input, one by one: is the unit on, or is it not?"""

    def on(w):
        for point in x.tolist():
            z = point
            if isinstance(net, TwoLayer):
                layers = [(net.split(w)[1], None, 1.0)]
            else:
                layers = [(*layer, c) for layer, c in zip(net.split(w)[:-1], net.factors, strict=False)]
            for weight, bias, c in layers:
                shifts = [0.0] * len(weight) if bias is None else (net.bias * bias).tolist()
                p = [
                    c * sum(a * b for a, b in zip(row, z, strict=True)) + s
                    for row, s in zip(weight.tolist(), shifts, strict=True)
                ]
                z = [max(value, 0.0) for value in p]
                yield from (value > 0 for value in p)

    pairs = list(zip(on(w0), on(w), strict=True))
    return sum(before == after for before, after in pairs) / len(pairs)


# ---- the tangent kernel ----


@pytest.mark.parametrize("net", NETS, ids=str)
def test_kernel_change_is_that_of_the_gram_matrices_of_gradients(net):
    (w0, w), x = starts_and_ends(net), points(7, 4)
    expected = [change_by_hand(net, a, b, x) for a, b in zip(w0, w, strict=True)]
    assert kernel_change(net, w0, w, x).tolist() == pytest.approx(expected, rel=1e-9)
    assert len({round(value, 3) for value in expected}) == 3  # a row taken for another one would show


@pytest.mark.parametrize("net", [NETS[0], NETS[3]], ids=str)
def test_a_shared_start_is_every_rows_start(net):
    (w0, w), x = starts_and_ends(net), points(7, 4)
    expected = [change_by_hand(net, w0[0], row, x) for row in w]
    for start in (w0[0], w0[:1], w0[:1].expand(3, -1)):
        assert kernel_change(net, start, w, x).tolist() == pytest.approx(expected, rel=1e-9)


def test_kernel_change_of_one_net_has_no_dimension():
    net, x = NETS[0], points(7, 4)
    w0, w = (part[0] for part in starts_and_ends(net))
    for start in (w0, w0[None]):
        assert kernel_change(net, start, w, x).shape == ()
        assert float(kernel_change(net, start, w, x)) == pytest.approx(change_by_hand(net, w0, w, x), rel=1e-9)
    assert kernel_change(net, w0, w[None], x).shape == (1,)


def test_the_kernel_grows_with_the_square_of_the_weights_of_a_two_layer_net():
    net, x = TwoLayer(4, 6), points(7, 4)
    w0 = points(1, net.size)[0]
    assert float(kernel_change(net, w0, 3 * w0, x)) == pytest.approx(8)
    assert float(kernel_change(net, w0, w0, x)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_dtype_is_that_of_the_parameters(dtype):
    net, x = TwoLayer(4, 6), points(7, 4, dtype=dtype)
    w0, w = starts_and_ends(net, dtype=dtype)
    for found in (
        kernel_change(net, w0, w, x),
        relative_displacement(w0, w - w0),
        activation_stability(net, w0, w, x),
        null_risk(x),
    ):
        assert found.dtype == dtype


@pytest.mark.parametrize(("shared", "calls"), [(True, 4), (False, 6)])
def test_kernels_are_computed_one_at_a_time_and_a_shared_one_once(monkeypatch, shared, calls):
    seen, kernel = [], laziness.tangent_kernel
    monkeypatch.setattr(laziness, "tangent_kernel", lambda net, w, x: seen.append(tuple(w.shape)) or kernel(net, w, x))
    net = NETS[0]
    w0, w = starts_and_ends(net)
    kernel_change(net, w0[0] if shared else w0, w, points(7, 4))
    assert seen == [(net.size,)] * calls


# ---- the weights ----


def test_displacement_is_a_ratio_of_norms_row_by_row():
    w0, u = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [6.0, 8.0]])
    assert relative_displacement(w0, u).tolist() == pytest.approx([0.2, 5.0])
    assert relative_displacement(w0[0], u).tolist() == pytest.approx([0.2, 2.0])
    assert relative_displacement(w0[:1], u).tolist() == pytest.approx([0.2, 2.0])
    assert relative_displacement(w0[1], u[1]).shape == () and float(relative_displacement(w0[1], u[1])) == 5


def test_displacement_of_more_dimensions_is_that_of_the_last_one():
    w0, u = points(6, 5, 1), points(6, 5, 2)
    expected = [math.hypot(*b.tolist()) / math.hypot(*a.tolist()) for a, b in zip(w0, u, strict=True)]
    assert relative_displacement(w0.view(2, 3, 5), u.view(2, 3, 5)).flatten().tolist() == pytest.approx(expected)


# ---- the activations ----


@pytest.mark.parametrize("net", RELU, ids=str)
def test_stability_is_the_share_of_signs_that_are_kept(net):
    (w0, w), x = starts_and_ends(net), points(40, 4)
    expected = [shares_by_hand(net, a, b, x) for a, b in zip(w0, w, strict=True)]
    assert activation_stability(net, w0, w, x).tolist() == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 3 and 0 < min(expected) and max(expected) < 1
    shared = [shares_by_hand(net, w0[0], row, x) for row in w]
    for start in (w0[0], w0[:1], w0[:1].expand(3, -1)):
        assert activation_stability(net, start, w, x).tolist() == pytest.approx(shared, rel=1e-12)
    assert activation_stability(net, w0[:1], w[0], x).shape == ()
    assert activation_stability(net, w0, w0, x).tolist() == [1, 1, 1]


def test_a_unit_at_zero_is_off():
    """Input 0 puts every preactivation at 0, on the side of the negative ones."""
    net, x = TwoLayer(1, 3), torch.tensor([[1.0]])
    w0 = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])  # input weights 0, 0, 1
    w = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, 0.0])  # off as before; on now; off now
    assert float(activation_stability(net, w0, w, x)) == pytest.approx(1 / 3)
    assert float(activation_stability(net, w, w0, x)) == pytest.approx(1 / 3)


def test_it_agrees_with_the_measure_of_torch_modules():
    net, x, alpha = TwoLayer(4, 6), points(9, 4), 1.3
    module = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False)).double()
    model = Scaled(module, alpha)
    u = points(1, net.size, 3)[0]
    w0 = torch.cat([module[2].weight.detach().flatten(), module[0].weight.detach().flatten()])
    a, b = net.split(u)
    for part, value in zip(model.u, (b, a[None]), strict=True):
        part.data.copy_(value)
    found = float(activation_stability(net, w0, w0 + u / alpha, x))
    assert found == pytest.approx(model.stability(x)) and 0 < found < 1


@pytest.mark.parametrize("net", RELU, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_diverged_has_no_stability(net, value):
    (w0, w), x = starts_and_ends(net), points(7, 4)
    w[1, -1] = value
    assert activation_stability(net, w0, w, x).isnan().tolist() == [False, True, False]
    assert activation_stability(net, w[1], w0[0], x).isnan()


@pytest.mark.parametrize(
    "net",
    [TwoLayer(4, 6, "softplus"), FullyConnected(4, 6), Deep(4, (5,)), nn.Linear(4, 1)],
    ids=lambda net: type(net).__name__,
)
def test_nets_whose_units_have_no_sides_are_refused(net):
    with pytest.raises(TypeError, match="must be a TwoLayer or a FullyConnected with activation relu, got"):
        activation_stability(net, torch.zeros(5), torch.zeros(5), points(3, 4))


# ---- the null risk ----


def test_null_risk_is_the_loss_of_the_zero_function_row_by_row():
    y = torch.tensor([[3.0, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=F64)
    assert null_risk(y).tolist() == [1.75, 0.5]
    assert null_risk(y[0]).shape == () and float(null_risk(y[0])) == 1.75
    assert null_risk(y.view(2, 2, 2)).tolist() == [[2.5, 1.0], [0.5, 0.5]]


# ---- speed ----


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_the_speed_is_that_of_a_short_step(activation):
    net, x, seen = FullyConnected(4, 6, 3, activation), points(9, 4), points(5, 4, seed=1)
    w0 = net.init([0, 1], dtype=F64)
    objective = soft_hinge(net, w0, x, x[:, 0].sign(), [0.5, 2.0])
    step = -1e-6 * objective.gradient(torch.zeros_like(w0))[0]
    moved = (net.preactivations(w0 + step, seen) - net.preactivations(w0, seen)) / 1e-6
    speed = preactivation_speed(objective, seen)
    torch.testing.assert_close(speed, moved.square().flatten(2).mean(2).sqrt(), rtol=1e-4, atol=0)
    assert not torch.allclose(speed, moved.square().flatten(2).sum(2).sqrt())  # the planted mistake: summed
    with pytest.raises(TypeError, match="must be a FullyConnected"):
        preactivation_speed(square_loss(TwoLayer(4, 6), TwoLayer(4, 6).init(1.0, 0), x.float(), x[:, 0].float()), x)


# ---- arguments, examples ----


@pytest.mark.parametrize("measure", [kernel_change, activation_stability])
def test_shapes_that_do_not_fit_are_refused(measure):
    net, x = TwoLayer(4, 6), points(7, 4)
    w0, w = starts_and_ends(net)
    for start, end in [
        (w0, w[0]),
        (w0[:2], w),
        (w0, w[:2]),
        (w0[None], w),
        (w0, w[:, :-1]),
        (w0[:, :-1], w),
        (w0[:1], w[:0]),
        (w0[0, 0], w),
    ]:
        with pytest.raises(ValueError, match=r"w must be \(P,\) or \(B, P\), and w0 .* P = 30"):
            measure(net, start, end, x)


def test_parts_that_do_not_fit_are_refused():
    for w0, u in [
        (torch.ones(2, 3), torch.ones(2, 4)),
        (torch.ones(1), torch.ones(2)),
        (torch.tensor(1.0), torch.ones(1)),
    ]:
        with pytest.raises(ValueError, match="w0 and u must be .* with the same P"):
            relative_displacement(w0, u)
    for y in (torch.tensor(1.0), torch.ones(2, 0)):
        with pytest.raises(ValueError, match="y must hold at least one target"):
            null_risk(y)
