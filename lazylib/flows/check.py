"""How accurate ``gradient_flow`` is, measured where the answer is known: on the tangent model of a net."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import jacrev

from ..objectives.square import square_loss
from .flow import gradient_flow


def flow_error(
    net,
    w0: Tensor,
    x: Tensor,
    y: Tensor,
    times: Sequence[float],
    exact: tuple[Tensor, Tensor],
    *,
    rtol: float = 0.05,
    max_evals: int = 100_000,
) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors that ``gradient_flow`` makes on the tangent model at w0, for the loss ½ mean (h̄ − y)².

    What a flow of the net itself misses is not known; in a lazy regime it is about this. A distance to the tangent
    model that is not far above it is the solver's, not the net's.

    Args:
        net: any net whose Jacobian (n, P) can be held.     w0: (P,).     x: (n, d).     y: targets, (n,).
        times: flow times > 0, increasing, (K,).
        exact: displacements (K, P) and outputs (K, n) of the tangent model then: ``measures.tangent_path``.
        rtol, max_evals: of ``gradient_flow``.

    Returns:
        Of the displacement ‖u − ū‖/‖ū‖, and of the outputs ‖h − h̄‖/‖h(w0) − y‖, (K,) each, pure numbers.

    Raises:
        ValueError: shapes of `exact` do not fit; as ``gradient_flow`` for times and rtol.

    Example:
        >>> import torch
        >>> from lazylib import TwoLayer
        >>> from lazylib.flows import flow_error
        >>> from lazylib.measures import tangent_path
        >>> net, w0, x = TwoLayer(1, 1), torch.tensor([3.0, 4.0]).double(), torch.ones(1, 1).double()
        >>> u, h = tangent_path(net, w0, x, torch.tensor([[37.0]]).double(), [0.01, 0.1])
        >>> errors = flow_error(net, w0, x, torch.tensor([37.0]).double(), [0.01, 0.1], (u[0], h[0]), rtol=1e-6)
        >>> bool(max(map(max, errors)) < 1e-4)
        True
    """
    u, h = exact
    if u.shape != (len(times), len(w0)) or h.shape != (len(times), len(x)):
        raise ValueError(
            f"exact must be ({len(times)}, {len(w0)}) and ({len(times)}, {len(x)}), a row a time, "
            f"got {tuple(u.shape)} and {tuple(h.shape)}."
        )
    slope, h0 = jacrev(lambda w: net(w, x))(w0), net(w0, x)  # (n, P), (n,)
    # A flow of the tangent model stays in the span of its gradients, where coordinates are fewer; w0 keeps its length.
    basis = torch.linalg.qr(torch.column_stack([slope.T, w0]))[0]  # (P, min(n + 1, P))
    slope, start = slope @ basis, w0 @ basis

    def linear(w: Tensor, x: Tensor) -> Tensor:
        return h0 + (w - start) @ slope.T

    def observe(u: Tensor, runs: np.ndarray) -> dict[str, Tensor]:
        return {"u": u @ basis.T, "h": linear(start + u, x)}

    objective = square_loss(linear, start[None], x, y)
    found = gradient_flow(objective, times[-1], times=times, observe=observe, rtol=rtol, max_evals=max_evals).observed
    moved, outputs = (torch.as_tensor(found[name][0]) for name in "uh")  # (K, P), (K, n)
    error_u = (moved - u).norm(dim=-1) / u.norm(dim=-1)
    error_h = (outputs - h).norm(dim=-1) / (h0 - y).norm()
    return error_u.numpy(), error_h.numpy()
