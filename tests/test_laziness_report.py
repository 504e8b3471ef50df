"""laziness.compare against full Jacobians from plain backward passes, on many kinds of modules; and what it refuses."""

import copy
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lazylib import laziness
from lazylib.laziness import _features, _kernel, _losses, subject
from tests.laziness_models import LARGER, SMALL, TinyGPT, Two, logits

F64 = torch.float64


def ready(name, dtype=F64, seed=0):
    """(model in eval mode, x, output) of one kind."""
    torch.manual_seed(seed)
    make, inputs, output = SMALL[name]
    model, x = make(), inputs()
    if isinstance(x, tuple | dict):
        cast = [v.to(dtype) if v.is_floating_point() else v for v in (x.values() if isinstance(x, dict) else x)]
        x = dict(zip(x, cast, strict=True)) if isinstance(x, dict) else tuple(cast)
    elif x.is_floating_point():
        x = x.to(dtype)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        call(model.to(dtype), x)
    return model.to(dtype).eval(), x, output


def call(model, x):
    return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


def outputs(model, x, output):
    out = call(model, x)
    return out if output is None else output(out)


def move(model, size=0.3, seed=1):
    """A step of every trainable parameter; buffers stay."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += size * p.std(correction=0).clamp_min(0.1) * torch.randn(p.shape, generator=draw).to(p)


def jacobian(model, x, output):
    """(n, k, P), by one backward pass of the module itself for each output."""
    h = outputs(model, x, output).flatten(1)  # (n, k)
    trainable = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for value in h.flatten():
        grads = torch.autograd.grad(value, trainable, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, trainable)]))  # noqa: B905
    return h.detach(), torch.stack(rows).view(*h.shape, -1)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def by_hand(old, new, x, y, output):
    """Every exact measure from two Jacobians, square loss."""
    (h0, j0), (h, j) = jacobian(old, x, output), jacobian(new, x, output)
    u, y = weights(new) - weights(old), y.flatten()
    k0, k = (each.flatten(0, 1) @ each.flatten(0, 1).T for each in (j0, j))
    return {
        "displacement": (u.norm() / weights(old).norm()).item(),
        "loss before": (0.5 * (h0.flatten() - y).square().sum() / len(h0)).item(),
        "loss after": (0.5 * (h.flatten() - y).square().sum() / len(h)).item(),
        "output change": ((h - h0).norm() / h0.norm()).item(),
        "linear-model gap": ((h - h0 - j0 @ u).norm() / (h - h0).norm()).item(),
        "kernel change": ((k - k0).norm() / k0.norm()).item(),
        "label alignment before": (y @ k0 @ y / k0.norm() / y.square().sum()).item(),
        "label alignment after": (y @ k @ y / k.norm() / y.square().sum()).item(),
    }


def check(model, x, output, rel, **options):
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    shape = outputs(model, x, output).shape
    y = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=F64)
    held = {name: v.clone() for name, v in model.state_dict().items()}
    report = laziness.compare(before, model, x, y, output=output, **options)
    for name, value in by_hand(old, model, x, y.to(weights(model)), output).items():
        assert report[name] == pytest.approx(value, rel=rel), name
        assert report.find(name).error == 0
    assert all(torch.equal(v, held[name]) for name, v in model.state_dict().items())
    return report


# ---- right numbers ----


@pytest.mark.parametrize("name", [name for name in SMALL if name != "embedding bag"])
def test_it_is_what_full_jacobians_give(name):
    model, x, output = ready(name)
    check(model, x, output, rel=1e-6, batch=4)


def test_without_derivatives_of_second_order_there_is_no_gap_and_it_is_said():
    model, x, _ = ready("embedding bag")
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    y = torch.randn(5, 2, dtype=F64)
    report = laziness.compare(before, model, x, y)
    expected = by_hand(old, model, x, y, None)
    for name in expected.keys() - {"linear-model gap"}:
        assert report[name] == pytest.approx(expected[name], rel=1e-6), name
    assert "linear-model gap" not in {m.name for m in report.measures} and "no linear-model gap" in str(report)


@pytest.mark.parametrize("name", LARGER)
def test_modules_of_torchvision(name):
    torch.manual_seed(0)
    check(LARGER[name]().eval(), torch.randn(2, 3, 32, 32), None, rel=3e-3)


def test_classes_tokens_and_any_loss_are_aligned_with_their_own_direction():
    model, x, _ = ready("gpt")
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    y = torch.randint(7, (5, 5))
    report = laziness.compare(before, model, x, y)
    direction = (nnf.one_hot(y, 7).to(F64) - 1 / 7).flatten()
    _, j0 = jacobian(old, x, None)
    k0 = j0.flatten(0, 1) @ j0.flatten(0, 1).T
    expected = direction @ k0 @ direction / k0.norm() / direction.square().sum()
    assert report["label alignment before"] == pytest.approx(expected.item(), rel=1e-6)
    loss = nnf.cross_entropy(model(x).flatten(0, 1), y.flatten())
    assert report["loss after"] == pytest.approx(loss.item())
    own = laziness.compare(before, model, x, y, loss=lambda h, y: nnf.cross_entropy(h.mT, y), batch=2)
    for each in report.measures:
        assert own[each.name] == pytest.approx(each.value, rel=1e-9) or each.layer


def test_each_layer_has_its_own_displacement_signs_and_features():
    model, x, _ = ready("relu")
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    report = laziness.compare(before, model, x)
    for k in (0, 2):
        far = sum((a - b).square().sum() for a, b in zip(model[k].parameters(), old[k].parameters(), strict=True))
        size = sum(b.square().sum() for b in old[k].parameters())
        assert report.layers("displacement")[str(k)].value == pytest.approx((far / size).sqrt().item())
    same = ((model[0](x) > 0) == (old[0](x) > 0)).double().mean().item()
    assert report["activation stability"] == report.layers("activation stability")["1"].value == pytest.approx(same)
    assert 0 < same < 1
    found = report.layers("feature similarity")
    assert found["2"].value == pytest.approx(slow_cka(model(x), old(x)), rel=1e-6)
    assert found["1"].value == pytest.approx(slow_cka(model[:2](x), old[:2](x)), rel=1e-6)
    assert report["feature similarity"] == min(found["0"].value, found["1"].value)


def slow_cka(a, b):
    """With HSIC as a mean over quadruples of different inputs (Gretton et al. 2005)."""
    k, l = (each.detach().numpy() @ each.detach().numpy().T for each in (a, b))

    def hsic(k, l):
        quadruples = itertools.permutations(range(len(k)), 4)
        return np.mean([k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in quadruples])

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def test_units_are_seen_in_functions_in_place_and_where_a_layer_is_used_twice():
    model, x, _ = ready("residual")
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    report = laziness.compare(before, model, x)

    def on(m):
        first = m.norm(m.first(x))
        z = first.relu()
        return torch.cat([(first > 0).flatten(), (m.second(z) + z > 0).flatten()])

    assert report["activation stability"] == pytest.approx((on(model) == on(old)).double().mean().item(), rel=1e-12)
    smooth = laziness.compare(laziness.snapshot(ready("gpt")[0]), *ready("gpt")[:2])
    assert "activation stability" not in {m.name for m in smooth.measures} and "kept their sign" in str(smooth)


def test_unrelated_features_have_no_similarity():
    found = []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(32, 64, generator=draw, dtype=F64) for _ in range(2))
        found.append(_features._cka(_features._gram(a), _features._gram(b), 32).value)
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(40) < 0.05  # the biased one reads 0.6 here


def test_a_tied_weight_counts_once_and_frozen_ones_only_if_they_moved():
    model, x, _ = ready("gpt")
    assert sum(p.numel() for p in model.parameters()) == sum(
        v.numel() for v in laziness.snapshot(model).parameters.values()
    )
    model, x, _ = ready("frozen body")
    before = laziness.snapshot(model)
    move(model)
    assert laziness.compare(before, model, x).about["parameters"] == 12
    with torch.no_grad():
        model.body.weight[0, 0] += 1.0
    assert laziness.compare(before, model, x).about["parameters"] == 27


def test_half_precision_is_computed_in_float32_and_said():
    model, x, _ = ready("relu", torch.float32)
    half = copy.deepcopy(model).bfloat16()
    whole = copy.deepcopy(half).float()
    befores = laziness.snapshot(half), laziness.snapshot(whole)
    move(half), whole.load_state_dict(half.state_dict())
    a, b = laziness.compare(befores[0], half, x.bfloat16()), laziness.compare(befores[1], whole, x.bfloat16())
    assert [m.value for m in a.measures] == [m.value for m in b.measures]
    assert a.about["dtype"] == "float32" and "half precision" in str(a) and "half precision" not in str(b)
    assert half[0].weight.dtype == torch.bfloat16


def test_loaders_batches_and_compiled_modules_give_the_same():
    model, x, _ = ready("relu")
    before = laziness.snapshot(model)
    move(model)
    y = torch.randn(6, 2, dtype=F64)
    one = laziness.compare(before, model, x, y)
    for other in (
        laziness.compare(before, model, DataLoader(TensorDataset(x, y), 4)),
        laziness.compare(before, model, x, y, batch=1),
        laziness.compare(before, torch.compile(model), x, y),
        laziness.compare(before, nn.DataParallel(model), x, y),
        laziness.compare(before, model, (x,), y),
    ):
        assert [m[:2] for m in other.measures] == [m[:2] for m in one.measures]
        assert [m.value for m in other.measures] == pytest.approx([m.value for m in one.measures], rel=1e-9)


def test_everything_is_put_back():
    model, x, _ = ready("encoder", torch.float32)
    model.train()
    model[0].eval()
    model[2].weight.requires_grad_(False)
    modes, needs = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    flash, onednn = torch.backends.cuda.flash_sdp_enabled(), torch._C._get_mkldnn_enabled()
    before = laziness.snapshot(model)
    laziness.compare(before, model, x)
    tracker = laziness.Tracker(model.eval(), x)
    [m.train(mode) for m, mode in zip(model.modules(), modes, strict=True) if not list(m.children())]
    with pytest.raises(ValueError, match="drops units"):
        laziness.compare(before, model.train(), x)
    tracker.step()
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == needs and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state) and torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.backends.cuda.flash_sdp_enabled() == flash and torch._C._get_mkldnn_enabled() == onednn
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    lstm, x, _ = ready("lstm")
    laziness.compare(laziness.snapshot(lstm), lstm, x)
    assert torch._C._get_mkldnn_enabled() == onednn
    old, x, _ = ready("old weight norm")
    kept = old[0].weight
    laziness.compare(laziness.snapshot(old), old, x)
    assert old[0].weight is kept


def test_buffers_travel_with_their_weights():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double(), torch.randn(20, 3).double()
    old, before = copy.deepcopy(model).eval(), laziness.snapshot(model)
    model(x + 1), model.eval()
    report = laziness.compare(before, model, x)
    assert report["output change"] == pytest.approx(((model(x) - old(x)).norm() / old(x).norm()).item())
    assert report["buffers' share"] == pytest.approx(1) and report["displacement"] == 0
    assert "Buffers changed, such as 1.running_mean" in str(report)


# ---- sampling ----


def covered(truth, estimates):
    return sum(abs(e.value - truth) <= e.error for e in estimates) / len(estimates)


@pytest.mark.parametrize(("n", "k", "wanted"), [(40, 1, 20), (40, 8, 40), (40, 8, 20)])
def test_intervals_of_the_kernel_cover_what_they_must(n, k, wanted):
    """K0 and K of Jacobians of 200 weights, 200 draws of inputs and signs; every entry is known."""
    draw = torch.Generator().manual_seed(0)
    j0 = torch.randn(n, k, 200, generator=draw, dtype=F64) + 0.5 * torch.randn(n, 1, 200, generator=draw, dtype=F64)
    j0 += 0.7 * torch.randn(1, 1, 200, generator=draw, dtype=F64)
    j = j0 + 0.4 * torch.randn(n, k, 200, generator=draw, dtype=F64) @ torch.diag(torch.linspace(0, 1, 200).double())
    k0, k1 = (each.flatten(0, 1) @ each.flatten(0, 1).T for each in (j0, j))
    truth = ((k1 - k0).norm() / k0.norm()).item(), (1 / k0.norm()).item(), (1 / k1.norm()).item()
    found = []
    for _ in range(200):
        inputs = torch.randperm(n, generator=draw)[:wanted]
        whole = k <= _kernel.SIGNS
        signs = torch.randint(0, 2, (wanted, _kernel.SIGNS, k), generator=draw) * 2.0 - 1
        rows = _kernel.Rows(inputs, torch.eye(k).expand(wanted, k, k) if whole else signs, whole)
        grams = []
        for each in (j0, j):
            taken = torch.einsum("iqk,ikp->iqp", rows.directions.double(), each[inputs])
            flat = taken.flatten(0, 1)
            grams.append((flat @ flat.T).view(*taken.shape[:2], *taken.shape[:2]))
        found.append(_kernel.estimates(*grams, n, rows, (1.0, 1.0)))
    for i, name in enumerate(("change", "before", "after")):
        share = covered(truth[i], [each[i] for each in found])
        assert 0.92 <= share <= 0.98, (name, share)
        mean = np.mean([each[i].value for each in found])
        assert mean == pytest.approx(truth[i], rel=0.06)  # a ratio of unbiased numbers


@pytest.mark.parametrize("n", [200, 60])
def test_intervals_of_the_similarity_cover_what_they_must(n):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(n, 10, generator=draw, dtype=F64)
    b = a + 0.8 * torch.randn(n, 10, generator=draw, dtype=F64)
    truth, found = _features._cka(_features._gram(a), _features._gram(b), n).value, []
    for _ in range(200):
        take = torch.randperm(n, generator=draw)[:50]
        found.append(_features._cka(_features._gram(a[take]), _features._gram(b[take]), n))
    assert 0.92 <= covered(truth, found) <= 0.98


def test_a_sampled_report_is_near_the_exact_one_and_rows_in_blocks_are_the_same(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    x, y = torch.randn(60, 3).double(), torch.randn(60, 5).double()
    before = laziness.snapshot(model)
    move(model)
    exact = laziness.compare(before, model, x, y).find("kernel change")
    assert exact.error == 0
    monkeypatch.setattr(_kernel, "EXACT_ROWS", 10)
    sampled = laziness.compare(before, model, x, y, inputs=30)
    found = sampled.find("kernel change")
    assert 0 < found.error < exact.value and abs(found.value - exact.value) < 3 * found.error
    assert "estimated from 30 inputs and 3 random projections" in str(sampled)
    monkeypatch.setattr(_kernel, "HELD_BYTES", 149 * 8 * 13)  # 13 rows at a time
    again = laziness.compare(before, model, x, y, inputs=30)
    for a, b in zip(sampled.measures, again.measures, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-9)


# ---- planted errors: each must show ----


PLANTED = {
    "w0 forgotten": ("linear-model gap", lambda m: m.setattr(subject.Subject, "tangent", no_start)),
    "half a step": ("linear-model gap", lambda m: m.setattr(subject.Subject, "tangent", half)),
    "kernel of the last row twice": ("kernel change", lambda m: m.setattr(_kernel, "pulled", scaled_rows)),
    "loss summed over outputs": ("loss after", lambda m: m.setitem(_losses.NAMED, "square", summed)),
}
TANGENT, PULLED = subject.Subject.tangent, _kernel.pulled


def no_start(self, state, u, rows, spy=None):
    return TANGENT(self, {name: w + u[name] if name in u else w for name, w in state.items()}, u, rows, spy)


def half(self, state, u, rows, spy=None):
    return TANGENT(self, state, {name: 0.5 * step for name, step in u.items()}, rows, spy)


def scaled_rows(*given):
    for i, row in enumerate(PULLED(*given)):
        yield row * (1 + i)


def summed(h, y):
    return 0.5 * (h - y).square().sum()


@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name, monkeypatch):
    measure, plant = PLANTED[name]
    model, x, output = ready("relu")
    y = torch.randn(6, 2, dtype=F64)
    old, before = copy.deepcopy(model), laziness.snapshot(model)
    move(model)
    right = by_hand(old, model, x, y, output)[measure]
    plant(monkeypatch)
    monkeypatch.setattr(sys.modules["lazylib.laziness.comparison"], "require_true_tangent", lambda *_: None)
    assert laziness.compare(before, model, x, y, loss="square")[measure] != pytest.approx(right, rel=0.01)


# ---- what is refused, in one sentence ----


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).detach())


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.sign()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, g):
        return g


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return self.a(x) + Straight.apply(self.a(x))


class Copied(nn.Module):
    """Weights that were copied out of the module: it computes with stale ones."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return nnf.linear(x, self.a.weight.data, self.a.bias)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return nnf.dropout(self.a(x), 0.5)


