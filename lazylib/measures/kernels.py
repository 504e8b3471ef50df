"""The tangent kernel K(x, x′) = Dh(x) Dh(x′)ᵀ at given parameters, and training with it in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nets.deep import FullyConnected
from ..nets.two_layer import TwoLayer
from . import _kernel_paths as paths


def tangent_kernel(net, w: Tensor | None, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """K_ij = ⟨∇_w h(w, x_i), ∇_w h(w, x2_j)⟩ (Jacot et al. 2018), of one net, of a batch of nets, or of a torch module.

    The two-layer ReLU net and ``FullyConnected`` have a formula, layer by layer, with no Jacobian ever formed; other
    nets go by reverse-mode Jacobians.

    Args:
        net: any net, or a torch module built of Conv2d (zero padding, one group) and Linear as the layers with
            weights, each used once in a pass, with outputs (n, k).
        w: (P,), or (B, P), a row a net; None for a module, whose present weights count.
        x: inputs (n, d), for a module whatever it takes, (n, …).     x2: others, (n2, …); default x.

    Returns: (n, n2); (B, n, n2) for a batch; for a module (n·k, n2·k), where row i·k + c is output c at x_i.

    Raises: ValueError if w does not fit the net; TypeError for a module's layer that it cannot treat; MemoryError
    before work starts if a module's K cannot fit.
    """
    if isinstance(net, nn.Module):
        if w is not None:
            raise ValueError("w must be None for a module, whose present weights count; or take from_module(module).")
        return paths.by_layers(net, x, x2)
    if not isinstance(w, Tensor) or w.dim() not in (1, 2):
        shape = f"shape {tuple(w.shape)}" if isinstance(w, Tensor) else repr(w)
        raise ValueError(f"w must be the parameters of one net, (P,), or of a batch, (B, P), got {shape}.")
    if isinstance(net, FullyConnected):
        kernel = paths.fully_connected(net, w if w.dim() == 2 else w.unsqueeze(0), x, x2)
        return kernel if w.dim() == 2 else kernel[0]
    if w.dim() == 2:
        return torch.stack([tangent_kernel(net, row, x, x2) for row in w])
    formula = paths.two_layer if isinstance(net, TwoLayer) and net.activation == "relu" else paths.by_jacobian
    return formula(net, w, x, x if x2 is None else x2)


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
