"""What people hand to laziness by mistake, or what only looks so: each ends in one sentence or a right number."""

import collections
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lazylib import laziness
from lazylib.laziness import _checks
from lazylib.runs import _memory
from tests.laziness_models import TinyGPT, Two


def moved(model):
    before = laziness.snapshot(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return before


def net(k=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, k))


X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


# ---- right numbers ----


def test_positions_that_do_not_count_are_left_out_whatever_the_mini_batches():
    torch.manual_seed(0)
    model = TinyGPT().double().eval()
    old, before = copy.deepcopy(model), moved(model)
    x = torch.randint(7, (6, 5))
    y = torch.randint(7, (6, 5))
    y[:2], y[3, 1:] = -100, -100  # a whole mini-batch, and most of another one
    true = nnf.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    zero = torch.zeros(30, 7, dtype=torch.float64, requires_grad=True)
    direction = torch.autograd.grad(nnf.cross_entropy(zero, y.flatten()), zero)[0].flatten()
    rows = []
    for value in old(x).flatten():
        grads = torch.autograd.grad(value, list(old.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    k0 = torch.stack(rows) @ torch.stack(rows).T
    aligned = (direction @ k0 @ direction / k0.norm() / direction.square().sum()).item()
    for batch in (64, 4, 2, 1):
        report = laziness.compare(before, model, x, y, batch=batch)
        assert report["loss after"] == pytest.approx(true, rel=1e-9)
        assert report["label alignment before"] == pytest.approx(aligned, rel=1e-6)
    with pytest.raises(ValueError, match="no class that counts, all are -100"):
        laziness.compare(before, model, x, torch.full_like(y, -100))


def test_any_mapping_goes_by_keyword_also_in_a_loader():
    """What tokenizers return is a UserDict, and no dict."""
    torch.manual_seed(0)
    model, y = Two(), torch.randn(6, 2)
    before, given = moved(model), {"a": torch.randn(6, 3), "b": torch.randn(6, 2)}
    one = laziness.compare(before, model, given, y, output=lambda out: out["logits"])
    for other in (collections.UserDict(given), iter([(collections.UserDict(given), y)])):
        targets = y if isinstance(other, collections.UserDict) else None
        again = laziness.compare(before, model, other, targets, output=lambda out: out["logits"])
        assert again.measures == one.measures


def test_mixed_precision_that_was_put_into_forward_is_off():
    """As accelerate does it, which trains the models of transformers."""
    model = net()
    before = moved(model)
    plain = laziness.compare(before, model, X, Y)
    model._original_forward = model.forward
    mixed = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model.forward = mixed
    assert model(X).dtype == torch.bfloat16
    assert laziness.compare(before, model, X, Y).measures == plain.measures
    assert model.forward is mixed


def test_a_snapshot_of_inference_mode_can_be_differentiated_at():
    model = net()
    with torch.inference_mode():
        before = laziness.snapshot(model)
    other = moved(model)
    assert laziness.compare(before, model, X, Y).measures == laziness.compare(other, model, X, Y).measures


def test_probabilities_and_classes_of_truth_values_are_targets_too():
    model = net()
    before = moved(model)
    one_hot = laziness.compare(before, model, X, nnf.one_hot(Y, 3), "cross-entropy")
    assert one_hot["loss after"] == pytest.approx(laziness.compare(before, model, X, Y)["loss after"], rel=1e-6)
    model = net(2)
    before = moved(model)
    report = laziness.compare(before, model, X, Y > 0)
    assert report["loss after"] == pytest.approx(nnf.cross_entropy(model(X), (Y > 0).long()).item(), rel=1e-6)


# ---- one sentence ----

MISTAKES = {
    "numpy inputs": (dict(x=X.numpy()), "x must be a tensor .* got ndarray"),
    "a data set": (dict(x=TensorDataset(X, Y)), "a loader of pairs, got TensorDataset"),
    "numpy targets": (dict(y=Y.numpy()), "y must be a tensor, one row an input, got ndarray"),
    "a list of targets": (dict(y=Y.tolist()), "y must be a tensor, one row an input, got list"),
    "no such class": (dict(y=Y + 3), "y must be classes from 0 to 2, .* got 3 to 5"),
    "a key as output": (dict(output="logits"), "output must be a function of what the model returns, got 'logits'"),
    "no such attribute": (
        dict(output=lambda out: out.logits),
        "output= fails on what the model returns, a Tensor: .*no attribute 'logits'",
    ),
    "no such key": (
        dict(output=lambda out: {"a": out}["b"]),
        "output= fails on what the model returns, a Tensor: it has no 'b'",
    ),
    "a loss of each input": (
        dict(loss=nn.CrossEntropyLoss(reduction="none")),
        r"loss must give one number, the mean over inputs, got \(6,\)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("asked", ["compare", "at_init"])
def test_a_mistake_ends_in_one_sentence(name, asked):
    wrong, sentence = MISTAKES[name]
    model, given = net(), {"x": X, "y": Y, **wrong}
    before = moved(model)
    if name == "a data set":
        del given["y"]
        if asked == "at_init":
            given["y"] = Y
    with pytest.raises(ValueError, match=sentence) as refused:
        laziness.at_init(model, **given) if asked == "at_init" else laziness.compare(before, model, **given)
    assert "\n" not in str(refused.value)


def test_a_loss_that_is_a_class_and_a_snapshot_that_is_none_are_refused():
    model = net()
    before = moved(model)
    with pytest.raises(TypeError, match="loss must be a name or a function .* got the class CrossEntropyLoss"):
        laziness.compare(before, model, X, Y, nn.CrossEntropyLoss)
    for wrong in (model, model.state_dict()):
        with pytest.raises(TypeError, match=r"before must be what laziness.snapshot\(model\) gave"):
            laziness.compare(wrong, model, X, Y)


@pytest.mark.parametrize("y", [(Y > 0).long(), Y > 0, 0 * Y])
def test_one_output_has_no_classes(y):
    """Cross-entropy of one class is 0, whatever is learned."""
    model = net(1)
    before = moved(model)
    for ask in (lambda: laziness.compare(before, model, X, y), lambda: laziness.at_init(model, X, y)):
        with pytest.raises(ValueError, match="one output has no classes: loss must be"):
            ask()
    assert laziness.compare(before, model, X, y, "bce")["loss after"] == pytest.approx(
        nnf.binary_cross_entropy_with_logits(model(X).squeeze(1), y.float()).item(), rel=1e-6
    )


@pytest.mark.parametrize("loader", [DataLoader(TensorDataset(X), 3), DataLoader(X, 3), [][:0].__iter__()])
def test_a_loader_without_targets_is_refused(loader):
    model = net()
    with pytest.raises(ValueError, match="each a pair .* put x and y together yourself"):
        laziness.compare(laziness.snapshot(model), model, loader)


def test_the_key_that_counts_is_suggested():
    torch.manual_seed(0)
    model = Two()
    with pytest.raises(ValueError, match=r"returns a dict: .* output=lambda out: out\['logits'\]"):
        laziness.compare(laziness.snapshot(model), model, (torch.randn(6, 3), torch.randn(6, 2)))


def test_inputs_that_are_not_in_the_first_dimension_are_refused():
    model = nn.LSTM(4, 5)
    with pytest.raises(ValueError, match="batch_first=True"):
        laziness.compare(moved(model), model, torch.randn(7, 6, 4), output=lambda out: out[0])


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.net, self.reentrant = net(), reentrant

    def forward(self, x):
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)).detach())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("make", [Detached, lambda: Checkpointed(True), lambda: Checkpointed(False)])
def test_at_init_refuses_wrong_derivatives_as_compare_does(make):
    torch.manual_seed(0)
    model = make()
    before = moved(model)
    sentence = r"goes wrong first in|computes them anew in the backward pass"
    with pytest.raises(ValueError, match=sentence):
        laziness.compare(before, model, X, Y)
    with pytest.raises(ValueError, match=sentence):
        laziness.at_init(model, X, Y)


def test_inference_mode_is_refused():
    model = net()
    before = moved(model)
    with torch.inference_mode():
        for ask in (lambda: laziness.compare(before, model, X, Y), lambda: laziness.at_init(model, X, Y)):
            with pytest.raises(ValueError, match=r"no derivatives in torch.inference_mode\(\)"):
                ask()


def test_statistics_that_do_not_fit_the_data_are_spoken_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    before = laziness.snapshot(model)
    model(X), model.eval()
    assert "after some passes in train mode has statistics that fit" in str(laziness.compare(before, model, X))
    assert np.isfinite(laziness.compare(before, model, X)["buffers' share"])


# ---- memory ----


def test_what_cannot_fit_is_refused_before_the_work(monkeypatch):
    model = net()
    before = moved(model)
    monkeypatch.setattr(_memory.psutil, "virtual_memory", lambda: type("Free", (), {"available": 1000}))
    monkeypatch.setattr(_checks, "require_true_tangent", None)  # not reached
    with pytest.raises(
        MemoryError, match="a backward pass over 6 inputs at once needs .* take a batch smaller than 64"
    ):
        laziness.compare(before, model, X, Y)
    with pytest.raises(MemoryError, match="a backward pass over 6 inputs at once needs .* give fewer inputs"):
        laziness.at_init(model, X, Y)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_the_estimate_is_what_a_pass_over_a_whole_mini_batch_keeps(batch, monkeypatch):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 7)), torch.randn(9, 1, 8, 8)
    asked = {}
    for module in (_checks, _memory):
        monkeypatch.setattr(module, "require_memory", lambda needed, what, *_: asked.setdefault(what, needed))
    laziness.compare(moved(model), model, x, batch=batch)
    ((what, needed),) = [(k, v) for k, v in asked.items() if "backward pass over" in k]
    rows, weights = min(batch, 9), sum(p.nbytes for p in model.parameters())
    # the inputs of each layer with weights, the ReLU's output being those of the last one, and the weights
    kept = rows * 4 * 5 * 6 * 6 + x.nbytes + weights  # a mini-batch of x is a view of it
    assert f"{rows} inputs" in what
    assert needed == pytest.approx(2 * kept + 8 * weights, rel=0.02)


