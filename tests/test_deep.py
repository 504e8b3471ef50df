"""Deep fully connected nets: their scaling, the hand-derived gradient, the layerwise kernel, and batches."""

import math

import numpy as np
import pytest
import torch

from lazylib.flows import gradient_flow
from lazylib.measures import _kernel_paths, tangent_kernel
from lazylib.nets import FullyConnected, deep, gain
from lazylib.objectives import SoftHinge, on_span, soft_hinge
from lazylib.runs import generator

F64 = torch.float64
NETS = [FullyConnected(6, 5, 3), FullyConnected(6, 5, 1, "relu"), FullyConnected(6, 5, 2, bias=0.3)]


def inputs(n, d=6, seed=0):
    x = torch.randn(n, d, generator=generator(seed, "x"), dtype=F64)
    return x * d**0.5 / x.norm(dim=1, keepdim=True)


def classes(n, seed=0):
    return 1.0 - 2.0 * torch.randint(0, 2, (n,), generator=generator(seed, "y")).double()


def parameters(net, seeds=(0, 1, 2), spread=0.3):
    """Away from the start, where biases are zero."""
    w0 = net.init(seeds, dtype=F64)
    return w0 + spread * torch.randn(w0.shape, generator=generator(9, "w"), dtype=F64)


def test_the_published_factor_of_the_activation():
    assert gain("softplus") == pytest.approx(1.404, abs=5e-4) and gain("relu") == pytest.approx(math.sqrt(2))
    z = torch.randn(10**6, generator=generator(0, "z"), dtype=F64)
    assert float((gain("softplus") * FullyConnected(1, 1).act(z)).square().mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("activation", ["softplus", "relu"])
def test_preactivations_and_output_start_with_unit_variance(activation):
    net, x = FullyConnected(50, 400, 3, activation), inputs(3, 50)
    w = net.init(range(20), dtype=F64)
    z, _ = _kernel_paths._factors(net, w, x)
    for (weight, _), c, below in zip(net.split(w), net.factors, z, strict=True):
        assert float((c * (weight @ below)).square().mean()) == pytest.approx(
            1, abs=0.35 if len(weight[0]) == 1 else 0.1
        )


@pytest.mark.parametrize("net", NETS)
def test_preactivations_lead_to_the_outputs(net):
    x, w = inputs(4), parameters(net)
    p = net.preactivations(w, x)
    assert p.shape == (3, net.L, net.h, 4)
    torch.testing.assert_close(p[1], net.preactivations(w[1], x))
    for l, ((weight, b), c) in enumerate(zip(net.split(w), net.factors, strict=True)):
        above = c * (weight @ (net.act(p[:, l - 1]) if l else x.mT))
        above = above if b is None else above + net.bias * b[..., None]
        torch.testing.assert_close(above, p[:, l] if l < net.L else net(w, x).unsqueeze(1))
    assert not torch.allclose(c * (weight @ p[:, -1]), net(w, x).unsqueeze(1))  # the planted mistake: no activation


def test_split_is_a_partition_of_the_parameters():
    for net in NETS:
        w = torch.arange(net.size)
        parts = [part.reshape(-1) for layer in net.split(w) for part in layer if part is not None]
        assert torch.equal(torch.cat(parts), w)
        assert net.size == sum(r * c for r, c in net.shapes) + (net.h * net.L + 1) * bool(net.bias)


def test_relu_without_biases_is_homogeneous():
    net = NETS[1]
    w, x = net.init(0, dtype=F64), inputs(4)
    assert torch.allclose(net(3 * w, x), 3**net.q * net(w, x)) and NETS[0].q is None


def test_a_seed_fixes_a_net_whatever_the_batch():
    net = NETS[0]
    assert torch.equal(net.init([3, 5])[1], net.init(5)[0]) and not torch.equal(net.init(3), net.init(5))


@pytest.mark.parametrize("net", NETS, ids=str)
def test_gradient_and_differential_by_hand_are_those_of_autograd(net):
    x, y, alpha = inputs(20), classes(20), torch.tensor([0.1, 1.0, 30.0], dtype=F64)
    w0 = parameters(net)
    u, v = 0.2 * torch.randn(2, *w0.shape, generator=generator(1, "u"), dtype=F64)
    fused = soft_hinge(net, w0, x, y, alpha)
    plain = SoftHinge(net, w0, x, y.expand(3, -1), alpha, 1.0, True)
    assert type(fused) is not type(plain)

    def loss(u):
        f = alpha[:, None] * (net(w0 + u, x) - net(w0, x))
        return (torch.log1p(torch.exp(20 * (1 - f * y))) / 20).mean(1) / alpha**2

    expected = torch.func.grad(lambda u: loss(u).sum())(u)
    for objective in (fused, plain):
        gradient, out = objective.gradient(u)
        assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-14)
        assert torch.allclose(out, alpha[:, None] * (net(w0 + u, x) - net(w0, x)), atol=1e-10)
        assert torch.allclose(objective.loss(out), loss(u))
        along = torch.func.jvp(lambda u: alpha[:, None] * net(w0 + u, x), (u,), (v,))[1].square().mean(1).sqrt()
        for rows in ([0, 1, 2], [2, 0]):
            assert torch.allclose(objective.moved(u, v[rows], torch.tensor(rows)), along[rows])
        objective.gradient(0 * u)  # what it leaves behind belongs to another u
        assert torch.allclose(objective.moved(u, v, torch.arange(3)), along)


