"""What a flow or a descent asks of an objective F(w)."""

from __future__ import annotations

import torch
from torch import Tensor

FEATURES = 10.0  # how much more an error of u counts where u is as large as w


class Objective:
    """F(w0 + u) of a batch of B runs as a function of the displacement u (B, P): the base of all objectives.

    A subclass sets `w0` and defines `gradient`, `loss`, `outputs`, `select` and `bytes_per_run`; the rest has a meaning
    as it stands, which it may change. A flow controls the error of u always, that of the outputs by `moved` and
    `error_size`.

    Attributes:
        w0: initial parameters, (B, P).
        features: how much more an error of u counts where u is as large as w; 0 if the model is linear in u.
        curvature: c ≥ 0 with c·‖Dh‖² ≤ λmax(∇²F), the norm of Dh being that of the root mean square of outputs.
        ends: whether a run has an end of its own (`ended`); then a flow needs no horizon.

    Example:
        F(w) = ½ ‖w − 1‖², whose flow is w − 1 ∝ e^{−t}.

        >>> import torch
        >>> from lazylib.flows import gradient_flow
        >>> from lazylib.objectives import Objective
        >>> class Bowl(Objective):
        ...     bytes_per_run = 100
        ...     def __init__(self, w0):
        ...         self.w0 = w0
        ...     def outputs(self, u):
        ...         return self.w0 + u - 1
        ...     def gradient(self, u):
        ...         return self.outputs(u), self.outputs(u)
        ...     def loss(self, out):
        ...         return 0.5 * out.square().sum(1)
        ...     def select(self, rows):
        ...         return Bowl(self.w0[rows])
        >>> float(gradient_flow(Bowl(torch.tensor([[3.0, 1.0]])), T=20.0).loss) < 1e-6
        True
    """

    w0: Tensor
    features: float = FEATURES
    curvature: float = 1.0
    ends: bool = False
    _latest: Tensor | None = None  # u of the latest gradient, whose intermediate values `moved` may use

    @property
    def runs(self) -> int:
        """B."""
        return self.w0.shape[0]

    @property
    def size(self) -> int:
        """P."""
        return self.w0.shape[1]

    @property
    def bytes_per_run(self) -> int:
        """Memory that one gradient takes for a run."""
        raise NotImplementedError

    @property
    def reach(self) -> Tensor:
        """Length of the displacement over which ∇²F is probed by a difference of gradients, (B,)."""
        return 1e-3 * torch.where((size := self.w0.norm(dim=1)) > 0, size, 1.0)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """∇F (B, P) and the outputs (B, n) at w0 + u."""
        raise NotImplementedError

    def loss(self, out: Tensor) -> Tensor:
        """F (B,) of outputs (B, n)."""
        raise NotImplementedError

    def outputs(self, u: Tensor) -> Tensor:
        """Outputs at w0 + u, (B, n)."""
        raise NotImplementedError

    def ended(self, out: Tensor) -> Tensor:
        """Which runs with these outputs (B, n) have come to their own end, (B,)."""
        return torch.zeros(len(out), dtype=torch.bool, device=out.device)

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        """Root mean square over the outputs of Dh(w0 + u) v, (k,), for k rows of u (B, P) and v (k, P); here 0."""
        return v.new_zeros(len(v))

    def error_size(self, out: Tensor, rows: Tensor) -> Tensor:
        """The size by which an error of the outputs (k, n) of some rows is judged, (k,); here 1."""
        return torch.ones_like(self.w0[rows, 0])

    def select(self, rows) -> Objective:
        """The objective of some of the runs; rows: indices or booleans, as a list, an array or a tensor."""
        raise NotImplementedError

    def _at(self, u: Tensor) -> None:
        """Make the intermediate values of the latest gradient those at u."""
        if u is not self._latest:
            self.gradient(u)
