"""The soft hinge loss of ``FullyConnected``, its gradient derived by hand.

With z_0 = x, p_l = c_l W_l z_{l−1} (+ b_l), z_l = softplus_5(p_l) and f = c_{L+1} W_{L+1} z_L, all that training needs
of an input are z_l and Δ_l = ∂f/∂p_l, layer by layer:

    ∂f/∂W_l = c_l Δ_l z_{l−1}ᵀ,   Δ_{l−1} = c_l W_lᵀ Δ_l ∘ σ′(p_{l−1}).

No Jacobian, (n, P), is ever formed.  The factor a of the activation and 1/√fan in are kept in c_l.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..nets import deep
from ..nets.deep import LINEAR, SOFTPLUS_BETA, FullyConnected
from ._soft_hinge import SoftHinge


class DeepHinge(SoftHinge):
    """The soft hinge loss of ``FullyConnected``; gradient and differential are derived by hand, for a batch of runs."""

    net: FullyConnected

    def __init__(self, *arguments):
        super().__init__(*arguments)
        shape = self.runs, self.net.h, self.x.shape[0]
        self.p = [self.w0.new_empty(shape) for _ in range(self.net.L)]  # of the latest gradient, (B, h, n)
        self.z = [self.w0.new_empty(shape) for _ in range(self.net.L)]
        self.delta = [self.w0.new_empty(shape) for _ in range(2)]
        self.xt = self.x.mT  # (d, n)
        self.layers: list[tuple[Tensor, Tensor | None]] = []  # W_l, b_l of the latest gradient

    @property
    def bytes_per_run(self) -> int:
        return self.w0.element_size() * ((2 * self.net.L + 2) * self.net.h * self.x.shape[0] + 4 * self.size)

    def _model(self, w: Tensor, x: Tensor) -> Tensor:
        chunk = max(1, deep.CHUNK_BYTES // (len(w) * self.net.h * w.element_size()))
        return torch.cat([self.net(w, part) for part in x.split(chunk)], dim=1)

    def _forward(self, w: Tensor) -> Tensor:
        """f(w) on the training inputs, (B, n); leaves p_l and z_l."""
        self.layers = self.net.split(w)
        for l, ((weight, b), c) in enumerate(zip(self.layers[:-1], self.net.factors[:-1], strict=True)):
            p = self.p[l]
            if l == 0:  # one matrix product for all runs
                torch.mm(weight.reshape(-1, self.net.d), self.xt, out=p.view(-1, p.shape[2]))
            else:
                torch.bmm(weight, self.z[l - 1], out=p)
            p *= c
            if b is not None:
                p.add_(b.unsqueeze(2), alpha=self.net.bias)
            z = self.z[l]
            if self.net.activation == "relu":
                torch.clamp(p, min=0, out=z)
            else:
                torch.ops.aten.softplus.out(p, SOFTPLUS_BETA, LINEAR, out=z)
        (weight, b), c = self.layers[-1], self.net.factors[-1]
        f = c * torch.bmm(weight, self.z[-1])  # (B, 1, n)
        return (f if b is None else f + self.net.bias * b.unsqueeze(2)).squeeze(1)

    def _gate(self, delta: Tensor, p: Tensor) -> Tensor:
        """delta ∘ σ′(p)/a, in place where the layout allows."""
        if self.net.activation == "relu":
            return torch.ops.aten.threshold_backward.grad_input(delta, p, 0, grad_input=delta)
        return torch.ops.aten.softplus_backward.grad_input(delta, p, SOFTPLUS_BETA, LINEAR, grad_input=delta)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self._latest = u
        f, n = self._forward(self.w0 + u), self.y.shape[1]
        out = self.alpha.unsqueeze(1) * (f - self.f0 if self.centred else f)
        grad = torch.empty_like(u)
        delta = (self.slope(out) / (self.alpha.unsqueeze(1) * n)).unsqueeze(1)  # ∂L/∂f, (B, 1, n)
        pieces = zip(self.layers, self.net.split(grad), self.net.factors, strict=True)
        for l, ((weight, _), (g, g_bias), c) in reversed(list(enumerate(pieces))):
            if g_bias is not None:
                g_bias.copy_(delta.sum(2)).mul_(self.net.bias)
            if l == 0:
                g.copy_((delta.view(-1, n) @ self.x).view_as(g)).mul_(c)
                break
            g.copy_(torch.bmm(delta, self.z[l - 1].mT)).mul_(c)
            delta = torch.bmm(weight.mT, delta, out=self.delta[l % 2]).mul_(c)
            delta = self._gate(delta, self.p[l - 1])
        return grad, out

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        self._at(u)

        def of(part: Tensor) -> Tensor:
            return part if len(rows) == self.runs else part[rows]

        layers = zip(self.layers, self.net.split(v), self.net.factors, strict=True)
        for l, ((weight, _), (step, b), c) in enumerate(layers):
            if l == 0:
                change = c * (step @ self.xt)  # of p_l, (k, h, n)
            else:
                along = self._gate(change, of(self.p[l - 1]))  # of z_{l−1}
                change = c * (torch.bmm(step, of(self.z[l - 1])) + torch.bmm(of(weight), along))
            if b is not None:
                change.add_(b.unsqueeze(2), alpha=self.net.bias)
        return of(self.alpha) * change.squeeze(1).square().mean(1).sqrt()


def on_span(objective: DeepHinge) -> tuple[DeepHinge, Callable[[Tensor], Tensor]]:
    """The same runs with W_1 in coordinates of the span of the training inputs, which it never leaves.

    A gradient with respect to W_1 is a sum of Δ xᵀ.  With an orthonormal basis Q (d, n) of the span, W_1 Q and the
    inputs Qᵀx follow the same flow, exactly; it is cheaper if n < d.

    Returns: an objective for ``gradient_flow``, and the function that takes its displacements u (B, P′) to those of the
    net itself, (B, P).  Where n ≥ d nothing changes.

    Example:
        >>> import torch
        >>> from lazylib.nets import FullyConnected
        >>> from lazylib.objectives import on_span, soft_hinge
        >>> net = FullyConnected(d=100, h=8, L=2)
        >>> x, y = torch.randn(4, 100), torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> short, lift = on_span(soft_hinge(net, net.init(0), x, y, alpha=1.0))
        >>> short.size < net.size, lift(torch.zeros(1, short.size)).shape[1] == net.size
        (True, True)
    """
    net, x = objective.net, objective.x
    if len(x) >= net.d:
        return objective, lambda u: u
    basis = torch.linalg.qr(x.double().mT)[0].to(x)  # Q (d, n)
    short = replace(net, d=len(x))

    def changed(w: Tensor, width: int, rotation: Tensor) -> Tensor:
        """w with its first layer, of that many columns, times the rotation."""
        weight = w[:, : net.h * width].unflatten(1, (net.h, width)) @ rotation
        return torch.cat([weight.flatten(1), w[:, net.h * width :]], dim=1)

    z = (len(x) / net.d) ** 0.5 * (x @ basis)  # c_1 is 1/√n there
    w0 = changed(objective.w0, net.d, basis)
    parts = objective.y, objective.alpha, objective.margin, objective.centred
    return DeepHinge(short, w0, z, *parts), lambda u: changed(u, short.d, basis.mT)