# ---- found by a reader of the code ----


class One(nn.Module):
    """A classifier of two classes with one output and no dimension for it."""

    def __init__(self):
        super().__init__()
        self.body = net(1)

    def forward(self, x):
        return self.body(x)[:, 0]


def test_whole_numbers_are_no_probabilities_over_the_inputs():
    model = One()
    with pytest.raises(ValueError, match="one output has no classes"):
        laziness.compare(moved(model), model, X, Y % 2)
    model = net(3)
    with pytest.raises(ValueError, match="must be probabilities, which sum to 1"):
        laziness.compare(moved(model), model, X, torch.ones(6, 3, dtype=int))


def test_probabilities_may_have_the_classes_last():
    model = nn.Sequential(net(15), nn.Unflatten(1, (5, 3)))
    before, y = moved(model), torch.softmax(torch.randn(6, 5, 3), -1)
    found = laziness.compare(before, model, X, y, loss="cross-entropy")["loss after"]
    expected = -(y * torch.log_softmax(model(X), -1)).sum(-1).mean()
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["square", "bce"])
def test_targets_of_another_order_are_refused(loss):
    model = nn.Sequential(net(15), nn.Unflatten(1, (5, 3)))
    with pytest.raises(ValueError, match=r"y must have the shape \(6, 5, 3\) of the outputs, got \(6, 3, 5\)"):
        laziness.compare(moved(model), model, X, torch.rand(6, 3, 5), loss=loss)


