"""The tangent kernel K(x, x′) = Dh(x) Dh(x′)ᵀ at given parameters, and training with it in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .deep import FullyConnected, deep_kernel
from .nets import TwoLayer


def tangent_kernel(net, w: Tensor, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """K_ij = ⟨∇_w h(w, x_i), ∇_w h(w, x2_j)⟩ (Jacot et al. 2018), (n, n2), for one run.

    For the two-layer ReLU net: scale² (Σ_k relu relu′ + x·x′ Σ_k a_k² 1 1′), and for ``FullyConnected`` layer by
    layer, with no Jacobian ever formed; for other nets by reverse-mode Jacobians.

    Args: w (P,); x (n, d); x2 (n2, d), default x.
    """
    if w.dim() != 1:
        raise ValueError(f"w must be the parameters of one run, (P,), got shape {tuple(w.shape)}.")
    if isinstance(net, FullyConnected):
        return deep_kernel(net, w.unsqueeze(0), x, x2)[0]
    x2 = x if x2 is None else x2
    if isinstance(net, TwoLayer) and net.activation == "relu":
        a, b = net.split(w)
        p, p2 = x @ b.T, x2 @ b.T  # (n, m), (n2, m)
        on, on2 = (p > 0).to(w.dtype) * a, (p2 > 0).to(w.dtype) * a
        return net.scale**2 * (p.relu() @ p2.relu().T + (x @ x2.T) * (on @ on2.T))
    jacobian = torch.func.jacrev(lambda v: net(v, x))(w)  # (n, P)
    other = jacobian if x2 is x else torch.func.jacrev(lambda v: net(v, x2))(w)
    return jacobian @ other.T


@dataclass(frozen=True)
class TangentSolution:
    """Gradient flow of the tangent model on ½ mean (h̄ − y)², solved by the eigenvalues λ_k of K/n.

    Along eigenvector k the residual decays as exp(−λ_k t).  All in float64.

    eigenvalues: of K/n, ascending, (n,); those below n·ε·λmax count as 0.
    """

    eigenvalues: Tensor
    vectors: Tensor
    residual: Tensor  # y − h(w0), (n,)
    h0: Tensor
    h0_test: Tensor
    cross: Tensor  # K(x_test, x), (n_test, n)

    def coefficients(self, T: float) -> Tensor:
        """c with w̄(T) − w0 = Dh(w0)ᵀ c and h̄_T − h(w0) = K c, (n,), at flow time T ≥ 0, inf allowed.

        c = (K/n)⁻¹ (1 − exp(−T K/n)) (y − h(w0)) / n.  One vjp of the net gives the displacement itself:
        ``torch.func.vjp(lambda w: net(w, x), w0)[1](c)[0]``, (P,).

        Raises: ValueError for T < 0 or NaN.
        """
        if not T >= 0:
            raise ValueError(f"T must be ≥ 0 (inf is allowed), got {T}.")
        lam = self.eigenvalues
        null = lam <= len(lam) * torch.finfo(lam.dtype).eps * lam[-1]
        decay = -torch.expm1(-lam * T) if math.isfinite(T) else torch.ones_like(lam)  # 1 − e^{−λT}
        gain = torch.where(null, 0.0, decay / lam)  # nothing along the null space: K has no part there
        return self.vectors @ (gain * (self.vectors.T @ self.residual)) / len(lam)

    def train(self, T: float) -> Tensor:
        """Outputs h̄_T on the training inputs, (n,)."""
        c = self.coefficients(T)
        lam = self.eigenvalues * len(self.eigenvalues)
        return self.h0 + self.vectors @ (lam * (self.vectors.T @ c))

    def test(self, T: float) -> Tensor:
        """Outputs h̄_T on the test inputs, (n_test,)."""
        return self.h0_test + self.cross @ self.coefficients(T)

    def displacement(self, T: float) -> float:
        """‖w̄(T) − w0‖ = √(cᵀ K c)."""
        weights = self.vectors.T @ self.coefficients(T)
        return float((self.eigenvalues.clamp(min=0) * len(self.eigenvalues) * weights**2).sum().sqrt())


def tangent_solution(net, w0: Tensor, x: Tensor, y: Tensor, x_test: Tensor) -> TangentSolution:
    """The tangent model at w0 trained by gradient flow, exactly, at any flow time up to T = ∞.

    Args: w0 (P,); x (n, d); y (n,); x_test (n_test, d).  For αh with the loss over α², pass y/α.
    """
    w0, x, y, x_test = (v.double() for v in (w0, x, y, x_test))
    lam, vectors = torch.linalg.eigh(tangent_kernel(net, w0, x) / len(x))
    h0 = net(w0, x)
    return TangentSolution(lam, vectors, y - h0, h0, net(w0, x_test), tangent_kernel(net, w0, x_test, x))
