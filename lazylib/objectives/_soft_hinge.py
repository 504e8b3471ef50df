"""The soft hinge loss of any net: see ``lazylib.objectives.soft_hinge``."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ._objective import Objective

BETA = 20.0
LINEAR = 40.0  # softplus_β(z) is z itself beyond βz = 40


class _Hinge(Objective):
    """The loss and the end of training, for any F; ``y`` (B, n), ``alpha`` (B,)."""

    curvature = 0.0  # the loss is linear far from the margin, whatever Dh

    def __init__(self, y: Tensor, alpha: Tensor, margin: float | None):
        self.y, self.alpha, self.margin, self.ends = y, alpha, margin, margin is not None

    def ended(self, out: Tensor) -> Tensor:
        return super().ended(out) if self.margin is None else (out * self.y > self.margin).all(1)

    def loss(self, out: Tensor) -> Tensor:
        """L, (B,)."""
        return nnf.softplus(1 - out * self.y, BETA, LINEAR).mean(1) / self.alpha.square()

    def slope(self, out: Tensor) -> Tensor:
        """n ∂(α² L)/∂F, (B, n)."""
        return -self.y * torch.sigmoid(BETA * (1 - out * self.y))


class SoftHinge(_Hinge):
    """See ``soft_hinge``; gradients and differentials by torch.func."""

    def __init__(self, net, w0, x, y, alpha, margin, centred, f0=None):
        super().__init__(y, alpha, margin)
        self.net, self.w0, self.x, self.centred = net, w0, x, centred
        self.f0 = self._model(w0, x) if f0 is None else f0  # (B, n)

    @property
    def bytes_per_run(self) -> int:
        return 8 * self.w0.element_size() * (100 * self.y.shape[1] + self.size)

    @property
    def reach(self) -> Tensor:
        """Short enough for F to stay within a part of the width 1/β of the hinge."""
        return torch.minimum(1e-3 * self.w0.norm(dim=1), 0.1 / (BETA * self.alpha))

    def _model(self, w: Tensor, x: Tensor) -> Tensor:
        """f(w, x), (B, n)."""
        return self.net(w, x)

    def _values(self, w: Tensor, x: Tensor, f0: Tensor) -> Tensor:
        f = self.net(w, x)
        return self.alpha.unsqueeze(1) * (f - f0 if self.centred else f)

    def outputs(self, u: Tensor, x: Tensor | None = None) -> Tensor:
        """F at w0 + u on the training inputs or on others, (B, n)."""
        if x is None or x is self.x:
            f, f0 = self._model(self.w0 + u, self.x), self.f0
        else:
            f, f0 = self._model(self.w0 + u, x), self._model(self.w0, x) if self.centred else None
        return self.alpha.unsqueeze(1) * (f - f0 if self.centred else f)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self._latest = u
        out, vjp = torch.func.vjp(lambda v: self._values(self.w0 + v, self.x, self.f0), u)
        return vjp(self.slope(out) / (self.alpha.square().unsqueeze(1) * self.y.shape[1]))[0], out

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        part = self.select(rows)
        along = torch.func.jvp(lambda s: part._values(part.w0 + s, part.x, part.f0), (u[rows],), (v,))[1]
        return along.square().mean(1).sqrt()

    def select(self, rows) -> SoftHinge:
        parts = self.w0[rows], self.x, self.y[rows], self.alpha[rows]
        return type(self)(self.net, *parts, self.margin, self.centred, self.f0[rows])
