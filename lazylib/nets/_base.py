"""What every net offers, and what their constructors check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor


class Net(Protocol):
    """A function h(w, x) of a flat vector of parameters; what it must offer to be trained and measured.

    It is called with w of shape (P,) or (B, P), one row a run, and inputs x of shape (n, d), shared by all runs, or
    (B, n, d), and returns (n,) or (B, n) outputs.

    Attributes:
        size: P, the number of parameters.
        q: degree of homogeneity, h(λw, x) = λ^q h(w, x) for λ > 0, or None.

    Example:
        A net needs no base class.

        >>> import torch
        >>> from lazylib.flows import gradient_flow
        >>> from lazylib.objectives import square_loss
        >>> class Linear:
        ...     size, q = 2, 1
        ...     def __call__(self, w, x):
        ...         return (w.unsqueeze(-2) @ x.mT).squeeze(-2)
        >>> objective = square_loss(Linear(), torch.ones(1, 2), torch.eye(2), torch.tensor([2.0, 1.0]))
        >>> gradient_flow(objective, 50.0).u.round(decimals=2)
        tensor([[1., 0.]])
    """

    size: int  # P
    q: int | None  # degree of homogeneity, h(λw, x) = λ^q h(w, x) for λ > 0, or None

    def __call__(self, w: Tensor, x: Tensor) -> Tensor: ...


def input_dim(net) -> int | None:
    """Dimensions of one set of inputs of a net, 2 for (n, d); None: any, and all runs share them."""
    return getattr(net, "input_dim", 2)


def set_a_run(net, x) -> bool:
    """Whether x holds a set of inputs for each run, and not one that all share."""
    dim = input_dim(net)
    return isinstance(x, Tensor) and dim is not None and x.dim() == dim + 1


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "softplus": nnf.softplus,
    "gelu": nnf.gelu,
}


def check_sizes(d: int, widths: Sequence[int], activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
    for size in (d, *widths):
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"dimensions and widths must be whole numbers ≥ 1, got {size!r}.")


def one_a_run(tau, seeds) -> tuple[list[float], list[int]]:
    """Broadcast initial sizes τ and seeds against each other to one pair a run."""
    taus = [float(t) for t in torch.as_tensor(tau, dtype=torch.float64).reshape(-1)]
    seeds = [int(s) for s in ([seeds] if isinstance(seeds, int) else seeds)]
    if not taus or not seeds:
        raise ValueError("tau and seeds must not be empty.")
    if not all(math.isfinite(t) and t > 0 for t in taus):
        raise ValueError(f"tau must be finite and > 0, got {tau}.")
    if len(taus) == 1:
        taus *= len(seeds)
    if len(seeds) == 1:
        seeds *= len(taus)
    if len(taus) != len(seeds):
        raise ValueError(f"tau and seeds must have equal lengths or length 1, got {len(taus)} and {len(seeds)}.")
    return taus, seeds