class Shaking(nn.Linear):
    """It draws numbers of its own."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(2)


class Centring(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)

    def forward(self, x):
        return self.a(x - x.mean(0))


def sequential(*layers, train=False):
    return lambda: nn.Sequential(*layers).train(train)


REFUSED = [
    (sequential(nn.Linear(3, 2), nn.Dropout(0.1), train=True), r"layer 1, Dropout, drops units .* model.eval\(\)"),
    (sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), train=True), r"layer 1, BatchNorm1d, is in train mode.*eval\(\)"),
    (
        sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)),
        "layer 1, BatchNorm1d, keeps no running statistics",
    ),
    (Centring, "depend on the other inputs of its mini-batch"),
    (Noisy, r"deterministic, but dropout is on: .*training=self\.training"),
    (Shaking, r"two passes .* first in layer \(the model's own forward\).*switch its noise off"),
    (Detached, "derivative of the outputs along w − w0 goes wrong first .* take away"),
    (Quantized, "derivative of the outputs along w − w0 goes wrong"),
    (Copied, "goes wrong first in the model's own forward: .* stacked"),
    (Two, "the model does not take x"),
    (lambda: nn.LSTM(3, 2), "the model returns a tuple: name the tensor that counts by output="),
]


@pytest.mark.parametrize(("make", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_would_be_wrong_is_refused_in_one_sentence(make, sentence):
    torch.manual_seed(0)
    model = make()
    before = laziness.snapshot(model)
    move(model)
    with pytest.raises(ValueError, match=sentence) as refused:
        laziness.compare(before, model, torch.randn(6, 3))
    assert "\n" not in str(refused.value)


def test_arguments_that_do_not_fit_are_refused():
    model, x, _ = ready("relu", torch.float32)
    before, y = laziness.snapshot(model), torch.randn(6, 2)
    for given, sentence in [
        (dict(x=x[:0], y=y), "x must be a tensor .* of no inputs"),
        (dict(x=x, y=y[:4]), "y must have one row for each of the 6 inputs"),
        (dict(x=x, y=y[:, 0]), r"y must have the shape \(6, 2\)"),
        (dict(x=x, y=y, loss="hinge"), "loss must be one of square, cross-entropy, bce"),
        (dict(x=x, y=y, inputs=1), "inputs must be at least 3"),
        (dict(x=x * math.nan, y=y), "the outputs must be finite, but 12 of 12"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            laziness.compare(before, model, **given)
    with pytest.raises(ValueError, match="the snapshot must be of the same model: parameters such as"):
        laziness.compare(laziness.snapshot(nn.Linear(3, 2)), model, x)
    with pytest.raises(ValueError, match="has no size yet"):
        laziness.snapshot(nn.LazyLinear(2))
    with pytest.raises(ValueError, match="at least one parameter"):
        laziness.snapshot(nn.ReLU())
    with pytest.raises(ValueError, match="must be real"):
        laziness.snapshot(nn.Linear(2, 2, dtype=torch.complex64))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="0.weight must be finite, but 1 of 18"):
        laziness.compare(before, model, x)


# ---- the report ----


def test_a_report_prints_goes_to_pandas_and_json_and_plots_itself():
    model, x, _ = ready("relu")
    before = laziness.snapshot(model)
    same = laziness.compare(before, model, x)
    assert "linear-model gap" not in {m.name for m in same.measures}
    assert "No weight has changed" in str(same) and same["kernel change"] == 0 and same["displacement"] == 0
    move(model)
    report = laziness.compare(before, model, x, torch.randn(6, 2))
    frame = report.to_frame()
    assert list(frame.columns) == ["measure", "layer", "value", "error"] and len(frame) == len(report.measures)
    read = json.loads(report.to_json())
    assert [row["value"] for row in read["measures"]] == [m.value for m in report.measures]
    assert f"{report['kernel change']:.4g}" in str(report) and "‖K − K0‖/‖K0‖" in str(report)
    with pytest.raises(KeyError, match="no 'laziness', it has: displacement"):
        report["laziness"]
    axes = report.plot(other=same)
    drawn = [value for container in axes.containers for value in container.lines[0].get_xdata()]
    assert axes.get_xlim()[1] > 1.2 * max(drawn) > 0
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"this run", "other"}
    assert "kernel change" in {label.get_text() for label in axes.get_yticklabels()}


# ---- at_init, Tracker, coord_check ----


def full_kappa(model, x, y):
    """κ, c and κ/(2c) from the full Jacobian and Hessian of one output; ‖D²h‖ over many directions."""
    net = copy.deepcopy(model)
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    w = weights(net)

    def h(w):
        parts = w.split([s.numel() for s in shapes])
        given = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(net, given, (x,)).squeeze(1) / math.sqrt(len(x))

    j, hessian = torch.func.jacrev(h)(w), torch.func.jacrev(torch.func.jacrev(h))(w)  # (n, P), (n, P, P)
    residual = h(w) - y / math.sqrt(len(x))
    best = 0.0
    for seed in range(30):  # alternate ν and u, from many starts
        nu = torch.randn(len(x), dtype=F64, generator=torch.Generator().manual_seed(seed))
        for _ in range(200):
            values, vectors = torch.linalg.eigh(torch.einsum("i,ipq->pq", nu / nu.norm(), hessian))
            u = vectors[:, values.abs().argmax()]
            nu = torch.einsum("ipq,p,q->i", hessian, u, u)
        best = max(best, nu.norm().item())
    dh, gradient = torch.linalg.matrix_norm(j, 2).item(), (j.T @ residual).norm().item()
    kappa = residual.norm().item() * best / dh**2
    return kappa, gradient / dh / residual.norm().item(), gradient * best / dh


def test_at_init_is_what_the_full_hessian_gives():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1)).double()
    x, y = torch.randn(5, 2).double(), torch.randn(5).double()
    found = laziness.at_init(model, x, y, tol=1e-5)
    kappa, c, rate = full_kappa(model, x, y)
    assert found.kappa == pytest.approx(kappa, rel=1e-3) and found.alignment == pytest.approx(c, rel=1e-4)
    assert found.ratio == pytest.approx(kappa / 2 / c, rel=1e-3) and found.converged
    assert found.lazy_until == pytest.approx(0.1 / rate, rel=1e-3)
    assert "κ/(2c)" in str(found)
    with pytest.raises(ValueError, match="needs targets"):
        laziness.at_init(model, x)
    with pytest.raises(ValueError, match="loss and gradient must be positive"):
        laziness.at_init(model, x, model(x).detach())


def test_at_init_of_another_loss_is_the_ratio_of_first_changes():
    """κ/(2c) is the relative change of Dh over that of the loss in a short step, here for cross-entropy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(5, 2).double(), torch.tensor([0, 1, 2, 1, 0])
    found = laziness.at_init(model, x, y)
    risk = nnf.cross_entropy(model(x), y)
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(risk, list(model.parameters()))]).norm().item()
    assert found.learning_time == pytest.approx(risk.item() / slope**2)
    assert found.ratio == pytest.approx(risk.item() * found.hessian_norm / slope / found.jacobian_norm)
    assert found.kappa == pytest.approx(2 * found.alignment * found.ratio)
    assert found.kappa == pytest.approx(found.residual * found.hessian_norm / found.jacobian_norm**2)