def test_targets_of_bce_lie_between_0_and_1():
    model = net(1)
    with pytest.raises(ValueError, match="y of bce must lie between 0 and 1, got -1 to 1"):
        laziness.compare(moved(model), model, X, torch.tensor([-1.0, 1.0] * 3), loss="bce")


def test_a_loss_of_torch_does_not_broadcast():
    model = net(1)
    with pytest.raises(ValueError, match=r"y must have the shape \(6, 1\) of the outputs for this loss, got \(6,\)"):
        laziness.compare(moved(model), model, X, X[:, 0], loss=nnf.mse_loss)


def test_y_has_a_row_for_each_input():
    model = net()
    for measure in (lambda: laziness.Tracker(model, X[:3], Y), lambda: laziness.compare(moved(model), model, X, Y[0])):
        with pytest.raises(ValueError, match="y must have one row for each of the [36] inputs"):
            measure()


def test_training_goes_on_where_no_tangent_model_can_be_had():
    model = nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 2))
    words = torch.randint(10, (6, 3), generator=torch.Generator().manual_seed(0))
    tracker = laziness.Tracker(model, words)
    with torch.no_grad():
        model[1].weight += 0.1
    tracker.step()
    assert len(tracker.records) == 2
    with pytest.raises(ValueError, match="κ needs derivatives of the outputs by the weights, twice"):
        laziness.at_init(model, words, torch.randn(6, 2))


