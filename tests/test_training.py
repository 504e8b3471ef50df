"""Training against torch's own SGD in the weights w, resuming, checkpoints, and refusals."""

import copy
import io
import math
import pickle
import re

import pytest
import torch

from lazylib.flows import Recipe, accuracy, best_precision, classifier, stability, train
from lazylib.flows.classifier import computing
from lazylib.nets import Scaled, convnet, plain_outputs
from lazylib.problems import Images, augment
from lazylib.runs import generator
from lazylib.runs.files import write_sealed


@pytest.fixture(scope="module")
def data():
    """Three classes of images: which channel is bright."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(3, (50,), generator=rng)
    x = torch.randint(160, (50, 3, 32, 32), generator=rng, dtype=torch.uint8)
    x[torch.arange(50), y] += 90
    return Images("channels", x[:40], y[:40], x[40:], y[40:], (0.4,) * 3, (0.2,) * 3)


def model(alpha=10.0, k=1 / 32):
    return Scaled(convnet("vgg11", k, gain=1.4, classes=3), alpha)


SHORT = Recipe(epochs=3, batch=16, lr=0.003)


def by_hand(data, alpha, recipe, seed):
    """The published loop: SGD on the weights w of the network, of R(αh)/α², in float64, by torch alone."""
    start = convnet("vgg11", 1 / 32, gain=1.4, classes=3).double()
    net = copy.deepcopy(start)
    optimizer = torch.optim.SGD(net.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.lr / (1 + recipe.decay * epoch)
        rng = generator(seed, f"epoch {epoch}")
        order = torch.randperm(40, generator=rng)
        shift, flip = torch.randint(9, (40, 2), generator=rng), torch.rand(40, generator=rng) < 0.5
        for rows in order.split(recipe.batch):
            x = augment(data.x[rows], shift[rows], flip[rows]) if recipe.augment else data.x[rows]
            x = ((x.float() / 255 - 0.4) / 0.2).double()
            outputs = alpha * (net(x) - start(x).detach())
            if recipe.loss == "square":
                loss = (outputs - torch.eye(3).double()[data.y[rows]]).square().mean()
            else:
                loss = -outputs.log_softmax(1)[torch.arange(len(rows)), data.y[rows]].mean()
            optimizer.zero_grad()
            (loss / alpha**2).backward()
            optimizer.step()
    return {name: alpha * (w - w0) for (name, w), w0 in zip(net.named_parameters(), start.parameters(), strict=True)}


@pytest.mark.parametrize("alpha", [1.0, 50.0])
@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("augmented", [True, False])
def test_it_is_the_published_loop_in_other_variables(data, alpha, loss, augmented):
    recipe = Recipe(loss, epochs=2, batch=16, lr=0.003, augment=augmented)
    ours = Scaled(convnet("vgg11", 1 / 32, gain=1.4, classes=3).double(), alpha)
    list(train(ours, data, recipe, seed=3, precision="float64"))
    expected = by_hand(data, alpha, recipe, 3)
    for name, w in ours.displacement().items():
        torch.testing.assert_close(w.detach(), expected[name], rtol=1e-5, atol=1e-7 * alpha)


def test_in_float32_it_follows_float64_where_the_plain_loop_cannot(data):
    """α = 10⁷: outputs after training, float32 against float64; and the plain formula's error."""
    found = {}
    for precision, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        ours = Scaled(convnet("vgg11", 1 / 32, gain=1.4, classes=3).to(dtype), 1e7)
        list(train(ours, data, SHORT, precision=precision))
        x = data.normalize(data.x_test).to(dtype)
        with torch.no_grad():
            found[precision] = ours(x).double()
            if precision == "float32":
                plain = plain_outputs(ours.module, ours.displacement(), x, 1e7).double()
    size = found["float64"].norm()
    assert (found["float32"] - found["float64"]).norm() < 0.01 * size
    assert (plain - found["float64"]).norm() > 0.3 * size


@pytest.mark.parametrize("alpha", [1.0, 10.0, math.inf])
@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
def test_it_learns_and_reports_what_it_reached(data, alpha, loss):
    ours = model(alpha)
    epochs = list(train(ours, data, Recipe(loss, epochs=8, batch=8, lr=0.003), precision="float32"))
    assert [e.number for e in epochs] == list(range(1, 9)) and not epochs[-1].diverged
    assert epochs[-1].loss < epochs[0].loss and epochs[-1].test_accuracy >= 0.8
    assert epochs[-1].test_accuracy == accuracy(ours, data, precision="float32")
    assert (stability(ours, data, precision="float32") == 1.0) == (alpha == math.inf)


