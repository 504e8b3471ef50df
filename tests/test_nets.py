"""Nets against formulas written out, their symmetries and their transforms."""

import math

import pytest
import torch

from lazylib.nets import Deep, TwoLayer, centred, from_module, scaled, symmetrized, tangent

F64 = torch.float64


def points(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("activation", ["relu", "softplus", "gelu"])
def test_two_layer_is_the_sum_over_neurons(activation):
    net, x = TwoLayer(5, 4, activation, scale=0.3), points(7, 5)
    w = net.init(0.7, 3, dtype=F64)[0]
    a, b = w[:4], w[4:].reshape(4, 5)
    sigma = {
        "relu": lambda z: max(z, 0.0),
        "softplus": lambda z: math.log1p(math.exp(z)),
        "gelu": lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))),
    }[activation]
    expected = [0.3 * sum(float(a[i]) * sigma(float(b[i] @ row)) for i in range(4)) for row in x]
    assert torch.allclose(net(w, x), torch.tensor(expected, dtype=F64), atol=1e-13)


def test_batch_rows_are_single_runs_and_inputs_may_differ():
    for net in (TwoLayer(5, 4), Deep(5, (4, 3))):
        w = net.init([0.5, 1.0, 2.0], [1, 2, 3], dtype=F64)
        x = torch.stack([points(6, 5, s) for s in range(3)])
        rows = torch.stack([net(w[k], x[k]) for k in range(3)])
        assert torch.allclose(net(w, x), rows, atol=1e-13)
        shared = torch.stack([net(w[k], x[0]) for k in range(3)])
        assert torch.allclose(net(w, x[0]), shared, atol=1e-13)


@pytest.mark.parametrize(("net", "q"), [(TwoLayer(5, 4), 2), (Deep(5, (4, 3)), 3), (Deep(5, (4, 3, 2)), 4)])
def test_relu_nets_are_homogeneous_of_degree_q(net, q):
    w, x = net.init(1.0, 0, dtype=F64)[0], points(6, 5)
    assert net.q == q
    assert torch.allclose(net(1.7 * w, x), 1.7**q * net(w, x), rtol=1e-12)
    assert not torch.allclose(net(1.7 * w, x), 1.7 ** (q + 1) * net(w, x), rtol=1e-2)


def test_biases_stand_behind_the_weights_and_shift_the_hidden_layers():
    net, plain, x = Deep(5, (4, 3), "gelu", bias=True), Deep(5, (4, 3), "gelu"), points(6, 5)
    w = net.init([1.0, 2.0], 7, dtype=F64)
    assert net.size == plain.size + 7 and torch.allclose(w[1], 2 * w[0])
    assert torch.equal(w[:, : plain.size], plain.init([1.0, 2.0], 7, dtype=F64))
    (a, b, c), bias = net.split(w[0]), w[0, plain.size :]
    hidden = torch.nn.functional.gelu(a @ x.T + bias[:4, None])
    expected = c @ torch.nn.functional.gelu(b @ hidden + bias[4:, None])
    assert torch.allclose(net(w[0], x), expected[0], atol=1e-13) and torch.allclose(net(w, x)[0], expected[0])
    swapped = torch.cat([w[0, : plain.size], bias[3:], bias[:3]])  # of the wrong layer
    assert not torch.allclose(net(swapped, x), expected[0], atol=1e-2)


def test_a_bias_in_the_first_layer_alone_leaves_the_degree():
    x = points(6, 5)
    for widths, q in (((4,), 2), ((4, 3), None)):
        net = Deep(5, widths, bias=True)
        w = net.init(1.0, 0, dtype=F64)[0]
        assert net.q == q
        assert torch.allclose(net(2 * w, x), 2 ** (len(widths) + 1) * net(w, x)) == (q is not None)


def test_smooth_nets_claim_no_homogeneity():
    assert TwoLayer(3, 2, "softplus").q is None and Deep(3, (2,), "gelu").q is None


def test_init_has_the_published_law_and_a_seed_fixes_the_direction():
    net = TwoLayer(100, 2000)
    w = net.init([0.2, 1.0], 5, dtype=F64)
    assert torch.allclose(w[0] / 0.2, w[1])
    assert abs(float(w[1].mean())) < 5 / math.sqrt(net.size)
    assert abs(float(w[1].std()) - 1) < 0.01
    assert not torch.allclose(net.init(1.0, 6, dtype=F64), w[1:])


def test_symmetrized_init_is_zero_at_w0_with_nonnegative_first_half():
    net = TwoLayer(5, 6)
    w = net.init(2.0, 1, symmetrized=True, dtype=F64)
    a, b = net.split(w[0])
    assert (a[:3] >= 0).all() and torch.equal(a[3:], -a[:3]) and torch.equal(b[3:], b[:3])
    assert net(w, points(6, 5)).abs().max() < 1e-12
    assert net(net.init(2.0, 1, dtype=F64), points(6, 5)).abs().max() > 0.1


def test_transforms():
    net, x = TwoLayer(5, 4, "softplus"), points(6, 5)
    w0, w = net.init(1.0, 0, dtype=F64), net.init(1.0, 1, dtype=F64)
    assert centred(net, w0)(w0, x).abs().max() == 0
    assert torch.allclose(scaled(net, 3.0)(w, x), 3 * net(w, x))
    jacobian = torch.func.jacrev(lambda v: net(v, x))(w0[0])
    expected = net(w0[0], x) + jacobian @ (w[0] - w0[0])
    assert torch.allclose(tangent(net, w0)(w, x)[0], expected, atol=1e-12)
    double = symmetrized(net)
    assert double(torch.cat([w0, w0], -1), x).abs().max() == 0
    assert torch.allclose(double(torch.cat([w, w0], -1), x), net(w, x) - net(w0, x))
    composed = scaled(centred(net, w0), 2.0)
    assert torch.allclose(composed(w, x), 2 * (net(w, x) - net(w0, x)))


def test_a_module_becomes_a_net_and_is_left_alone():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    net, w0 = from_module(module)
    x = points(6, 5)
    assert torch.allclose(net(w0, x), module(x).squeeze(-1))
    assert torch.allclose(net(torch.stack([w0, 2 * w0]), x)[0], net(w0, x))
    assert not torch.allclose(net(2 * w0, x), net(w0, x))
    assert torch.allclose(net(w0, x), module(x).squeeze(-1))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TwoLayer(5, 0), "whole numbers ≥ 1"),
        (lambda: TwoLayer(5, 4, "tanhh"), "activation must be one of"),
        (lambda: TwoLayer(5, 3).init(1.0, 0, symmetrized=True), "even width m, got m = 3"),
        (lambda: TwoLayer(5, 4).init(0.0, 0), "tau must be finite and > 0"),
        (lambda: TwoLayer(5, 4).init([1.0, 2.0], [0, 1, 2]), "equal lengths"),
        (lambda: TwoLayer(5, 4).init([], 0), "must not be empty"),
        (lambda: TwoLayer(5, 4).init(1.0, -1), "a seed must be"),
        (lambda: Deep(5, ()), "at least one hidden layer"),
        (lambda: scaled(TwoLayer(5, 4), -1.0), "alpha must be finite and > 0"),
        (lambda: from_module(torch.nn.ReLU()), "at least one trainable parameter"),
    ],
)
def test_bad_input_gets_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
