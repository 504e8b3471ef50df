"""The distance of a net in training from its tangent model: the path of the latter, and how the distance starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import jvp, vjp

from .kernels import tangent_kernel, tangent_solution


def tangent_path(net, w0: Tensor, x: Tensor, y: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Gradient flow of the tangent model at w0 on ½ mean (h̄ − y)², exactly: displacements and outputs at given times.

    One eigendecomposition of the tangent kernel serves all targets and times; see ``tangent_solution``.

    Args:
        net: any net.     w0: parameters at the start, (P,).     x: inputs, (n, d).
        y: targets, (B, n): one path for each row.  For αh with the loss over α², pass y/α.
        times: flow times ≥ 0, (K,), inf allowed.

    Returns:
        w̄(t) − w0, (B, K, P), and h̄(t), (B, K, n), in float64.

    Raises:
        ValueError: a time that is negative or NaN; targets that are not (B, n).

    Source: Chizat, Oyallon, Bach 2019, section 1.2.

    Example:
        >>> import torch
        >>> from lazylib import TwoLayer
        >>> from lazylib.measures import tangent_path
        >>> w0, x = torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])
        >>> u, h = tangent_path(TwoLayer(1, 1), w0, x, torch.tensor([[37.0]]), [0.0, torch.inf])
        >>> h.round(decimals=3).tolist(), u[0, 1].round(decimals=3).tolist()  # 25 are missing; ∇h = (4, 3)
        ([[[12.0], [37.0]]], [4.0, 3.0])
    """
    if y.dim() != 2 or y.shape[1] != len(x) or not len(y):
        raise ValueError(f"y must be (B, {len(x)}), a row for each path, got shape {tuple(y.shape)}.")
    w0, x, y = w0.double(), x.double(), y.double()
    solution = tangent_solution(net, w0, x, y[0], x[:1])
    pull = vjp(lambda w: net(w, x), w0)[1]
    u, h = [], []
    for goal in y:
        model = replace(solution, residual=goal - solution.h0)
        u.append(torch.stack([pull(model.coefficients(t))[0] for t in times]))
        h.append(torch.stack([model.train(t) for t in times]))
    return torch.stack(u), torch.stack(h)


def early_gap(net, w0: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """½‖ḧ − ḧ̄‖ at t = 0: how fast a net leaves its tangent model, both under gradient flow on ½ mean (h − y)².

    Outputs and their first derivatives agree at the start, so ‖h(t) − h̄(t)‖ is this times t², to leading order, with
    ‖·‖ the root mean square over inputs. ḧ along the flow comes from two forward derivatives.

    Args:
        net: a net with two derivatives; what ReLU does at its kinks is not seen.
        w0: parameters at the start, (P,).     x: inputs, (n, d).
        y: targets, (n,), or (B, n).

    Returns:
        () or (B,), in units of outputs over time².

    Example:
        >>> import torch
        >>> from lazylib import TwoLayer
        >>> from lazylib.measures import early_gap
        >>> w0, x = torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])
        >>> early_gap(TwoLayer(1, 1), w0, x, torch.tensor([13.0]))  # r = −1: ȧḃ + (aȧ + bḃ)/2
        tensor(24.)
    """
    if y.dim() == 2:
        return torch.stack([early_gap(net, w0, x, row) for row in y])
    model, n = (lambda w: net(w, x)), len(x)

    def velocity(w: Tensor) -> Tensor:
        outputs, pull = vjp(model, w)
        return -pull((outputs - y) / n)[0]

    second = jvp(lambda w: jvp(model, (w,), (velocity(w),))[1], (w0,), (velocity(w0),))[1]  # ḧ along the flow, (n,)
    kernel = tangent_kernel(net, w0, x) / n
    return 0.5 * (second - kernel @ (kernel @ (model(w0) - y))).square().mean().sqrt()