@pytest.mark.parametrize("alpha", [1.0, 10.0, math.inf])
def test_a_killed_run_resumes_to_the_same_weights(data, alpha, tmp_path):
    whole, cut = model(alpha), model(alpha)
    expected = list(train(whole, data, SHORT, precision="float32"))
    for epoch in train(cut, data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"):
        if epoch.number == 2:
            break  # as good as killed: nothing is written after this
    again = model(alpha)
    found = list(train(again, data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert [(e.loss, e.train_accuracy, e.test_accuracy) for e in found] == [
        (e.loss, e.train_accuracy, e.test_accuracy) for e in expected
    ]
    (file,) = tmp_path.iterdir()
    assert re.fullmatch("run-[0-9a-f]{32}-[0-9a-f]{32}.pt", file.name)


def test_only_some_epochs_are_tested_and_always_the_last(data):
    found = list(train(model(), data, Recipe(epochs=5, batch=16, lr=0.003), precision="float32", test_every=2))
    assert [math.isnan(e.test_accuracy) for e in found] == [True, False, True, False, False]


def test_a_finished_run_is_not_trained_again(data, tmp_path):
    list(train(model(), data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"))
    ((before, content),) = contents(tmp_path).items()
    assert len(list(train(model(), data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"))) == 3
    assert contents(tmp_path) == {before: content}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def own(factor):
    """A model with other code, but the same weights, for each factor; as after an edit between two sessions."""
    names = {"__name__": "notebook", "Linear": torch.nn.Linear}
    exec(
        f"class Net(Linear):\n    def forward(self, x): return {factor} * super().forward(x.flatten(1)[:, :4])",
        names,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return names["Net"](4, 3)


@pytest.mark.parametrize("change", ["recipe", "alpha", "weights", "data", "seed", "code"])
def test_another_run_starts_anew_beside_a_checkpoint_and_leaves_it_alone(data, tmp_path, change):
    path = tmp_path / "run.pt"
    first = own(1.0) if change == "code" else model()
    next(train(first, data, SHORT, precision="float32", checkpoint=path))
    ((name, before),) = contents(tmp_path).items()
    net, images, recipe, seed = {
        "recipe": (model, data, Recipe(epochs=3, batch=16, lr=0.004), 0),
        "alpha": (lambda: model(20.0), data, SHORT, 0),
        "weights": (lambda: Scaled(convnet("vgg11", 1 / 32, classes=3), 10.0), data, SHORT, 0),
        "data": (model, data.take(39, 10), SHORT, 0),
        "seed": (model, data, SHORT, 1),
        "code": (lambda: own(2.0), data, SHORT, 0),
    }[change]
    fresh = next(train(net(), images, recipe, seed=seed, precision="float32"))
    beside = next(train(net(), images, recipe, seed=seed, precision="float32", checkpoint=path))
    assert beside[:4] == fresh[:4] and contents(tmp_path)[name] == before and len(contents(tmp_path)) == 2


def test_a_run_that_outlives_an_edit_of_lazylib_is_no_other_run_s_beginning(data, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    next(train(model(), data, SHORT, precision="float32", checkpoint=path))
    monkeypatch.setattr(classifier, "LOADED", b"what this process had loaded before the edit")
    next(train(model(), data, SHORT, precision="float32", checkpoint=path))
    assert len(contents(tmp_path)) == 2


def test_no_flipped_bit_cut_or_other_name_of_a_checkpoint_is_taken(data, tmp_path):
    """40 bits spread over the file: each is warned about, and the run starts anew."""
    path = tmp_path / "run.pt"
    next(train(own(1.0), data, SHORT, precision="float32", checkpoint=path))
    key = classifier._key(own(1.0), data, SHORT, 0, "float32")
    ((name, content),) = contents(tmp_path).items()
    file, net = tmp_path / name, own(1.0)
    untouched = [w.clone() for w in net.parameters()]
    taken = []
    for k in range(40):
        damaged = bytearray(content)
        damaged[k * len(content) // 40] ^= 1 << k % 8
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged and is not used"):
            taken += classifier._load(path, key, list(net.parameters()), [], None)
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:cut])
        with pytest.warns(UserWarning, match="is damaged and is not used"):
            taken += classifier._load(path, key, list(net.parameters()), [], None)
    file.write_bytes(content)
    other = file.rename(tmp_path / name.replace(key, "0" * 32))
    with pytest.warns(UserWarning, match="is damaged and is not used"):
        taken += classifier._load(path, "0" * 32, list(net.parameters()), [], None)
    assert taken == [] and all(map(torch.equal, untouched, net.parameters()))

    other.rename(file)
    assert len(list(train(own(1.0), data, SHORT, precision="float32", checkpoint=path))) == 3


def test_of_two_checkpoints_of_a_run_the_later_counts_and_a_damaged_one_is_replaced(data, tmp_path):
    """As a kill between the write of one and the removal of the other leaves them."""
    path, seen = tmp_path / "run.pt", {}
    for _ in train(own(1.0), data, SHORT, precision="float32", checkpoint=path):
        seen |= contents(tmp_path)
    assert len(seen) == 3
    for name, content in seen.items():
        (tmp_path / name).write_bytes(content)
    before = contents(tmp_path)
    assert len(list(train(own(1.0), data, SHORT, precision="float32", checkpoint=path))) == 3
    assert contents(tmp_path) == before  # nothing was trained again
    last = list(seen)[-1]
    (tmp_path / last).write_bytes(seen[last][:-1])
    with pytest.warns(UserWarning, match=f"{last} is damaged"):
        assert len(list(train(own(1.0), data, SHORT, precision="float32", checkpoint=path))) == 3
    (file,) = tmp_path.iterdir()  # of another name, since the speed is another
    assert len(list(train(own(1.0), data, SHORT, precision="float32", checkpoint=path))) == 3


def test_a_checkpoint_cannot_run_code(data, tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, ("raise SystemExit('code was run')",)

    buffer = io.BytesIO()
    torch.save({"history": Evil()}, buffer)
    key = classifier._key(own(1.0), data, SHORT, 0, "float32")
    write_sealed(tmp_path, f"run-{key}", ".pt", buffer.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        next(train(own(1.0), data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"))


def test_a_run_that_diverges_says_so_and_stops(data):
    epochs = list(train(model(math.inf), data, Recipe(epochs=50, batch=8, lr=1e6), precision="float32"))
    assert epochs[-1].diverged and len(epochs) < 50


def test_bfloat16_learns_as_float32_does(data):
    found = [
        list(train(model(), data, Recipe(epochs=8, batch=8, lr=0.003), precision=name))[-1]
        for name in ("float32", "bfloat16")
    ]
    assert abs(found[0].loss - found[1].loss) < 0.15 * found[0].loss


def test_precision_is_what_it_says():
    a = torch.randn(64, 64)
    with computing("bfloat16", "cpu"):
        assert (a @ a).dtype == torch.bfloat16
    with computing("float32", "cpu"):
        assert (a @ a).dtype == torch.float32
    assert best_precision("cpu") in ("bfloat16", "float32")


def steps_of(data, recipe=SHORT):
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=recipe.lr, momentum=recipe.momentum, fused=True)
    return classifier._Steps(trained, data, recipe, optimizer, "float32")


def test_a_recorded_step_is_the_step(data):
    """As on a GPU, but what is recorded is made anew each time; the last batch of an epoch is not full."""
    recipe = Recipe(lr=0.01, epochs=3, batch=7)
    plain, recorded = steps_of(data, recipe), steps_of(data, recipe)
    replays = []

    class Graph:
        def replay(self):
            replays.append(recorded.rows.clone())
            recorded._compute(recorded.rows)

    recorded.before = classifier.WARM
    recorded._record = lambda: setattr(recorded, "graph", Graph())
    assert [plain.epoch(0, number) for number in range(3)] == [recorded.epoch(0, number) for number in range(3)]
    full = len(data.x) // 7
    assert len(replays) == 3 * full - classifier.WARM and len(data.x) % 7
    assert not torch.equal(replays[0], replays[1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a graph can be recorded")
def test_a_step_that_cannot_be_recorded_is_made_all_the_same(data):
    plain, steps = steps_of(data), steps_of(data)
    steps.before = classifier.WARM
    with pytest.warns(UserWarning, match="no CUDA graph"):
        found = [steps.epoch(0, number) for number in range(2)]
    assert found == [plain.epoch(0, number) for number in range(2)]


def test_a_large_checkpoint_is_written_where_the_caller_stops(data, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "SMALL", 0)
    monkeypatch.setattr(classifier, "WRITTEN", 1e-9)  # never worth it
    recipe, file = Recipe(lr=0.01, epochs=4, batch=8), tmp_path / "run.pt"
    for epoch in train(model(), data, recipe, precision="float32", checkpoint=file):
        assert not list(tmp_path.iterdir())
        if epoch.number == 2:
            break
    assert len(list(tmp_path.iterdir())) == 1
    found = [e.loss for e in train(model(), data, recipe, precision="float32", checkpoint=file)]
    assert found == [e.loss for e in train(model(), data, recipe, precision="float32")]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"loss": "hinge"}, "square, cross-entropy"),
        ({"lr": 0.0}, "lr must"),
        ({"lr": math.nan}, "lr must"),
        ({"epochs": 0}, "epochs must"),
        ({"batch": 2.5}, "batch must"),
        ({"momentum": 1.0}, "momentum must"),
        ({"decay": -1.0}, "decay must"),
    ],
)
def test_bad_recipes_are_refused_in_one_sentence(arguments, word):
    with pytest.raises(ValueError, match=word):
        Recipe(**arguments)


def test_an_unknown_precision_is_refused(data):
    with pytest.raises(ValueError, match="precision must be one of"):
        next(train(model(), data, SHORT, precision="float8"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_does_what_it_does_on_a_cpu(data):
    losses = [
        [e.loss for e in train(model().to(device), data.to(device), SHORT, precision="float32")]
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=0)


def test_the_step_rises_and_falls_in_line():
    recipe = Recipe(lr=3.0, epochs=10, rise=0.2)
    assert [recipe.step(t) for t in (0, 1, 2, 6, 10)] == pytest.approx([0, 1.5, 3, 1.5, 0])
    assert Recipe(lr=3.0).step(2.9) == pytest.approx(3 / (1 + 2 / 3))  # as published: one step an epoch


@pytest.mark.parametrize("rise", [0.0, 0.3])
def test_a_run_lasts_as_long_as_its_steps_together(data, rise):
    """Of a linear model with constant gradient the weights move by that time."""

    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.w + torch.zeros(len(x), 3)

    recipe = Recipe("square", epochs=400, batch=16, lr=1e-6, momentum=0.5, rise=rise, augment=False)
    model, slope = Constant(), 2 / 3  # of the loss at w = 0: 2·mean(f − one-hot), the mean of one-hot being 1/3
    list(train(model, data, recipe, precision="float32", test_every=400))
    expected = slope * recipe.time(3)  # three batches an epoch; the momentum needs a few to build up
    assert float(model.w) == pytest.approx(expected, rel=0.05)


def test_where_the_start_is_had_once_the_training_is_the_same(data, monkeypatch):
    calls = []
    recipe = Recipe(lr=0.01, epochs=3, batch=7, augment=False)
    once, anew = (Scaled(convnet("vgg11", 1 / 32, gain=1.4, classes=3), 1.0, two_passes=True) for _ in range(2))
    monkeypatch.setattr(once, "after", lambda start, x: calls.append(1) or Scaled.after(once, start, x))
    found = [e.loss for e in train(once, data, recipe, precision="float32")]
    monkeypatch.setattr(anew, "two_passes", False)  # by differences
    expected = [e.loss for e in train(anew, data, recipe, precision="float32")]
    assert len(calls) == 18 and found == pytest.approx(expected, rel=1e-4)
    monkeypatch.undo()
    images = data.normalize(data.x)
    with torch.no_grad():
        torch.testing.assert_close(once.after(once.start(images), images), once(images))
        twice = once.after(2 * once.start(images), images)
        torch.testing.assert_close(once(images) - twice, once.start(images))


def test_running_statistics_resume_with_the_weights(data, tmp_path):
    def network():
        torch.manual_seed(0)
        body = torch.nn.Conv2d(data.x.shape[1], 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
        return torch.nn.Sequential(*body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10))

    whole, cut, again = network(), network(), network()
    list(train(whole, data, SHORT, precision="float32"))
    for epoch in train(cut, data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"):
        if epoch.number == 2:
            break
    list(train(again, data, SHORT, precision="float32", checkpoint=tmp_path / "run.pt"))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), again.buffers(), strict=True))


@pytest.mark.parametrize("every", [0, 1.5])
def test_how_often_is_tested_is_checked_before_work(data, every):
    with pytest.raises(ValueError, match="test_every must be a whole number ≥ 1"):
        next(train(model(1.0), data, SHORT, test_every=every))
