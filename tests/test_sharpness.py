"""Top eigenvalue and trace of the Hessian against the full matrix at small width."""

import math

import pytest
import torch

from lazylib.measures import filter_rms, hessian_product, hessian_trace, random_plane, top_eigenvalue
from lazylib.nets import Deep, TwoLayer, from_module
from lazylib.problems import teacher_student

F64 = torch.float64
NETS = [TwoLayer(4, 3, scale=0.5), TwoLayer(4, 3, "softplus"), Deep(4, (3, 2), "gelu")]


def loss_of(net):
    problem = teacher_student(0, d=4, n=50, n_test=1, dtype=F64)
    return lambda w: 0.5 * (net(w, problem.x) - problem.y).square().mean()


@pytest.mark.parametrize("net", NETS, ids=["relu", "softplus", "deep"])
@pytest.mark.parametrize("scaled", [False, True])
def test_against_the_full_hessian(net, scaled):
    w = net.init(1.0, 0, dtype=F64)[0]
    loss = loss_of(net)
    unit = filter_rms(net, w) if scaled else torch.ones_like(w)
    full = torch.func.hessian(loss)(w) * torch.outer(unit, unit)
    values, vectors = torch.linalg.eigh(full)
    top = top_eigenvalue(loss, w, unit=unit, tol=1e-10)
    assert top.value == pytest.approx(float(values[-1]), rel=1e-8)
    assert abs(float(top.vector @ vectors[:, -1])) == pytest.approx(1, abs=1e-6)
    assert 0 < top.products < 10 * net.size
    v = torch.randn(net.size, dtype=F64)
    torch.testing.assert_close(hessian_product(loss, w, unit)(v), full @ v)
    trace = hessian_trace(loss, w, unit=unit, probes=400)
    assert trace.low < float(full.trace()) < trace.high and trace.probes == 400
    assert trace.high - trace.low < 0.5 * abs(float(full.trace()))


def test_the_interval_covers_the_trace_as_often_as_it_says():
    full = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    full = full + full.T

    def covered(seed):
        found = hessian_trace(lambda w: w @ full @ w / 2, torch.zeros(12, dtype=F64), probes=10, seed=seed)
        return found.low <= float(full.trace()) <= found.high

    assert 0.9 <= sum(covered(seed) for seed in range(300)) / 300 <= 0.99


def test_largest_means_largest_and_not_largest_in_size():
    values = torch.tensor([-5.0, 1.0, 2.0, 0.0], dtype=F64)
    w = torch.zeros(4, dtype=F64)
    assert top_eigenvalue(lambda v: values @ v.square() / 2, w).value == pytest.approx(2)
    assert top_eigenvalue(lambda v: -v.square().sum(), w[:2]).value == pytest.approx(-2)  # too small for Lanczos


def test_units_of_the_weights_take_another_parametrization_out():
    """w = c v and the output divided by c^q is the same function: only raw curvature changes."""
    net, c = TwoLayer(4, 3), 3.0
    w = net.init(1.0, 0, dtype=F64)[0]
    other = TwoLayer(4, 3, scale=c**-2)
    raw, raw_other = (top_eigenvalue(loss_of(k), v, tol=1e-10).value for k, v in ((net, w), (other, c * w)))
    assert raw_other == pytest.approx(raw / c**2)
    same = [
        top_eigenvalue(loss_of(k), v, unit=filter_rms(k, v), tol=1e-10).value for k, v in ((net, w), (other, c * w))
    ]
    assert same[0] == pytest.approx(same[1])


def test_trace_in_units_of_the_filters_is_the_mean_curvature_of_random_planes():
    net = TwoLayer(4, 3, "softplus")
    w, loss = net.init(1.0, 0, dtype=F64)[0], loss_of(net)
    product = hessian_product(loss, w)
    curvatures = torch.stack([v @ product(v) for seed in range(600) for v in random_plane(net, w, seed).directions[:1]])
    expected = float((torch.func.hessian(loss)(w).diagonal() * filter_rms(net, w).square()).sum())
    assert float(curvatures.mean()) == pytest.approx(expected, abs=4 * float(curvatures.std()) / math.sqrt(600))


def test_a_torch_module():
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    net, w = from_module(module)
    loss = loss_of(net)
    full = torch.func.hessian(loss)(w)
    assert top_eigenvalue(loss, w, tol=1e-9).value == pytest.approx(float(torch.linalg.eigvalsh(full)[-1]), rel=1e-7)


@pytest.mark.parametrize(
    "call",
    [
        lambda w: hessian_trace(torch.sum, w, probes=1),
        lambda w: hessian_trace(torch.sum, w, confidence=1.0),
        lambda w: top_eigenvalue(torch.sum, w[None]),
        lambda w: top_eigenvalue(torch.sum, w * math.nan),
        lambda w: top_eigenvalue(lambda v: (v.square() * math.inf).sum(), w),
    ],
)
def test_wrong_arguments_are_refused_with_a_sentence(call):
    with pytest.raises(ValueError, match=r"^.+(must|be).+\.$"):
        call(torch.ones(4, dtype=F64))