@pytest.mark.parametrize("net", NETS, ids=str)
def test_kernel_is_the_gram_matrix_of_gradients(net, monkeypatch):
    w, x, x2 = parameters(net), inputs(9), inputs(5, seed=1)
    monkeypatch.setattr(deep, "CHUNK_BYTES", 4 * 3 * net.h * 8)  # blocks of four inputs
    square, cross = tangent_kernel(net, w, x), tangent_kernel(net, w, x, x2)
    for row in range(3):
        j = torch.stack([torch.func.grad(lambda v, a=a, row=row: net(v, a[None])[0])(w[row]) for a in x])
        j2 = torch.func.jacrev(lambda v: net(v, x2))(w[row])
        assert torch.allclose(square[row], j @ j.T, rtol=1e-10)
        assert torch.allclose(cross[row], j @ j2.T, rtol=1e-10)
        assert torch.equal(tangent_kernel(net, w[row], x, x2), tangent_kernel(net, w[row : row + 1], x, x2)[0])
    generic = tangent_kernel(lambda w, x: net(w, x), w[0], x, x2)  # by Jacobians
    assert torch.allclose(cross[0], generic, rtol=1e-10)


def test_kernel_in_single_precision():
    net = FullyConnected(64, 50, 3)
    w, x = net.init(0, dtype=F64), inputs(40, 64)
    exact, single = tangent_kernel(net, w, x), tangent_kernel(net, w.float(), x.float())
    assert float((single - exact).norm() / exact.norm()) < 1e-5


def test_outputs_on_other_inputs_in_blocks(monkeypatch):
    net, x = NETS[0], inputs(12)
    w0 = parameters(net)
    objective = soft_hinge(net, w0, x, classes(12), 2.0)
    u, other = 0.1 * torch.ones_like(w0), inputs(11, seed=2)
    monkeypatch.setattr(deep, "CHUNK_BYTES", 4 * 3 * net.h * 8)
    assert torch.allclose(objective.outputs(u, other), 2 * (net(w0 + u, other) - net(w0, other)), atol=1e-12)
    assert torch.allclose(objective.outputs(u), 2 * (net(w0 + u, x) - net(w0, x)), atol=1e-12)


