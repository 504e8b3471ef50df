"""The differential Dh(w) of a two-layer net, neuron by neuron: its norm, and how far it turned, with no Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp

from ..nets._base import ACTIVATIONS
from ..nets.two_layer import TwoLayer
from .norms import lanczos, random_rows, require_finite

DENSE = 128  # inputs up to which all eigenvalues of an (n, n) matrix take less time than a Lanczos process


@dataclass(frozen=True)
class Differential:
    """Dh(w) from `two_layer_differential`, or a difference of two on the same inputs.

    Dh(x)[u] = Σ_j hidden_j(x) α_j + gates_j(x) x·β_j, u = (α, β).

    hidden: scale · σ(b_j·x_i), (…, m, n).     gates: scale · a_j σ′(b_j·x_i), (…, m, n).     x: inputs, (n, d).
    """

    hidden: Tensor
    gates: Tensor
    x: Tensor

    def __sub__(self, other: Differential) -> Differential:
        """How far it turned; a batch less one, or one less a batch, row by row."""
        return Differential(self.hidden - other.hidden, self.gates - other.gates, self.x)

    def norm(self, tol: float = 1e-6, steps: int = 300) -> Tensor:
        """‖Dh‖ = max ‖Dh u‖ over ‖u‖ = 1, with ‖Dh u‖² the mean of Dh(x_i)[u]² over inputs, (…,).

        From all eigenvalues of the (n, n) matrix of Dh Dhᵀ where it is small; else by Lanczos, until its residual is
        below tol of the eigenvalue or `steps` products are made: the relative error is of order tol² over the relative
        gap of eigenvalues.

        Raises: ValueError if an entry is not finite.
        """
        gram = self.hidden.mT @ self.hidden + (self.gates.mT @ self.gates) * (self.x @ self.x.T)  # (…, n, n)
        rows = gram.reshape(-1, *gram.shape[-2:])  # (R, n, n)
        if len(self.x) <= DENSE:
            require_finite(rows, "the derivatives of h at w0")
            largest = torch.linalg.eigvalsh(rows)[:, -1]
        else:
            start = random_rows(rows, len(rows), len(self.x), 0)  # (R, n)
            largest = lanczos(lambda v: (rows @ v.unsqueeze(-1)).squeeze(-1), start, steps, tol)[0]
        return (largest.clamp(min=0) / len(self.x)).sqrt().reshape(gram.shape[:-2])


def two_layer_differential(net: TwoLayer, w: Tensor, x: Tensor) -> Differential:
    """Dh(w) on the inputs x, as two (…, m, n) tables in place of an (n, P) Jacobian for each row of w.

    Along a path w(t) its largest ``norm()`` is Lip(h), and the largest ‖Dh(w) − Dh(w0)‖/‖w − w0‖ a lower bound of
    Lip(Dh): the constants of the bounds on the distance to the tangent model.

    Args:
        net: a two-layer net.
        w: parameters, (…, P).
        x: inputs, (n, d), shared by all rows.

    Raises:
        ValueError: w or x does not fit the net.

    Source: Chizat, Oyallon, Bach 2019, theorem 2.3, for what it is used for.

    Example:
        >>> import torch
        >>> from lazylib import TwoLayer
        >>> from lazylib.measures import two_layer_differential
        >>> net, x = TwoLayer(1, 1), torch.tensor([[1.0]])
        >>> start, end = (two_layer_differential(net, torch.tensor(w), x) for w in ([3.0, 4.0], [0.0, 4.0]))
        >>> start.norm(), (end - start).norm()  # of ∇h = (relu(b), a) = (4, 3), and of its change (0, −3)
        (tensor(5.), tensor(3.))
    """
    if x.dim() != 2 or x.shape[1] != net.d or w.shape[-1] != net.size:
        raise ValueError(
            f"w and x must be (…, {net.size}) and (n, {net.d}), got shapes {tuple(w.shape)} and {tuple(x.shape)}."
        )
    a, b = net.split(w)
    z = b @ x.T  # (…, m, n)
    hidden, slope = jvp(ACTIVATIONS[net.activation], (z,), (torch.ones_like(z),))
    return Differential(net.scale * hidden, net.scale * a.unsqueeze(-1) * slope, x)
