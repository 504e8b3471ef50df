"""The soft hinge loss of GSJW: classification by the sign of F = α (f − f(w0)), trained until every margin exceeds 1.

    L(w) = 1/(α² n) Σ_i softplus_β(1 − F(x_i) y_i),   softplus_β(z) = log(1 + e^{βz})/β,   β = 20,

so that F̓ = −Θ ∂(α²L)/∂F whatever α: flow time is the time of the tangent kernel Θ of f.  Objectives here work on the
displacement u = w − w0 (``lazylib.objectives``); "outputs" are F, and ``ended`` says which runs have F y > 1
throughout.  Geiger, Spigler, Jacot & Wyart, Disentangling feature and lazy training in deep neural networks (2020), §2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nets.deep import FullyConnected
from ._deep_hinge import DeepHinge
from ._soft_hinge import BETA, SoftHinge, _Hinge


def soft_hinge(
    net, w0: Tensor, x: Tensor, y: Tensor, alpha, *, margin: float | None = 1.0, centred: bool = True
) -> SoftHinge:
    """The soft hinge loss of a batch of runs, as an objective for ``gradient_flow``.

    Args:
        net: any net; ``FullyConnected`` takes a hand-derived layerwise gradient.
        w0: initial parameters (B, P).
        x: inputs (n, d), shared by the runs.     y: classes ±1, (n,) or (B, n).
        alpha: output scale α > 0, one number or one a run, (B,).
        margin: a run ends when F y > margin on all training inputs, and a flow needs no T; None: it goes on to T.
        centred: F = α (f − f(w0)); False: F = α f.

    With a margin, a T given to ``gradient_flow`` is a budget: a run that does not get there is "stalled".

    Raises: ValueError if shapes do not fit, y is not ±1, a value is not finite, or α is so large that the rounding
    of w0 would reach F (α·ε > 0.01).

    Returns:
        The objective; its outputs are F.

    Example:
        >>> import torch
        >>> from lazylib.flows import gradient_flow
        >>> from lazylib.nets import FullyConnected
        >>> from lazylib.objectives import soft_hinge
        >>> net = FullyConnected(d=4, h=8, L=2)
        >>> x, y = 2 * torch.eye(4), torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> objective = soft_hinge(net, net.init(0), x, y, alpha=1.0)
        >>> flow = gradient_flow(objective)  # until every margin is met
        >>> bool((objective.outputs(flow.u) * y > 1).all())
        True
    """
    runs, n = len(w0), len(x)
    alpha = torch.as_tensor(alpha, dtype=torch.float64).cpu()
    if w0.dim() != 2 or x.dim() != 2:
        raise ValueError(f"w0 must be (runs, parameters) and x (n, d), got {tuple(w0.shape)} and {tuple(x.shape)}.")
    if y.shape not in ((n,), (runs, n)) or not bool((y.abs() == 1).all()):
        raise ValueError(f"y must be ({n},) or ({runs}, {n}) with entries ±1, got {tuple(y.shape)}.")
    if alpha.shape not in ((), (runs,)) or not bool((torch.isfinite(alpha) & (alpha > 0)).all()):
        raise ValueError(f"alpha must be one finite number > 0 or {runs} of them, got {alpha.tolist()}.")
    for name, value in dict(w0=w0, x=x).items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite entries.")
    largest = 0.01 / torch.finfo(w0.dtype).eps
    if float(alpha.max()) > largest:
        raise ValueError(
            f"alpha must be at most {largest:.0e} in {w0.dtype}, or rounding shows in F: use float64, "
            f"got {float(alpha.max()):g}."
        )
    kind = DeepHinge if isinstance(net, FullyConnected) else SoftHinge
    return kind(net, w0, x, y.to(w0).expand(runs, n), alpha.to(w0).expand(runs), margin, centred)


def frozen_kernel(kernel: Tensor, y: Tensor, *, margin: float | None = 1.0) -> FrozenKernel:
    """Training with a tangent kernel Θ that does not change, as an objective for ``gradient_flow``.

    Ḟ = −(1/n) Θ ∂ Σ softplus_β(1 − F y)/∂F from F = 0: the limit α → ∞ of the network whose initial kernel is Θ, at
    the same flow time.  Any other kernel can be frozen as well, say that of a trained network.

    Args:
        kernel: (n, n) or (B, n, n), symmetric and positive semi-definite.
        y: (n,) or (B, n), ±1.
        margin: as in ``soft_hinge``.

    Raises: ValueError if shapes do not fit or the kernel is not finite.

    Returns:
        The objective, in float64; its outputs are F.

    Example:
        >>> import torch
        >>> from lazylib.flows import gradient_flow
        >>> from lazylib.objectives import frozen_kernel
        >>> y = torch.tensor([1.0, -1.0])
        >>> objective = frozen_kernel(torch.eye(2), y)
        >>> bool((objective.outputs(gradient_flow(objective).u) * y > 1).all())
        True
    """
    kernel = kernel if kernel.dim() == 3 else kernel.unsqueeze(0)
    runs, n = kernel.shape[:2]
    if kernel.shape != (runs, n, n) or y.shape not in ((n,), (runs, n)):
        raise ValueError(
            f"kernel must be (runs, n, n) and y (n,) or (runs, n), got {tuple(kernel.shape)} and {tuple(y.shape)}."
        )
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("the kernel must be finite, got NaN or infinite entries.")
    values, vectors = torch.linalg.eigh(kernel.double())
    root = torch.where(values > n * torch.finfo(torch.float64).eps * values[:, -1:], values, 0.0).sqrt()
    return FrozenKernel(vectors, root, y.double().expand(runs, n), margin)


class FrozenKernel(_Hinge):
    """See ``frozen_kernel``.  With Θ = V λ Vᵀ the parameters are u, F = V √λ u and u̇ = −∂L/∂u; in float64."""

    features = 0.0
    w0: Tensor

    def __init__(self, vectors: Tensor, root: Tensor, y: Tensor, margin: float | None):
        super().__init__(y, torch.ones_like(y[:, 0]), margin)
        self.vectors, self.root = vectors, root  # (B, n, n), (B, n)
        self.w0 = torch.zeros_like(root)

    @property
    def bytes_per_run(self) -> int:
        return 8 * self.size * (self.size + 8)

    @property
    def reach(self) -> Tensor:
        diagonal = torch.einsum("bij,bj->bi", self.vectors.square(), self.root.square())  # Θ(x_i, x_i), (B, n)
        return 0.1 / (BETA * diagonal.mean(1).sqrt())

    def outputs(self, u: Tensor) -> Tensor:
        """F on the training inputs, (B, n)."""
        return torch.bmm(self.vectors, (self.root * u).unsqueeze(2)).squeeze(2)

    def predict(self, u: Tensor, cross: Tensor) -> Tensor:
        """F on other inputs, (B, m), from the kernel between them and the training inputs, (B, m, n)."""
        inverse = torch.where(self.root > 0, 1 / self.root, 0.0)
        c = torch.bmm(self.vectors, (inverse * u).unsqueeze(2))  # F = Θ c, (B, n, 1)
        return torch.matmul(cross.to(c), c).squeeze(-1)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        out = self.outputs(u)
        along = torch.bmm(self.slope(out).unsqueeze(1), self.vectors).squeeze(1)  # (B, n)
        return self.root * along / self.size, out

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        return (self.root[rows] * v).square().mean(1).sqrt()  # V is orthogonal

    def select(self, rows) -> FrozenKernel:
        return FrozenKernel(self.vectors[rows], self.root[rows], self.y[rows], self.margin)
