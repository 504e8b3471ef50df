"""The tangent kernel K(x, x′) = Dh(x) Dh(x′)ᵀ at given parameters, and training with it in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..nets._calls import as_floats
from ..nets.deep import FullyConnected
from ..nets.two_layer import TwoLayer
from . import _kernel_paths as paths


def tangent_kernel(net, w: Tensor | None, x: Tensor, x2: Tensor | None = None) -> Tensor:
    """K_ij = ⟨∇_w h(w, x_i), ∇_w h(w, x2_j)⟩ (Jacot et al. 2018), of one net, of a batch of nets, or of a torch module.

    The two-layer ReLU net and ``FullyConnected`` have a formula, layer by layer, with no Jacobian ever formed; other
    nets go by reverse-mode Jacobians.

    Args:
        net: any net, or any deterministic torch module; one whose layers with weights are Conv2d (zero padding, one
            group) and Linear, each used once in a pass, goes layer by layer. Frozen parameters do not count.
        w: (P,), or (B, P), a row a net. For a module (P,), its trainable parameters in order, as ``from_module`` has
            them, and of the dtype of x; or None: its present weights count.
        x: inputs (n, d), for a module whatever it takes, (n, …).     x2: others, (n2, …); default x.

    Returns: (n, n2); (B, n, n2) for a batch; with k outputs (n·k, n2·k), where row i·k + c is output c at x_i.

    Raises: ValueError if w does not fit the net, or a module is random; MemoryError before work starts if K, the
    Jacobian or a backward pass cannot fit.

    Example:
        h = a relu(b x) at a = 3, b = 4: ∇h = (4, 3) at x = 1.

        >>> import torch
        >>> from lazylib.measures import tangent_kernel
        >>> from lazylib.nets import TwoLayer
        >>> tangent_kernel(TwoLayer(d=1, m=1), torch.tensor([3.0, 4.0]), torch.tensor([[1.0], [2.0]]))
        tensor([[ 25.,  50.],
                [ 50., 100.]])
    """
    if isinstance(net, nn.Module):
        if w is not None:
            size = sum(p.numel() for p in net.parameters() if p.requires_grad)
            if not isinstance(w, Tensor) or w.shape != (size,):
                given = f"shape {tuple(w.shape)}" if isinstance(w, Tensor) else repr(w)
                raise ValueError(f"w must be the {size} parameters of the module, (P,), or None, got {given}.")
            net = copy.deepcopy(net).to(w)
            nn.utils.vector_to_parameters(w, (p for p in net.parameters() if p.requires_grad))
        return paths.of_module(net, x, x2)
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


def kernel_flow(kernel: Tensor, y: Tensor, times: Sequence[float]) -> Tensor:
    """Outputs on the training inputs at the times t of gradient flow with a fixed kernel, from zero, in closed form.

    Gradient flow on ½ mean ‖h(x_i) − y_i‖² is ḣ = −K (h − y)/n where all k outputs have the kernel K and do not
    interact. With eigenvalues λ_j and eigenvectors v_j of K/n it is h(t) = Σ_j (1 − exp(−λ_j t)) v_j v_jᵀ y.

    Args:
        kernel: K, symmetric and positive semidefinite, (n, n).     y: targets, (n, k).
        times: t ≥ 0, inf allowed; there the outputs are the projection of y on the range of K, for which
            eigenvalues below n·ε·λmax count as 0.

    Returns: (times, n, k), float64.

    Raises: ValueError for shapes that do not fit, and for a time that is negative or NaN.

    Example:
        >>> import torch
        >>> from lazylib.measures import kernel_flow
        >>> kernel_flow(torch.eye(2), torch.tensor([[1.0], [-2.0]]), [0.0, torch.inf]).squeeze(2).tolist()
        [[0.0, 0.0], [1.0, -2.0]]
    """
    if kernel.dim() != 2 or y.dim() != 2 or not len(kernel) == kernel.shape[1] == len(y) > 0:
        raise ValueError(f"kernel and y must be (n, n) and (n, k), got {tuple(kernel.shape)} and {tuple(y.shape)}.")
    t = torch.as_tensor(times, dtype=torch.float64, device=kernel.device)  # (times,)
    if t.dim() != 1 or not (t >= 0).all():
        raise ValueError(f"times must be a list of numbers ≥ 0 (inf is allowed), got {times}.")
    lam, vectors = torch.linalg.eigh(kernel.double() / len(kernel))
    kept = lam > len(lam) * torch.finfo(lam.dtype).eps * lam[-1]
    vectors, learned = vectors[:, kept], -torch.expm1(-t[:, None] * lam[kept])  # (n, r), (times, r)
    return vectors @ (learned[..., None] * (vectors.T @ y.double()))


def stable_step(module: nn.Module, x: Tensor, loss: str = "square", momentum: float = 0.0) -> float:
    """The largest step with which gradient descent is stable in the tangent model of a module, estimated from inputs x.

    Gradient descent with momentum μ is stable for steps below 2(1 + μ)/(c λmax(K/n)), K being the tangent kernel of all
    k outputs, (n·k, n·k), and c the largest curvature of the loss by an output: 2/k for "square", the mean over outputs
    of (h − y)²; ½ for "cross-entropy", of a softmax.

    Args:
        module: as for `tangent_kernel`, with its present weights.
        x: inputs, (n, …): a few that stand for all.
        momentum: μ, from 0 to below 1.

    Raises: ValueError for another loss, and a momentum that is not allowed.

    Example:
        >>> import torch
        >>> from lazylib.measures import stable_step
        >>> layer = torch.nn.Linear(2, 1, bias=False)  # the loss is quadratic, with the curvature 2
        >>> stable_step(layer, torch.tensor([[1.0, 0.0]]))
        1.0
    """
    if loss not in ("square", "cross-entropy"):
        raise ValueError(f"loss must be square or cross-entropy, not {loss!r}.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be from 0 to below 1, not {momentum}.")
    kernel = tangent_kernel(module, None, x).double()
    top = float(torch.linalg.eigvalsh(kernel)[-1]) / len(x)
    curvature = 0.5 if loss == "cross-entropy" else 2 * len(x) / len(kernel)
    return 2 * (1 + momentum) / (curvature * top)


@dataclass(frozen=True)
class TangentSolution:
    """Gradient flow of the tangent model on ½ mean (h̄ − y)² by the eigenvalues λ_k of K/n, from `tangent_solution`.

    Along eigenvector k the residual decays as exp(−λ_k t).  All in float64.  With k outputs read n·k for (n,) below,
    except where it divides K.

    eigenvalues: of K/n, ascending, (n,); those below n·ε·λmax count as 0.
    """

    eigenvalues: Tensor
    vectors: Tensor
    residual: Tensor  # y − h(w0), (n,)
    h0: Tensor  # (n,) or (n, k)
    h0_test: Tensor  # (n_test,) or (n_test, k)
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
        return self.vectors @ (gain * (self.vectors.T @ self.residual.flatten())) / len(self.h0)

    def train(self, T: float) -> Tensor:
        """Outputs h̄_T on the training inputs, (n,) or (n, k)."""
        c = self.coefficients(T)
        lam = self.eigenvalues * len(self.h0)
        return self.h0 + (self.vectors @ (lam * (self.vectors.T @ c))).view_as(self.h0)

    def test(self, T: float) -> Tensor:
        """Outputs h̄_T on the test inputs, (n_test,) or (n_test, k)."""
        return self.h0_test + (self.cross @ self.coefficients(T)).view_as(self.h0_test)

    def displacement(self, T: float) -> float:
        """‖w̄(T) − w0‖ = √(cᵀ K c)."""
        weights = self.vectors.T @ self.coefficients(T)
        return float((self.eigenvalues.clamp(min=0) * len(self.h0) * weights**2).sum().sqrt())


def tangent_solution(net, w0: Tensor, x: Tensor, y: Tensor, x_test: Tensor) -> TangentSolution:
    """The tangent model at w0 trained by gradient flow on ½ mean (h̄ − y)², exactly, at any flow time up to T = ∞.

    Args:
        net: any net that ``tangent_kernel`` takes with flat parameters.
        w0: parameters, (P,).
        x: training inputs, (n, d), or what the net takes; integers stay integers.
        y: targets, shaped as the outputs, (n,) or (n, k). For αh with the loss over α² pass y/α.
        x_test: other inputs, (n_test, d).

    Raises:
        ValueError: y has not the shape of the outputs.

    Returns:
        The solution, whose methods give outputs on both sets of inputs at a flow time.

    Source: Chizat, Oyallon, Bach 2019, equation 3; Lee et al. 2019, equation 8.

    Example:
        >>> import torch
        >>> from lazylib.measures import tangent_solution
        >>> from lazylib.nets import TwoLayer
        >>> net, x = TwoLayer(d=1, m=1), torch.tensor([[1.0]])
        >>> solution = tangent_solution(net, torch.tensor([3.0, 4.0]), x, torch.tensor([2.0]), 2 * x)
        >>> solution.eigenvalues, solution.test(float("inf"))  # K = 3² + 4²; the tangent model is linear in x > 0
        (tensor([25.], dtype=torch.float64), tensor([4.], dtype=torch.float64))
    """
    w0, x, y, x_test = as_floats((w0, x, y, x_test), torch.float64)
    h0 = net(w0, x)
    if y.shape != h0.shape:
        raise ValueError(f"y must have the shape {tuple(h0.shape)} of the outputs, got {tuple(y.shape)}.")
    lam, vectors = torch.linalg.eigh(tangent_kernel(net, w0, x) / len(h0))
    return TangentSolution(lam, vectors, y - h0, h0, net(w0, x_test), tangent_kernel(net, w0, x_test, x))
