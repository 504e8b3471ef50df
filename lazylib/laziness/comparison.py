"""A module at two times: how far its weights, its outputs, its kernel and its features went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.rng import generator
from . import _features, _kernel, _losses
from ._checks import require_deterministic, require_finite, require_room, require_true_tangent
from ._losses import Loss
from .report import Measure, Report
from .state import Snapshot, layer_of, snapshot
from .subject import State, Subject, undisturbed

FEATURES = 128  # inputs on which features are compared, at most


def compare(
    before: Snapshot,
    model: nn.Module,
    x: Any,
    y: Tensor | None = None,
    loss: str | Loss | None = None,
    output: Callable[[Any], Tensor] | None = None,
    *,
    inputs: int = 32,
    batch: int = 64,
    seed: int = 0,
) -> Report:
    """How lazily a model was trained: its weights, outputs, tangent kernel and features against those of a snapshot.

    With w0 the weights (and buffers) of the snapshot, w the present ones, u = w − w0, and norms over all inputs:

    - displacement ‖u‖/‖w0‖, whole and by layer;
    - loss before and after; output change ‖h(w) − h(w0)‖/‖h(w0)‖;
    - linear-model gap ‖h(w) − h(w0) − Dh(w0)u‖/‖h(w) − h(w0)‖, by one forward-mode derivative: 0 for a model that
      stayed in its tangent model, about 1 and more where this says nothing of the change;
    - activation stability: share of units, over inputs, on the same side of 0, by layer; for smooth activations the
      sign of the preactivation, which has no such meaning, is reported in a note only;
    - kernel change ‖K − K0‖/‖K0‖ of the tangent kernel of all inputs and outputs, and its alignment yᵀKy/(‖K‖‖y‖²)
      with the labels before and after, where y is −∂R/∂h at h = 0 (one-hot minus 1/k for cross-entropy);
    - feature similarity: unbiased linear CKA of each layer's outputs, before against after; of the whole model it is
      the lowest over the layers before the last one.

    The target of each number is the measure on all of x. The kernel is exact for up to 512 rows (inputs times outputs),
    else it is estimated from `inputs` inputs and random projections of their outputs; features are compared on 128
    inputs at most. Errors are those of this sampling alone, half-widths of 95 % intervals: how much other data or
    seeds would change a number they do not say.

    Weights in half precision are computed with in float32, others in their own dtype. Nothing of the model changes.
    The time is that of 8 passes over x and of 6 passes over each input of the kernel's sample.

    Args:
        before: from `snapshot`, of the same model.
        model: in a mode in which it is deterministic: call ``model.eval()`` where it has dropout or batch
            normalization. Frozen parameters count only if they changed.
        x: inputs (n, …), a tuple of several (positional) or a dict (by keyword); or a loader of pairs (x, y), of which
            all batches are taken.
        y: targets, or None: then there is neither loss nor alignment.
        loss: "square" (½ mean |h − y|²), "cross-entropy" (without positions of class −100), "bce" or a function
            (h, y) → mean over inputs; by default cross-entropy for whole numbers y and square for floats.
        output: takes what the model returns to one tensor (n, …), where it is not one.
        inputs: of the kernel's sample, at least 3.
        batch: inputs in a mini-batch.
        seed: of the samples.

    Returns:
        The report.

    Raises:
        ValueError: one sentence, with the layer and the way out, where a number would be wrong: other parameters than
            in the snapshot, noise in the passes, rows that depend on each other, derivatives that are not those of the
            outputs, values that are not finite.
        MemoryError: activations of a mini-batch, as estimated from one and two inputs, do not fit.

    Example:
        >>> import torch
        >>> from lazylib import laziness
        >>> model = torch.nn.Linear(2, 1).double()  # linear in w: the lazy limit itself
        >>> before = laziness.snapshot(model)
        >>> with torch.no_grad():
        ...     _ = model.weight.mul_(3.0)
        >>> report = laziness.compare(before, model, torch.eye(2), torch.ones(2))
        >>> round(report["linear-model gap"], 6), report["kernel change"]
        (0.0, 0.0)
    """
    begun = time.perf_counter()
    if inputs < 3 or batch < 1:
        raise ValueError(f"inputs must be at least 3 and batch at least 1, got {inputs} and {batch}.")
    if not isinstance(before, Snapshot):
        raise TypeError(f"before must be what laziness.snapshot(model) gave, got {type(before).__name__}.")
    x, y = _losses.gather(x, y)
    subject, now = Subject(model, x, output, batch), snapshot(model)
    _require_same(before, now)
    w0, w = subject.state(before), subject.state(now)
    u = _steps(subject, before, now)
    trainable = list(u)
    for name, value in {**w0, **w}.items():
        if value.is_floating_point():
            require_finite(value, name)
    function = None
    if y is not None:
        function, y = _losses.find(loss, y), subject.cast(y)
        _losses.require_rows(y, subject.n)
    notes: list[str] = []
    with undisturbed(model):
        require_deterministic(subject, w)
        require_room(subject, w, trainable, min(batch, subject.n), 2, f"take a batch smaller than {batch}")
        moved = any(bool(step.any()) for step in u.values())
        tangent = moved
        if moved:
            try:
                require_true_tangent(subject, w0, u)
            except RuntimeError as error:
                tangent = False
                notes.append(f"There is no linear-model gap, for PyTorch says: {str(error).splitlines()[0]}")
        measures = [
            *cheap_measures(subject, before, now, y, function, notes, tangent),
            *_kernel_measures(subject, w0, w, trainable, y, function, inputs, seed, notes),
            *_similarity(subject, w0, w, trainable, seed, notes),
        ]
        k = subject(w, slice(0, 1)).numel()
    if not moved:
        notes.append("No weight has changed since the snapshot.")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in now.parameters.values()):
        notes.append("Weights in half precision were computed with in float32: h(w) is that of the stored weights.")
    place = {name: i for i, (name, _) in enumerate(subject.model.named_modules()) if name}
    # the whole model first, then layers in the order of the model; stable
    measures.sort(key=lambda m: place.get(m.layer.partition("#")[0], 0) if m.layer else -1)
    about = {
        "parameters": sum(w[name].numel() for name in trainable),
        "inputs": subject.n,
        "outputs": k,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "mode": "train" if model.training else "eval",
        "seconds": round(time.perf_counter() - begun, 2),
    }
    return Report(tuple(measures), about, tuple(notes))


def cheap_measures(
    subject: Subject,
    before: Snapshot,
    now: Snapshot,
    y: Tensor | None,
    loss: Loss | None,
    notes: list[str],
    tangent: bool = True,
) -> list[Measure]:
    """Displacement, losses, change of the outputs, linear-model gap and activation stability, `undisturbed`."""
    w0, w, u = subject.state(before), subject.state(now), _steps(subject, before, now)
    return [
        *_displacement(w0, u),
        *_outputs(subject, w0, w, u if tangent else None, y, loss, notes),
        *_activations(subject, w0, w, notes),
    ]


def _steps(subject: Subject, before: Snapshot, now: Snapshot) -> State:
    """u = w − w0 of the parameters that are trainable or have changed."""
    w0, w = subject.state(before), subject.state(now)
    names = [
        subject.real[name]
        for name, value in now.parameters.items()
        if name in before.trainable | now.trainable or not torch.equal(value, before.parameters[name].to(value))
    ]
    if not names:
        raise ValueError("the model must have a trainable parameter, all are frozen and none has changed.")
    return {name: w[name] - w0[name] for name in names}


def _require_same(before: Snapshot, now: Snapshot) -> None:
    for kind in ("parameters", "buffers"):
        old, new = getattr(before, kind), getattr(now, kind)
        differing = [name for name in {**old, **new} if name not in old or name not in new]
        differing += [name for name in old if name in new and old[name].shape != new[name].shape]
        if differing:
            raise ValueError(
                f"the snapshot must be of the same model: {kind} such as {differing[0]} are only in one of the two, or "
                "have another shape; take it after layers were added or replaced."
            )


def _displacement(w0: State, u: State) -> Iterator[Measure]:
    """In float64: where steps are small, a sum of squares in float32 loses them."""
    layers: dict[str, list[float]] = {}
    for name, step in u.items():
        sums = layers.setdefault(layer_of(name.replace("_orig_mod.", "")) or "(model)", [0.0, 0.0])
        sums[0] += float(step.double().square().sum())
        sums[1] += float(w0[name].double().square().sum())
    yield _ratio("displacement", sum(far for far, _ in layers.values()), sum(size for _, size in layers.values()))
    for layer, (far, size) in layers.items():
        yield _ratio("displacement", far, size, layer)


def _ratio(name: str, above: float, below: float, layer: str = "") -> Measure:
    """√(above/below); NaN for 0/0, inf for a layer that began at 0."""
    value = math.sqrt(above / below) if below else math.inf if above else math.nan
    return Measure(name, layer, value)


def _outputs(subject, w0, w, u, y, loss, notes) -> Iterator[Measure]:
    """Losses, change of the outputs, linear-model gap, and what buffers alone do."""
    moved_buffers = [
        name
        for name in w0
        if name in subject.buffers() and w0[name].is_floating_point() and (w[name] != w0[name]).any()
    ]
    losses, start, change, gap, alone = [0.0, 0.0], 0.0, 0.0, 0.0, 0.0
    mixed = {**w, **{name: w0[name] for name in moved_buffers}}
    with torch.no_grad():
        for rows in subject.batches():
            h0, h = subject(w0, rows), subject(w, rows)
            require_finite(h0, "the outputs at the snapshot")
            require_finite(h, "the outputs now")
            for i, value in enumerate((h0, h) if y is not None else ()):
                losses[i] += float(loss(value, y[rows])) * len(h) / subject.n
            delta = (h - h0).double()
            start, change = start + float(h0.double().square().sum()), change + float(delta.square().sum())
            if u is not None:
                tangent = subject.tangent(w0, u, rows)[1]
                gap += float((delta - (0.0 if tangent is None else tangent.double())).square().sum())
            if moved_buffers:
                alone += float((h - subject(mixed, rows)).double().square().sum())
    if y is not None:
        for name, value in zip(("loss before", "loss after"), losses, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"the {name} training must be finite, it is {value}.")
            yield Measure(name, "", value)
    yield _ratio("output change", change, start)
    if u is not None:
        yield _ratio("linear-model gap", gap, change)
        rounding = 4 * torch.finfo(subject.dtype).eps * math.sqrt(start / change) if change else math.inf
        if change and rounding > 0.01 * max(math.sqrt(gap / change), 0.01):
            notes.append(
                f"The outputs changed so little that rounding alone may give a gap of {rounding:.1g}: "
                "model.double() has the digits."
            )
    if moved_buffers:
        yield _ratio("buffers' share", alone, change)
        notes.append(
            f"Buffers changed, such as {moved_buffers[0]}: h(w0) has those of the snapshot, so that the gap "
            "holds what they did; a snapshot taken after some passes in train mode has statistics that fit the data."
        )


def _activations(subject, w0, w, notes) -> Iterator[Measure]:
    counts = _features.stability(subject, w0, w)
    kinked = {layer: each for (layer, kind), each in counts.items() if kind == "kink"}
    smooth = [each for (_, kind), each in counts.items() if kind == "smooth"]
    if kinked:
        same, total = map(sum, zip(*kinked.values(), strict=True))
        yield Measure("activation stability", "", same / total)
        for layer, (same, total) in kinked.items():
            yield Measure("activation stability", layer or "(model)", same / total)
    else:
        notes.append("No activation with a kink was met, so there is no activation stability.")
    if smooth:
        same, total = map(sum, zip(*smooth, strict=True))
        notes.append(
            f"Of smooth activations (GELU and the like), {same / total:.4g} of the preactivations kept their sign."
        )


def _kernel_measures(subject, w0, w, names, y, loss, inputs, seed, notes) -> Iterator[Measure]:
    k = subject(w, slice(0, 1)).numel()
    size = sum(w[name].numel() for name in names) * subject.dtype.itemsize
    rows = _kernel.choose(subject.n, k, size, inputs, seed)
    gram0, gram = (_kernel.gram(subject, state, names, rows) for state in (w0, w))
    pulls = None if y is None else _pulls(subject, (w0, w), names, y, loss)
    if not gram0.any():
        notes.append("The tangent kernel at the snapshot is zero, so it has no relative change.")
        return
    if pulls is not None and not (math.isfinite(sum(pulls)) and sum(pulls) > 0):
        notes.append("The loss has no slope at outputs 0, so there is no label alignment.")
        pulls = None
    found = _kernel.estimates(gram0, gram, subject.n, rows, pulls)
    for name, each in zip(("kernel change", "label alignment before", "label alignment after"), found, strict=False):
        yield Measure(name, "", each.value, each.error)
    if any(each.error for each in found):
        how = "all their outputs" if rows.exact else f"{_kernel.SIGNS} random projections of the outputs of each"
        notes.append(f"The kernel was estimated from {len(rows.inputs)} inputs and {how}.")


def _pulls(subject: Subject, states: tuple[State, State], names: list[str], y: Tensor, loss: Loss) -> tuple:
    """yᵀKy/‖y‖² at both, y being the direction of the labels, exactly: ‖Jᵀy‖² is the square of one gradient."""
    sums: list[Any] = [0.0, 0.0]
    length = 0.0
    for rows in subject.batches():
        with torch.no_grad():
            h = subject(states[0], rows)
        v = _losses.label_direction(loss, h, y[rows]) * len(h)  # of the sum, so that mini-batches count alike
        length += float(v.double().square().sum())
        for i, state in enumerate(states):
            (pulled,) = _kernel.pulled(subject, state, names, rows, v.reshape(1, -1))
            sums[i] = sums[i] + pulled
    return tuple(float(s.double().square().sum()) / length if length else math.nan for s in sums)


def _similarity(subject, w0, w, trainable, seed, notes) -> Iterator[Measure]:
    if subject.n < 5:
        notes.append("Features are compared on at least 5 inputs.")
        return
    draw = torch.randperm(subject.n, generator=generator(seed, "features of the report"))
    sample = draw[: min(subject.n, FEATURES)].sort().values.to(subject.device)
    found = _features.similarity(subject, w0, w, sample)
    for name, each in found.items():
        yield Measure("feature similarity", name or "(model)", each.value, each.error)
    # what the last layer puts out is no feature: it changes in lazy training too
    every = (name for name, _ in subject.model.named_parameters(remove_duplicate=False))  # tied and frozen ones too
    moved, order = {layer_of(name.replace("_orig_mod.", "")) for name in every}, list(found)
    ends = [i for i, name in enumerate(order) if name.partition("#")[0] in moved]
    features = order[: ends[-1]] if ends and ends[-1] else order
    if features:
        lowest = min((found[name] for name in features), key=lambda each: each.value)
        yield Measure("feature similarity", "", lowest.value, lowest.error)
