"""A module as a function h(w; x) of its weights and buffers, evaluated with nothing of it changed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from ..nets._calls import Inputs, call
from ..nets._differentiable import all_digits, differentiable
from .state import Snapshot, bare, computed_in, parameters

State = dict[str, Tensor]  # parameters and buffers by name, in the dtype of the computation


class Subject:
    """h(w; x) of a module on given inputs, in mini-batches: outputs (n, …), one row an input.

    Args:
        model: the module; in its present mode, which must be deterministic.
        x: inputs: a tensor (n, …), or several as a tuple (positional) or a dict (keywords). Tensors whose first
            dimension is n are cut into mini-batches, everything else is passed as it is.
        output: takes what the module returns to one tensor (n, …), where it is not one already.
        batch: inputs at a time.
    """

    def __init__(self, model: nn.Module, x: Any, output: Callable | None, batch: int = 64):
        if output is not None and not callable(output):
            raise ValueError(f"output must be a function of what the model returns, got {output!r}.")
        if torch.is_inference_mode_enabled():
            raise ValueError("there are no derivatives in torch.inference_mode(): measure outside of it.")
        self.model, self.output, self.batch, self.forward = bare(model), output, batch, True
        named = parameters(model)
        self.dtype, self.device = computed_in(model), next(iter(named.values())).device
        self.real = {key.replace("_orig_mod.", ""): key for key, _ in self.model.named_parameters()}
        self.real |= {key.replace("_orig_mod.", ""): key for key, _ in self.model.named_buffers()}
        self.keywords = list(x) if isinstance(x, dict) else None
        given = list(x.values()) if isinstance(x, dict) else list(x) if isinstance(x, (tuple, list)) else [x]
        sizes = [len(v) for v in given if isinstance(v, Tensor) and v.dim()]
        if not (sizes and sizes[0]):
            raise ValueError(
                "x must be a tensor (n, …) of one input at least, a tuple or a dict of them, or a loader of pairs, "
                f"got {type(x).__name__}" + (" of no inputs." if sizes else ".")
            )
        self.n = sizes[0]
        self.x = [self.cast(v) for v in given]

    def cast(self, value: Any) -> Any:
        """A tensor on the module's device, floats in the dtype of the computation; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        return value.detach().to(self.device, self.dtype if value.is_floating_point() else None)

    def state(self, snapshot: Snapshot) -> State:
        """Parameters and buffers of a snapshot, as the module names them now."""
        both = {**snapshot.parameters, **snapshot.buffers}
        return {self.real[name]: self.cast(value) for name, value in both.items()}

    def batches(self) -> Iterator[slice]:
        """Mini-batches of all inputs."""
        for start in range(0, self.n, self.batch):
            yield slice(start, min(start + self.batch, self.n))

    def __call__(self, state: State, rows: slice | Tensor) -> Tensor:
        """Outputs (rows, …) of some inputs at given weights and buffers."""
        size = len(range(*rows.indices(self.n))) if isinstance(rows, slice) else len(rows)
        cut = [v[rows] if isinstance(v, Tensor) and v.dim() and len(v) == self.n else v for v in self.x]
        named = dict(zip(self.keywords, cut, strict=True)) if self.keywords else {}
        out = call(self.model, state, Inputs(() if named else tuple(cut), named))
        if self.output is not None:
            try:
                out = self.output(out)
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise ValueError(f"output= fails on what the model returns, a {type(out).__name__}: {what}.") from error
        return _one_tensor(out, size, self.output is not None)

    def buffers(self) -> set[str]:
        """Names of the module's buffers."""
        return {name for name, _ in self.model.named_buffers()}

    def tangent(self, state: State, u: State, rows: slice | Tensor, spy: Callable | None = None) -> tuple:
        """(h, Dh u) on some inputs, by one forward-mode pass; the tangent is None where nothing depends on w.

        Where an operation has no forward mode, Dh u is the derivative by v of ⟨Dhᵀv, u⟩: reverse mode, twice.
        spy: called with each layer's name and output, while it has its tangent; in reverse mode not at all.
        """
        if self.forward:
            try:
                with forward_ad.dual_level(), torch.no_grad():
                    dual = {name: forward_ad.make_dual(w, u[name]) if name in u else w for name, w in state.items()}
                    with watch(self.model, spy) if spy else contextlib.nullcontext():
                        return tuple(forward_ad.unpack_dual(self(dual, rows)))
            except NotImplementedError:
                self.forward = False
        with torch.enable_grad():
            weights = {name: state[name].detach().requires_grad_() for name in u}
            h = self({**state, **weights}, rows)
            if not h.requires_grad:
                return h, None
            v = torch.zeros_like(h, requires_grad=True)
            back = torch.autograd.grad(h, list(weights.values()), v, create_graph=True, allow_unused=True)
            pairs = [(g * u[name]).sum() for g, name in zip(back, weights, strict=True) if g is not None]
            return h.detach(), torch.autograd.grad(torch.stack(pairs).sum(), v)[0]


@contextlib.contextmanager
def watch(model: nn.Module, spy: Callable) -> Iterator[None]:
    """Call spy(name, output) after each layer, in order; further uses of one are name#2, name#3.

    Layers are modules with nothing inside, or with parameters of their own, such as attention.
    """
    times: dict[str, int] = {}

    def hook(name):
        def after(layer, given, out):
            times[name] = times.get(name, 0) + 1
            spy(name if times[name] == 1 else f"{name}#{times[name]}", out)

        return after

    def counts(layer):
        inside = [name for name, _ in layer.named_children() if name != "parametrizations"]
        return not inside or any(True for _ in layer.parameters(recurse=False))

    parts = [(name, layer) for name, layer in model.named_modules() if "parametrizations" not in name.split(".")]
    hooks = [layer.register_forward_hook(hook(name)) for name, layer in parts if counts(layer)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, passes are plain ones that can be differentiated in both modes; afterwards all is as it was.

    They are `differentiable`, a compiled module runs as it was written, and mixed precision and TF32 are off. Put back
    are these switches, the random state, and tensors that a pass leaves in the module.
    """
    model = bare(model)
    kept = [(layer, {k: v for k, v in vars(layer).items() if isinstance(v, Tensor)}) for layer in model.modules()]
    device = next(model.parameters()).device
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(differentiable())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(all_digits())
        if "_original_forward" in vars(model):  # accelerate's own forward would switch mixed precision on again
            stack.callback(vars(model).update, forward=model.forward)
            model.forward = model._original_forward  # type: ignore[assignment]
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and to load it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            for layer, tensors in kept:
                for name in [k for k, v in vars(layer).items() if isinstance(v, Tensor) and k not in tensors]:
                    del vars(layer)[name]
                vars(layer).update(tensors)


def _one_tensor(out: Any, size: int, chosen: bool) -> Tensor:
    if not isinstance(out, Tensor):
        key = next((k for k in ("logits", *out) if k in out), 0) if isinstance(out, Mapping) else 0
        raise ValueError(
            f"the model returns a {type(out).__name__}: name the tensor that counts by output=, a function of what it "
            f"returns, such as output=lambda out: out[{key!r}]."
            if not chosen
            else f"output= must give one tensor, got a {type(out).__name__}."
        )
    if not out.is_floating_point() or out.dim() == 0 or len(out) != size:
        raise ValueError(
            f"the model returns {out.dtype} of shape {tuple(out.shape)} for {size} inputs: outputs must be floats, "
            "one row an input; output= can bring them into that form."
        )
    return out