def test_a_tracker_records_what_compare_gives_at_growing_steps():
    model, x, _ = ready("relu")
    y, descent = torch.randn(6, 2).double(), torch.optim.Adam(model.parameters(), 0.05)
    tracker = laziness.Tracker(model, x, y)
    for _ in range(20):
        descent.zero_grad()
        (model(x) - y).square().mean().backward()
        descent.step()
        tracker.step()
    frame = tracker.to_frame()
    assert list(frame.index) == [0, 1, 2, 3, 4, 6, 8, 11, 15, 20]
    report = laziness.compare(tracker.before, model, x, y)
    for name in ("displacement", "output change", "linear-model gap", "activation stability"):
        assert frame.loc[20, name] == pytest.approx(report[name], rel=1e-9)
    assert frame.loc[20, "loss"] == pytest.approx(report["loss after"])
    assert frame.loc[0, "loss"] == pytest.approx(report["loss before"])
    assert frame["displacement"].is_monotonic_increasing
    tracker.plot()
    with pytest.raises(ValueError, match="growth must be"):
        laziness.Tracker(model, x, growth=1.0)


def ntk(width):
    """Sums of unit variance over √fan in, in the neural-tangent parametrization."""

    class Layer(nn.Linear):
        def forward(self, x):
            return x @ self.weight.T / math.sqrt(self.in_features)

    layers = [Layer(3, width, bias=False), nn.ReLU(), Layer(width, width, bias=False), nn.ReLU()]
    made = nn.Sequential(*layers, Layer(width, 1, bias=False))
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def test_coord_check_finds_the_exponents_of_the_tangent_parametrization():
    x, y = torch.randn(8, 3), torch.randn(8)
    found = laziness.coord_check(ntk, [64, 256, 1024], x, y, seeds=range(4), steps=2)
    size, change = found.exponents["2"]
    assert abs(size) < 0.15 and change == pytest.approx(-0.5, abs=0.15)  # hidden features move as width^(−1/2)
    assert abs(found.exponents["4"][1]) < 0.3  # the output moves by order one
    assert found.size.shape == (3, 3, 5) and found.change[:, 0].max() == 0
    assert len(found.to_frame()) == 3 * 3 * 5 and "size ∝ width^" in str(found)
    for given, sentence in [(dict(widths=[4]), "at least two"), (dict(widths=[2, 4], steps=0), "steps")]:
        with pytest.raises(ValueError, match=sentence):
            laziness.coord_check(ntk, x=x, y=y, **given)


def test_two_inputs_by_a_loader_of_pairs():
    torch.manual_seed(0)
    model, y = Two(), torch.randn(6, 2)
    before = laziness.snapshot(model)
    move(model)
    a, b = torch.randn(6, 3), torch.randn(6, 2)
    loader = [({"a": a[:4], "b": b[:4]}, y[:4]), ({"a": a[4:], "b": b[4:]}, y[4:])]
    one = laziness.compare(before, model, (a, b), y, output=logits)
    other = laziness.compare(before, model, iter(loader), output=logits)
    assert [m.value for m in one.measures] == pytest.approx([m.value for m in other.measures])


def test_the_same_seed_gives_the_same_bits():
    torch.manual_seed(0)
    model, x = TinyGPT().eval(), torch.randint(7, (40, 5))
    before = laziness.snapshot(model)
    move(model)
    a, b = (laziness.compare(before, model, x, seed=5, inputs=6) for _ in range(2))
    assert a.measures == b.measures and a.find("kernel change").error > 0
    assert laziness.compare(before, model, x, seed=6, inputs=6)["kernel change"] != a["kernel change"]