@pytest.mark.parametrize("frozen", [False, True])
def test_the_layer_of_the_outputs_is_no_feature_even_if_it_is_frozen(frozen):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[4].requires_grad_(not frozen)
    before = moved(model)  # the last layer, too
    report = laziness.compare(before, model, X)
    layers = {m.layer: m.value for m in report.measures if m.name == "feature similarity" and m.layer}
    assert set(layers) == set("01234") or frozen
    assert report["feature similarity"] == min(value for name, value in layers.items() if name != "4")


def test_one_input_with_many_outputs_has_a_kernel():
    for n in (1, 2):
        model = nn.Linear(4, 600)
        report = laziness.compare(moved(model), model, X[:n])
        (found,) = [m for m in report.measures if m.name == "kernel change"]
        assert np.isfinite(found.value) and np.isfinite(found.error)


def test_sparse_gradients_count_as_dense_ones_and_a_norm_that_changes_weights_is_refused():
    words, values = torch.arange(6).view(3, 2), []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 2))
        values.append(laziness.compare(moved(model), model, words)["kernel change"])
    assert values[0] == pytest.approx(values[1])
    model = nn.Sequential(nn.Embedding(10, 4, max_norm=1.0), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="Embedding.* changes its weights in each pass: measure with max_norm=None"):
        laziness.compare(laziness.snapshot(model), model, words)


def test_whatever_precision_torch_is_told_to_have_all_digits_are_kept():
    model, values = net(), []
    before = moved(model)
    parts = [getattr(torch.backends.cudnn, "conv", None), getattr(torch.backends.mkldnn, "matmul", None)]
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            values.append(laziness.compare(before, model, X)["kernel change"])
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    for part in filter(None, parts):
        kept = part.fp32_precision
        try:
            part.fp32_precision = "ieee"
            values.append(laziness.compare(before, model, X)["kernel change"])
            assert part.fp32_precision == "ieee"
        finally:
            part.fp32_precision = kept
    assert len(set(values)) == 1


def test_the_kink_of_a_threshold_is_where_it_is():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 64), nn.Threshold(0.5, 0.0), nn.Linear(64, 2))
    with torch.no_grad():
        one[0].weight.zero_(), one[0].bias.fill_(0.3)
        before = laziness.snapshot(one)
        one[0].bias.fill_(0.7)  # each unit passes 0.5, and none passes 0
    assert laziness.compare(before, one, X)["activation stability"] == 0.0
