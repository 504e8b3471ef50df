"""Training an image classifier by stochastic gradient descent: resumable, one epoch at a time.

    for epoch in train(Scaled(convnet("vgg11"), alpha), images, Recipe(), checkpoint="vgg11.pt"):
        ...

The caller decides when to stop. Each epoch is on disk before it is yielded, and its random numbers depend on
seed and epoch alone, so that a run that was killed and called again ends with the same weights.
"""

import contextlib
import io
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from multiprocessing import current_process
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..problems.images import Images, augment
from ..runs.cell_key import identity
from ..runs.files import LOADED, digest, read_sealed, remove, sealed, source_digest, write_sealed
from ..runs.rng import generator

LOSSES = ("square", "cross-entropy")
PRECISIONS = ("bfloat16", "tf32", "float32", "float64")
EVALUATED = 500  # images a batch where nothing is trained
SMALL, WRITTEN = 2e8, 4e8  # bytes of a checkpoint that is written after every epoch; bytes written a second, about
WARM = 3  # steps before one is recorded, so that what is made at a first use is there


@dataclass(frozen=True)
class Recipe:
    """How to train a classifier; the defaults are those of COB, figure 3a.

    The step is lr/(1 + decay·t) throughout epoch t = 0, 1, …, as published. With a `rise` it is another one, which gets
    further in few epochs: it rises in line to lr, over that share of the run, and falls in line to 0 at its end.

    Args:
        loss: "square" (mean over images and classes of (f − one-hot)², as torch's MSELoss has it, without ½) or
            "cross-entropy".
        lr: the largest step.
        epochs: passes over the training images.
        batch: images of a batch; the last batch of an epoch holds what is left.
        momentum: from 0 to below 1.
        decay: see above; without a meaning where there is a rise.
        rise: from 0 (none, as published) to below 1.
        augment: whether each image is cropped from itself with a black border of 4 pixels, and mirrored
            half of the time.

    Raises:
        ValueError: a value that is not allowed, in one sentence.

    Source: Chizat, Oyallon, Bach 2019, section 3.2 and its public code.

    Example:
        >>> from lazylib.flows import Recipe
        >>> Recipe(lr=0.1, epochs=3).batch
        128
    """

    loss: str = "square"
    lr: float = 1.0
    epochs: int = 70
    batch: int = 128
    momentum: float = 0.9
    decay: float = 1 / 3
    augment: bool = True
    rise: float = 0.0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}.")
        for name, least in (("epochs", 1), ("batch", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) and value >= least):
                raise ValueError(f"{name} must be a whole number ≥ {least}, not {value!r}.")
        for name, fine in (
            ("lr", self.lr > 0),
            ("momentum", 0 <= self.momentum < 1),
            ("decay", self.decay >= 0),
            ("rise", 0 <= self.rise < 1),
        ):
            if not (math.isfinite(getattr(self, name)) and fine):
                allowed = {"lr": "positive", "decay": "0 or positive"}.get(name, "from 0 to below 1")
                raise ValueError(f"{name} must be finite and {allowed}, not {getattr(self, name)}.")

    def step(self, t: float) -> float:
        """The step after t epochs, 0 ≤ t ≤ epochs.

        Example:
            >>> from lazylib.flows import Recipe
            >>> Recipe(lr=1.0).step(3.5), Recipe(lr=1.0, epochs=10, rise=0.5).step(2.5)
            (0.5, 0.5)
        """
        if not self.rise:
            return self.lr / (1 + self.decay * int(t))
        done = t / self.epochs
        return self.lr * min(done / self.rise, (1 - done) / (1 - self.rise))

    def time(self, batches: int) -> float:
        """The time of gradient flow that a run lasts: the sum of its steps over 1 − momentum.

        batches: of an epoch.

        Example:
            >>> from lazylib.flows import Recipe
            >>> round(Recipe(lr=0.1, epochs=1, momentum=0.5).time(batches=10), 6)
            2.0
        """
        moments = [(number + (i + 0.5) / batches) for number in range(self.epochs) for i in range(batches)]
        return sum(map(self.step, moments)) / (1 - self.momentum)

    def objective(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean loss of outputs (n, classes) against class numbers y (n,)."""
        if self.loss == "square":
            return nnf.mse_loss(outputs, nnf.one_hot(y, outputs.shape[1]).to(outputs.dtype))
        return nnf.cross_entropy(outputs, y)


class Epoch(NamedTuple):
    """What an epoch of `train` reports. Accuracies are shares; loss and train_accuracy are means over its batches as
    they came, augmented and before each step. diverged: the loss was no longer finite, and training ended."""

    number: int  # 1, 2, …
    loss: float
    train_accuracy: float
    test_accuracy: float
    images_per_second: float  # training alone
    diverged: bool


def train(
    model: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    precision: str | None = None,
    test_every: int = 1,
    title: str = "training",
) -> Iterator[Epoch]:
    """Train the model's parameters in place; yields each `Epoch`, those of a resumed run again first.

    model: maps normalized images (n, c, h, w) to outputs (n, classes); on the device of `images`.
    seed: of the order of the images and of their augmentation.
    checkpoint: file that is replaced, whole, after every epoch, or, where that would cost more than a twentieth of
        the time, as often as it does not, and where the caller stops; a run goes on from there. Its name gets a digest
        of what the run depends on (weights, data, settings, code) and one of its content, as
        "vgg11-<run>-<content>.pt": other runs start anew beside it. It holds tensors and numbers only
        (`torch.load(…, weights_only=True)`).
    precision: of convolutions and matrix products: "bfloat16" (autocast; parameters and sums stay float32),
        "tf32" (CUDA), "float32", "float64"; by default `best_precision` of the device.
    test_every: epochs from one test to the next; the last is always tested, the others report NaN.

    Raises ValueError for an unknown precision, a test_every that is no whole number ≥ 1, or images without test
    images, TypeError for a model without a value by which to know its run again, if there is a checkpoint. A
    checkpoint that is damaged is warned about and the run starts anew.

    Example:
        >>> import torch
        >>> from lazylib.flows import Recipe, train
        >>> from lazylib.problems import Images
        >>> x = torch.cat([torch.zeros(8, 1, 4, 4), torch.full((8, 1, 4, 4), 255.0)]).byte()
        >>> y = torch.arange(2).repeat_interleave(8)
        >>> images = Images("made", x, y, x, y, (0.5,), (0.5,))
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
        >>> [*_, last] = train(model, images, Recipe(lr=0.01, epochs=5, augment=False), precision="float32")
        >>> last.number, last.test_accuracy
        (5, 1.0)
    """
    device = images.x.device
    precision = _checked_precision(precision, device)
    if not (isinstance(test_every, int) and test_every >= 1):
        raise ValueError(f"test_every must be a whole number ≥ 1, not {test_every!r}.")
    if not len(images.x_test):
        raise ValueError(f"{images.name} has no test images: take some of the training images for them.")
    parameters = [w for w in model.parameters() if w.requires_grad]
    if not parameters:
        raise ValueError("the model must have at least one trainable parameter, it has none.")
    lr = torch.tensor(recipe.lr, device=device) if device.type == "cuda" else recipe.lr  # a graph reads it anew
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=recipe.momentum, fused=True)
    path = None if checkpoint is None else Path(checkpoint)
    key = _key(model, images, recipe, seed, precision) if path else ""
    buffers = list(model.buffers())  # running statistics belong to what was trained
    history = _load(path, key, parameters, buffers, optimizer) if path else []
    yield from history
    if history and history[-1].diverged:
        return
    steps = _Steps(model, images, recipe, optimizer, precision)
    size, saved = sum(2 * w.numel() * w.element_size() for w in parameters), time.perf_counter()
    beside = current_process().name != "MainProcess"  # the bars of several processes would write over each other
    progress = tqdm(total=recipe.epochs, initial=len(history), desc=title, unit="epoch", leave=False, disable=beside)
    with progress:
        for number in range(len(history), recipe.epochs):
            start = time.perf_counter()
            loss, right = steps.epoch(seed, number)
            speed = len(images.x) / (time.perf_counter() - start)
            last = number + 1 == recipe.epochs or not math.isfinite(loss)
            test = accuracy(model, images, precision=precision) if last or (number + 1) % test_every == 0 else math.nan
            epoch = Epoch(number + 1, loss, right, test, speed, not math.isfinite(loss))
            history.append(epoch)
            worth = path and (size < SMALL or time.perf_counter() - saved > 20 * size / WRITTEN)
            if path and worth:
                _save(path, key, parameters, buffers, optimizer, history)
                saved = time.perf_counter()
            progress.update()
            progress.set_postfix_str(f"loss {loss:.3g}, accuracy {right:.1%}, {speed:.0f} images/s")
            try:
                yield epoch
            except GeneratorExit:  # the caller stops here
                if path and not worth:
                    _save(path, key, parameters, buffers, optimizer, history)
                raise
            if epoch.diverged:
                return


def best_precision(device: str | torch.device) -> str:
    """The fastest precision that a device has natively.

    Args:
        device: "cpu" or "cuda…".

    Returns:
        "bfloat16" where it is native (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX), else "float32".

    Example:
        >>> from lazylib.flows import best_precision
        >>> best_precision("cpu") in ("bfloat16", "float32")
        True
    """
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
    return "bfloat16" if native else "float32"


def accuracy(model: nn.Module, images: Images, *, part: str = "test", precision: str | None = None) -> float:
    """Share of the test images (or part="train") that the model puts in their class.

    Args:
        model: (n, c, h, w) normalized images → (n, classes).
        images: the set, on the model's device.
        part: "test" or "train".
        precision: as for `train`.

    Returns:
        Between 0 and 1.

    Example:
        >>> import torch
        >>> from lazylib.flows import accuracy
        >>> from lazylib.problems import Images
        >>> black, white = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
        >>> x, y = torch.cat([black, white]), torch.tensor([0, 0, 1, 1])
        >>> images = Images("made", x, y, x, y, (0.5,), (0.5,))
        >>> brightness = lambda x: torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)
        >>> accuracy(brightness, images, precision="float32")
        1.0
    """
    right = correct(model, images, part=part, precision=precision)
    return int(right.sum()) / len(right)


@torch.no_grad()
def correct(model: nn.Module, images: Images, *, part: str = "test", precision: str | None = None) -> Tensor:
    """Which of the test images (or part="train") the model puts in their class.

    Args:
        model: (n, c, h, w) normalized images → (n, classes).
        images: the set, on the model's device.
        part: "test" or "train".
        precision: as for `train`.

    Returns:
        Booleans, (n,).

    Example:
        >>> import torch
        >>> from lazylib.flows import correct
        >>> from lazylib.problems import Images
        >>> x, y = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0])
        >>> images = Images("made", x, y, x, y, (0.5,), (0.5,))
        >>> always_first = lambda x: torch.tensor([1.0, 0.0]).expand(len(x), 2)
        >>> correct(always_first, images, precision="float32")
        tensor([ True, False,  True])
    """
    x, y = (images.x, images.y) if part == "train" else (images.x_test, images.y_test)
    precision = _checked_precision(precision, x.device)
    right = []
    for some, classes in zip(x.split(EVALUATED), y.split(EVALUATED), strict=True):
        with computing(precision, x.device):
            right.append(model(_inputs(images, some, precision)).argmax(1) == classes)
    return torch.cat(right)


@torch.no_grad()
def stability(model: Any, images: Images, *, of: str = "units", precision: str | None = None) -> float:
    """Share of ReLU units, over test images and layers, on the same side of the kink as at w0.

    Args:
        model: a `lazylib.nets.Scaled`; any with a method `stability(x, of)`.
        images: the set, on the model's device.
        of: "units", or "windows" for the share of max-pooling windows whose largest value is where it was at w0. The
            published script counts both, layer by layer.
        precision: as for `train`.

    Returns:
        Between 0 and 1; 1 in the lazy limit.

    Source: Chizat, Oyallon, Bach 2019, figure 3a.

    Example:
        >>> import torch
        >>> from lazylib.flows import stability
        >>> from lazylib.nets import Scaled
        >>> from lazylib.problems import Images
        >>> x, y = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
        >>> images = Images("made", x, y, x, y, (0.5,), (0.5,))
        >>> layers = torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
        >>> stability(Scaled(torch.nn.Sequential(*layers), alpha=10.0), images, precision="float32")
        1.0
    """
    precision = _checked_precision(precision, images.x.device)
    total = 0.0
    for x in images.x_test.split(EVALUATED):
        with computing(precision, x.device):
            total += model.stability(_inputs(images, x, precision), of) * len(x)
    return total / len(images.x_test)


@contextlib.contextmanager
def computing(precision: str, device: str | torch.device) -> Iterator[None]:
    """Compute convolutions and matrix products in `precision` inside the block."""
    device = torch.device(device)
    if precision == "bfloat16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


# ---- one epoch ----


class _Steps:
    """The steps of a run, batch by batch.

    On CUDA a step on a full batch is recorded as one graph: its hundreds of kernels are short, and to launch them one
    by one takes longer than they do.
    """

    def __init__(self, model, images: Images, recipe: Recipe, optimizer, precision: str):
        self.model, self.images, self.recipe = model, images, recipe
        self.optimizer, self.precision = optimizer, precision
        n, device = len(images.x), images.x.device
        # What a graph reads and writes has one place.
        self.rows = torch.zeros(min(recipe.batch, n), dtype=torch.long, device=device)
        self.shift = torch.zeros(n, 2, dtype=torch.long, device=device)
        self.flip = torch.zeros(n, dtype=torch.bool, device=device)
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # reading them each time would make it wait
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.before = WARM if self.stream else math.inf  # steps before the recording
        # h(w0) of images that come as they are, epoch after epoch, is had once.
        again = getattr(model, "two_passes", False) and not recipe.augment and recipe.epochs > 1
        self.start = _starts(model, images, precision) if again else None

    def epoch(self, seed: int, number: int) -> tuple[float, float]:
        """Mean loss and share of images put in their class, over the batches of epoch `number` = 0, 1, …"""
        rng, n = generator(seed, f"epoch {number}"), len(self.flip)
        order = torch.randperm(n, generator=rng).to(self.rows.device)
        self.shift.copy_(torch.randint(9, (n, 2), generator=rng))
        self.flip.copy_(torch.rand(n, generator=rng) < 0.5)
        self.sums.zero_()
        batches = order.split(self.recipe.batch)
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream) if self.stream else contextlib.nullcontext():
            for i, rows in enumerate(batches):
                self._set_lr(self.recipe.step(number + (i + 0.5) / len(batches)))  # in the middle of the batch
                self._step(rows)
            loss, right = (self.sums / n).tolist()
        if self.stream:
            torch.cuda.current_stream().wait_stream(self.stream)
        return loss, right

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _step(self, rows: Tensor) -> None:
        if len(rows) < len(self.rows) or self.before > 0:
            self._compute(rows)
            self.before -= len(rows) == len(self.rows)
            return
        self.rows.copy_(rows)
        if self.graph is None:
            self._record()
        if self.graph is None:
            self._compute(self.rows)
        else:
            self.graph.replay()

    def _record(self) -> None:
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as one that draws a bar, may use the device meanwhile.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._compute(self.rows)
            self.graph = graph
        except RuntimeError as error:  # whatever cannot be recorded: kernel by kernel is right, only slower
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"no CUDA graph ({reason}), training goes on without it.", stacklevel=2)
            self.before = math.inf

    def _compute(self, rows: Tensor) -> None:
        x, y = self.images.x[rows], self.images.y[rows]
        x = augment(x, self.shift[rows], self.flip[rows]) if self.recipe.augment else x
        x = _inputs(self.images, x, self.precision)
        with computing(self.precision, x.device):
            outputs = self.model(x) if self.start is None else self.model.after(self.start[rows], x)  # (n, classes)
        outputs = outputs.float() if outputs.dtype == torch.bfloat16 else outputs
        loss = self.recipe.objective(outputs, y)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.sums += torch.stack([loss.detach() * len(rows), (outputs.argmax(1) == y).sum()]).to(self.sums)


@torch.no_grad()
def _starts(model, images: Images, precision: str) -> Tensor:
    """h(w0) on all training images."""
    with computing(precision, images.x.device):
        return torch.cat([model.start(_inputs(images, x, precision)) for x in images.x.split(EVALUATED)])


def _inputs(images: Images, x: Tensor, precision: str) -> Tensor:
    x = images.normalize(x)
    return x.double() if precision == "float64" else x


def _checked_precision(precision: str | None, device: torch.device) -> str:
    precision = best_precision(device) if precision is None else precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    return precision


# ---- checkpoints ----


def _key(model: nn.Module, images: Images, recipe: Recipe, seed: int, precision: str) -> str:
    """A digest of all that a run's result depends on: lazylib's code as loaded and as it is now, the model's code, w0,
    u and α, data, recipe, seed and precision."""
    data = [images.name, images.x, images.y, images.x_test, images.y_test, images.mean, images.std]
    run = identity([model, data, astuple(recipe), seed, precision], {}, "the model")
    return digest(LOADED, source_digest(), run).hex()


def _save(path: Path, key: str, parameters: list, buffers: list, optimizer, history: list[Epoch]) -> None:
    """Write the checkpoint whole or not at all; the one before it goes when this one is on disk."""
    momentum = [optimizer.state[w].get("momentum_buffer") for w in parameters]
    content = {
        "parameters": [w.detach().cpu() for w in parameters],
        "buffers": [b.detach().cpu() for b in buffers],
        "momentum": [None if m is None else m.cpu() for m in momentum],
        "history": [list(e) for e in history],
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    name = f"{path.stem}-{key}"
    newest = write_sealed(path.parent, name, path.suffix, buffer.getvalue())
    for old in sealed(path.parent, name, path.suffix):
        if old != newest:
            remove(old)


def _load(path: Path, key: str, parameters: list, buffers: list, optimizer) -> list[Epoch]:
    """Put parameters and momentum back; returns the epochs so far, none if there is no checkpoint of this run."""
    contents = []
    for file in sealed(path.parent, f"{path.stem}-{key}", path.suffix):
        data = read_sealed(file)
        if data is None:
            warnings.warn(f"the checkpoint {file} is damaged and is not used.", stacklevel=3)
            continue
        contents.append(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    if not contents:
        return []
    content = max(contents, key=lambda found: len(found["history"]))
    with torch.no_grad():
        for w, value, momentum in zip(parameters, content["parameters"], content["momentum"], strict=True):
            w.copy_(value)
            if momentum is not None:
                optimizer.state[w]["momentum_buffer"] = torch.empty_like(w).copy_(momentum)
        for buffer, value in zip(buffers, content["buffers"], strict=True):
            buffer.copy_(value)
    return [Epoch(*entry) for entry in content["history"]]
