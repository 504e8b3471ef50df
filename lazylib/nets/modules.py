"""Any torch module as a net h(w, x) of a flat vector of parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.utils._pytree import tree_flatten

from ._base import set_a_run
from ._calls import as_floats, as_inputs, call, in_modes, refuse_random
from ._differentiable import differentiable
from .transforms import Transform


def from_module(
    module: nn.Module, x: Any = None, *, output: Callable[[Any], Tensor] | None = None
) -> tuple[Transform, Tensor]:
    """A torch module as a net of a flat vector, and its present parameters.

    The net keeps a copy of the module's buffers and frozen parameters as they are now, so that training the module on
    (a BatchNorm layer moves its running statistics) changes neither h nor h(w0); and calling the net changes no module.
    It computes in the dtype of w, to which floating-point inputs are brought. Inside it, fused functions that torch
    cannot differentiate twice or in forward mode, or differentiates wrongly, are replaced by their formulas.

    Args:
        module: deterministic (dropout off, batch normalization in eval mode). Parameters that need no gradient are not
            counted. Half-precision parameters are taken in float32.
        x: inputs for a trial, a few will do; with them most of what would give wrong numbers later is found at once.
            A tensor for ``module(x)``, a tuple for ``module(*x)`` or a dict for ``module(**x)``.
        output: what to take of what the module returns, if that is no tensor: ``lambda out: out.logits``.

    Returns:
        (net, w0): w0 is (P,); the net gives (n,) or (n, k) outputs, or (B, n, …) for a batch (B, P) of parameters. A
        trailing dimension of size 1 of the module's output is dropped. q is not known. Runs share their inputs; after a
        trial on a tensor x, inputs with one dimension more are a set for each run.

    Raises:
        ValueError: the module has no trainable parameter, is random or in training mode where that matters; or in the
            trial two passes differ, no parameter reaches the output, or derivatives are wrong.
        TypeError: the module returns no tensor.
        NotImplementedError: a layer that torch cannot differentiate in forward mode.

    Example:
        >>> import torch
        >>> from lazylib.nets import from_module
        >>> module = torch.nn.Linear(2, 1)
        >>> net, w0 = from_module(module)
        >>> x = torch.ones(5, 2)
        >>> net.size, torch.allclose(net(w0, x), module(x).squeeze(-1))
        (3, True)
    """
    module = getattr(module, "_orig_mod", module)  # of a compiled one
    refuse_random(module)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("the module must have at least one trainable parameter, it has none.")
    if lazy := [name for name, p in trained.items() if isinstance(p, nn.parameter.UninitializedParameter)]:
        raise ValueError(f"the parameter {lazy[0]} has no shape yet: call the module on some inputs first.")
    names, shapes = list(trained), [p.shape for p in trained.values()]
    sizes = [shape.numel() for shape in shapes]
    w0 = torch.cat([p.detach().reshape(-1) for p in trained.values()])
    w0 = w0.float() if w0.element_size() < 4 else w0
    buffers = {name: value.detach().clone() for name, value in module.named_buffers()}
    frozen = {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}
    modes = [(layer, layer.training) for layer in module.modules()]
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())  # torch cannot map over their weights

    def single(w: Tensor, x: Any) -> Tensor:
        values = {k: part.view(s) for k, part, s in zip(names, w.split(sizes), shapes, strict=True)}
        values |= {name: p.to(w.dtype) for name, p in frozen.items()}
        values |= as_floats(buffers, w.dtype)
        with in_modes(modes), differentiable():  # the module may train by now
            out = call(module, values, as_floats(as_inputs(x), w.dtype))
            return _tensor(out if output is None else output(out))

    def function(w: Tensor, x: Any) -> Tensor:
        if w.dim() == 1:
            return single(w, x)
        own = set_a_run(net, x)
        if recurrent:
            return torch.stack([single(row, x[k] if own else x) for k, row in enumerate(w)])
        return vmap(single, in_dims=(0, 0 if own else None))(w, x)

    net = Transform(module, function, len(w0), None, x.dim() if isinstance(x, Tensor) else None)
    if x is not None:
        _trial(module, net, w0, x)
    return net, w0


def _tensor(out: Any) -> Tensor:
    """(n,) or (n, k) outputs from what a module returned."""
    if not isinstance(out, Tensor):
        keys = f" with the keys {', '.join(map(str, out))}" if isinstance(out, Mapping) else ""
        raise TypeError(
            f"the module must return a tensor, got {type(out).__name__}{keys}: say what to take of it by output=…."
        )
    return out.squeeze(-1) if out.dim() > 1 and out.shape[-1] == 1 else out


# ---- the trial ----


def _trial(module: nn.Module, net: Transform, w0: Tensor, x: Any) -> None:
    x = dict(x) if isinstance(x, Mapping) else x
    before = [value.clone() for value in tree_flatten(x)[0] if isinstance(value, Tensor)]
    with _named_layer(module) as layer:
        with torch.no_grad():
            first, second = net(w0, x), net(w0, x)
        after = [value for value in tree_flatten(x)[0] if isinstance(value, Tensor)]
        if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            raise ValueError("the module changes its inputs in place: let it work on a copy, or set inplace=False.")
        if not first.isfinite().all():
            raise ValueError("the module's outputs must be finite at its present parameters, got inf or NaN.")
        if first.dim() not in (1, 2):
            raise ValueError(
                f"the module must give (n,) or (n, k) outputs, got {tuple(first.shape)}: choose or flatten them by "
                "output=…."
            )
        tol = 100 * torch.finfo(first.dtype).eps
        if not torch.allclose(first, second, rtol=tol, atol=tol * float(first.abs().max())):
            raise ValueError("the module must be deterministic, but two passes on the same inputs differ.")
        rng = torch.Generator().manual_seed(0)
        u, nu = (torch.randn(v.shape, generator=rng, dtype=torch.float64).to(v) for v in (w0, first))
        try:
            along = jvp(lambda w: net(w, x), (w0,), (u,))[1]
        except (NotImplementedError, RuntimeError) as error:
            place = f"the layer {layer[-1]}" if layer else "the module"
            reason = str(error).split("\n")[0]
            raise NotImplementedError(f"torch has no forward-mode derivative of {place}: {reason}") from error
    pulled = vjp(lambda w: net(w, x), w0)[1](nu)[0]
    if not pulled.any():
        raise ValueError("no trainable parameter reaches the outputs: the module computes with copies of them.")
    one, other = float((along * nu).double().sum()), float((pulled * u).double().sum())
    size = float((along * nu).double().abs().sum() + (pulled * u).double().norm())
    if not abs(one - other) <= 1e4 * torch.finfo(first.dtype).eps * size:
        raise ValueError(
            f"derivatives of the module in forward and in reverse mode disagree, {one:g} and {other:g}: one of its "
            "layers has a wrong derivative, or computes with copies of its parameters."
        )


@contextlib.contextmanager
def _named_layer(module: nn.Module) -> Iterator[list[str]]:
    """A list of the layers that a pass has entered and not left, the innermost last; an error leaves them there."""
    inside: list[str] = []
    hooks = []
    for name, layer in module.named_modules():
        label = f"{name} ({type(layer).__name__})" if name else type(layer).__name__
        hooks.append(layer.register_forward_pre_hook(lambda *_, label=label: inside.append(label)))
        hooks.append(layer.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()