def test_a_run_is_the_same_in_a_batch_and_alone_and_by_torch_func():
    net, x, y = FullyConnected(6, 12, 2), inputs(15), classes(15)
    alpha = torch.tensor([0.05, 1.0, 20.0], dtype=F64)
    w0 = net.init([0, 1, 1], dtype=F64)
    whole = gradient_flow(soft_hinge(net, w0, x, y, alpha), 1e8)
    generic = gradient_flow(SoftHinge(net, w0, x, y.expand(3, -1), alpha, 1.0, True), 1e8)
    assert whole.reached.all()
    for row in range(3):
        alone = gradient_flow(soft_hinge(net, w0[row : row + 1], x, y, alpha[row]), 1e8)
        for other in (alone.u[0], generic.u[row]):
            assert torch.allclose(whole.u[row], other, rtol=1e-6, atol=1e-9)
        assert whole.evals[row] == alone.evals[0] and whole.time[row] == pytest.approx(alone.time[0])


@pytest.mark.parametrize("net", [FullyConnected(30, 20, 2), FullyConnected(30, 4, 1, "relu", bias=0.3)], ids=str)
def test_on_the_span_of_the_inputs_the_gradient_is_the_same(net):
    objective = soft_hinge(net, parameters(net), inputs(12, 30), classes(12), [0.5, 3.0, 20.0])
    short, lift = on_span(objective)
    u = 0.1 * torch.randn(3, short.size, generator=generator(2, "u"), dtype=F64)
    assert short.size < net.size and torch.allclose(short.outputs(u), objective.outputs(lift(u)), atol=1e-10)
    (mine, out), (theirs, whole) = short.gradient(u), objective.gradient(lift(u))
    assert torch.allclose(lift(mine), theirs, rtol=1e-9, atol=1e-11) and torch.allclose(out, whole, atol=1e-10)


def test_on_the_span_of_the_inputs_the_flow_is_the_same():
    net, other = FullyConnected(30, 20, 2), inputs(9, 30, seed=1)
    objective = soft_hinge(net, net.init([0, 1], dtype=F64), inputs(12, 30), classes(12), [2.0, 20.0])
    short, lift = on_span(objective)
    flow, whole = (gradient_flow(part, 1e8, rtol=0.003) for part in (short, objective))
    assert flow.reached.all()
    assert torch.allclose(objective.outputs(lift(flow.u), other), objective.outputs(whole.u, other), atol=2e-2)


def test_the_span_of_many_inputs_is_everything():
    net = NETS[0]
    objective = soft_hinge(net, parameters(net), inputs(6), classes(6), 1.0)
    same, lift = on_span(objective)
    assert same is objective and lift(objective.w0) is objective.w0


def test_single_precision_follows_double_in_the_lazy_regime():
    net, x, y = FullyConnected(6, 50, 3), inputs(20), classes(20)
    alpha = 1e4 / 50**0.5
    w0 = net.init([0], dtype=F64)
    ends = []
    for dtype in (F64, torch.float32):
        objective = soft_hinge(net, w0.to(dtype), x.to(dtype), y, alpha)
        flow = gradient_flow(objective, 1e8, rtol=0.01)
        assert flow.reached.all()
        ends.append(objective.outputs(flow.u, inputs(10, seed=3).to(dtype)).double())
    assert float((ends[1] - ends[0]).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(d=0, h=3), "d must be a whole number ≥ 1, got 0"),
        (dict(d=3, h=2.0), "h must be a whole number"),
        (dict(d=3, h=2, L=0), "L must be a whole number"),
        (dict(d=3, h=2, activation="gelu"), "activation must be softplus or relu, got 'gelu'"),
        (dict(d=3, h=2, bias=True), "bias must be a number ≥ 0, the factor of the biases, got True"),
        (dict(d=3, h=2, bias=-0.1), "bias must be a number ≥ 0, .* got -0.1"),
    ],
)
def test_bad_nets_get_one_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        FullyConnected(**wrong)


def test_bad_parameters_get_one_sentence():
    net = NETS[0]
    with pytest.raises(ValueError, match="seeds must not be empty"):
        net.init([])
    with pytest.raises(ValueError, match=r"w must be the parameters of one net, \(P,\), or of a batch, \(B, P\)"):
        tangent_kernel(net, net.init(0)[None], inputs(3))
    assert np.isfinite(net.init(range(2)).numpy()).all()
