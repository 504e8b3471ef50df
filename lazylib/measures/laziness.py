"""How lazily a net was trained: how far its weights, its tangent kernel and its activations went from w0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..nets.deep import FullyConnected
from ..nets.two_layer import TwoLayer
from .kernels import tangent_kernel


def relative_displacement(w0: Tensor, u: Tensor) -> Tensor:
    """‖u‖ / ‖w0‖, how far the weights went, u = w − w0.

    Both may be a part of the weights, such as those of one layer. The displacement itself is asked for, not w: where
    it is small, w − w0 has lost its digits.

    Args:
        w0: weights at the start, (…, P); a start of one row, (P,) or (1, P), is shared by all rows of u.
        u: displacements, (…, P).

    Returns:
        (…,), a pure number for each row, in the dtype of the arguments; NaN or inf where w0 = 0.

    Raises:
        ValueError: w0 and u have not the same number P of weights.

    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        >>> import torch
        >>> from lazylib.measures import relative_displacement
        >>> relative_displacement(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 1.0], [6.0, 8.0]]))
        tensor([0.2000, 2.0000])
    """
    if not (w0.dim() and u.dim() and w0.shape[-1] == u.shape[-1]):
        raise ValueError(f"w0 and u must be (…, P) with the same P, got shapes {tuple(w0.shape)} and {tuple(u.shape)}.")
    return u.norm(dim=-1) / w0.norm(dim=-1)


def kernel_change(net, w0: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """‖K(w) − K(w0)‖ / ‖K(w0)‖, how far the tangent kernel on the inputs x went, in Frobenius norm.

    Of a tangent model it is 0: laziness is that it is small. The rows of a batch go one at a time, so that no more
    kernels are held than for one net.

    Args:
        net: a net that ``tangent_kernel`` takes together with w.
        w0: parameters at the start, (P,) or (1, P), shared by all rows of w, or (B, P), one for each.
        w: parameters at the end, (P,) or (B, P).
        x: inputs, (n, d).

    Returns:
        () for w (P,), (B,) for w (B, P), in the dtype of the parameters; NaN or inf where K(w0) = 0.

    Raises:
        ValueError: the shapes of w0, w and net do not fit each other.

    Source: Geiger, Spigler, Jacot, Wyart 2020, figure 5a.

    Example:
        The kernel of a two-layer net is of degree two in the weights.

        >>> import torch
        >>> from lazylib import TwoLayer, kernel_change
        >>> w0 = torch.tensor([1.0, 1.0, 1.0, 1.0])
        >>> kernel_change(TwoLayer(d=1, m=2), w0, torch.stack([w0, 2 * w0]), torch.tensor([[1.0]]))
        tensor([0., 3.])
    """
    starts, ends = _rows(net, w0, w)
    before, changes = tangent_kernel(net, starts[0], x), []  # (n, n)
    for k, end in enumerate(ends):
        if 0 < k < len(starts):
            before = tangent_kernel(net, starts[k], x)
        changes.append((tangent_kernel(net, end, x) - before).norm() / before.norm())
    return torch.stack(changes) if w.dim() == 2 else changes[0]


def activation_stability(net, w0: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """Share of pairs of a hidden ReLU unit and an input whose preactivation p is on the same side of 0 at w0 and at w.

    The sides are p > 0, where the unit is on, and p ≤ 0, where it is off. The share is 1 in the lazy limit. (For
    convolutional nets on images see ``lazylib.flows.stability``.)

    Args:
        net: a ``TwoLayer`` or a ``FullyConnected`` with ReLU.
        w0: parameters at the start, (P,) or (1, P), shared by all rows of w, or (B, P), one for each.
        w: parameters at the end, (P,) or (B, P).
        x: inputs, (n, d).

    Returns:
        () for w (P,), (B,) for w (B, P), between 0 and 1, in the dtype of w; NaN for a row that is not finite.

    Raises:
        TypeError: the net is another one, or its activation has no kink.
        ValueError: the shapes of w0, w and net do not fit each other.

    Source: Chizat, Oyallon, Bach 2019, figure 3a.

    Example:
        Of two units the second is turned around; both inputs see it.

        >>> import torch
        >>> from lazylib import TwoLayer, activation_stability
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> w0, w = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 5.0, -5.0])
        >>> activation_stability(TwoLayer(d=1, m=2), w0, w, x)
        tensor(0.5000)
    """
    if not (isinstance(net, (TwoLayer, FullyConnected)) and net.activation == "relu"):
        raise TypeError(f"net must be a TwoLayer or a FullyConnected with activation relu, got {net}.")
    starts, ends = _rows(net, w0, w)
    shares = []
    for start, end in zip(starts.expand_as(ends), ends, strict=True):
        same = (_hidden(net, start, x) > 0) == (_hidden(net, end, x) > 0)
        share = same.double().mean()  # over layers, units and inputs
        finite = start.isfinite().all() & end.isfinite().all()
        shares.append(torch.where(finite, share, math.nan).to(w.dtype))
    return torch.stack(shares) if w.dim() == 2 else shares[0]


def preactivation_speed(objective, x: Tensor) -> Tensor:
    """Speed dp/dt of the hidden preactivations at the start of the gradient flow, root mean square over each layer.

    Args:
        objective: one of ``lazylib.objectives``, of a ``FullyConnected``, for B runs; its gradient drives the flow.
        x: inputs on which the preactivations are seen, (n, d).

    Returns:
        (B, L), for each of the L hidden layers, per flow time, in the dtype of w0.

    Raises:
        TypeError: the net is another one.

    Source: Geiger, Spigler, Jacot, Wyart 2020, figure 11.

    Example:
        One unit, far in the linear part of its softplus: its weight moves at the rate of the unit's factor a.

        >>> import torch
        >>> from lazylib import FullyConnected, soft_hinge
        >>> from lazylib.measures import preactivation_speed
        >>> x, w0 = torch.tensor([[1.0]]), torch.tensor([[3.0, 1.0]])
        >>> preactivation_speed(soft_hinge(FullyConnected(d=1, h=1, L=1), w0, x, torch.ones(1), 1.0), x)
        tensor([[1.4044]])
    """
    net, w0 = objective.net, objective.w0
    if not isinstance(net, FullyConnected):
        raise TypeError(f"the net must be a FullyConnected, got {net}.")
    gradient, _ = objective.gradient(torch.zeros_like(w0))
    _, velocity = torch.func.jvp(lambda w: net.preactivations(w, x), (w0,), (-gradient,))  # (B, L, h, n)
    return velocity.square().mean((2, 3)).sqrt()


def _rows(net, w0: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """w0 as (1, P) or (B, P) and w as (B, P); ValueError where they do not fit each other or the net."""
    P = getattr(net, "size", w.shape[-1] if w.dim() else 0)
    flat = all(v.dim() in (1, 2) and v.shape[-1] == P for v in (w0, w))
    starts, ends = torch.atleast_2d(w0), torch.atleast_2d(w)
    if not (flat and len(ends) and len(starts) in (1, len(ends))):
        raise ValueError(
            f"w must be (P,) or (B, P), and w0 (P,), (1, P) or (B, P), with P = {P} parameters, "
            f"got w {tuple(w.shape)} and w0 {tuple(w0.shape)}."
        )
    return starts, ends


def _hidden(net: TwoLayer | FullyConnected, w: Tensor, x: Tensor) -> Tensor:
    """Preactivations of all hidden units on x; w (P,)."""
    return x @ net.split(w)[1].T if isinstance(net, TwoLayer) else net.preactivations(w, x)  # (n, m), (L, h, n)
