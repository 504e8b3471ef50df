"""Transforms of nets, a few lines each, which compose; and any torch module as a net."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._base import Net


@dataclass(frozen=True)
class Transform:
    """A net made from another net; built by the functions below, which compose."""

    net: Net | torch.nn.Module
    function: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    size: int
    q: int | None = None

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        return self.function(w, x)


def centred(net, w0: Tensor) -> Transform:
    """h(w, x) − h(w0, x): zero at w0, same differential (COB §1.1)."""
    return Transform(net, lambda w, x: net(w, x) - net(w0, x), net.size)


def scaled(net, alpha: float) -> Transform:
    """α h(w, x)."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be finite and > 0, got {alpha}.")
    return Transform(net, lambda w, x: alpha * net(w, x), net.size, net.q)


def tangent(net, w0: Tensor) -> Transform:
    """The tangent (linearized) model h̄(w, x) = h(w0, x) + Dh(w0)(w − w0) (COB eq. 3), by one jvp."""

    def function(w: Tensor, x: Tensor) -> Tensor:
        base, shift = torch.func.jvp(lambda v: net(v, x), (w0,), (w - w0,))
        return base + shift

    return Transform(net, function, net.size)


def symmetrized(net) -> Transform:
    """(h(w′, x) − h(w″, x)) of doubled parameters w = [w′, w″]; zero where w′ = w″.

    Start it at ``torch.cat([w0, w0], dim=-1)``.  The degree of homogeneity is that of h.
    """
    p = net.size
    return Transform(net, lambda w, x: net(w[..., :p], x) - net(w[..., p:], x), 2 * p, net.q)


def from_module(module: torch.nn.Module) -> tuple[Transform, Tensor]:
    """A torch module as a net, with its present parameters as w0 of shape (P,).

    The module must be deterministic (dropout off, batch norm in eval mode) and is not changed.
    A trailing output dimension of size 1 is dropped, so that outputs are (n,) or (n, k).
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = dict(module.named_parameters())
    if not names:
        raise ValueError("the module must have at least one trainable parameter, it has none.")
    shapes = [parameters[name].shape for name in names]
    w0 = torch.cat([parameters[name].detach().reshape(-1) for name in names])

    def single(w: Tensor, x: Tensor) -> Tensor:
        parts = w.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        out = torch.func.functional_call(module, values, (x,))
        return out.squeeze(-1) if out.dim() > 1 and out.shape[-1] == 1 else out

    def function(w: Tensor, x: Tensor) -> Tensor:
        return single(w, x) if w.dim() == 1 else torch.func.vmap(single, in_dims=(0, None))(w, x)

    return Transform(module, function, w0.numel()), w0
