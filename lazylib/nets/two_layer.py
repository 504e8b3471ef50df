"""The two-layer net of COB and BG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runs.rng import generator
from ._base import ACTIVATIONS, check_sizes, one_a_run


@dataclass(frozen=True)
class TwoLayer:
    """The two-layer net h(w, x) = scale · Σ_{i≤m} a_i σ(b_i·x), with w = [a (m), b (m·d)].

    Args:
        d: input dimension.
        m: width.
        activation: σ, "relu", "softplus" or "gelu".
        scale: output factor, such as 1, 1/√m or 1/m.

    Raises:
        ValueError: an unknown activation, or sizes that are not whole numbers ≥ 1.

    Source: Chizat, Oyallon, Bach 2019, section 1 and figures 1 and 2.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer
        >>> net = TwoLayer(d=2, m=2, scale=0.5)
        >>> w = torch.tensor([1.0, -1.0, 1.0, 0.0, 0.0, 1.0])  # a = (1, −1), b = (1, 0), (0, 1)
        >>> net(w, torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        tensor([ 1.0000, -0.5000])
        >>> net.init(tau=[0.1, 1.0], seeds=0, symmetrized=True).shape
        torch.Size([2, 6])
    """

    d: int
    m: int
    activation: str = "relu"
    scale: float = 1.0

    def __post_init__(self):
        check_sizes(self.d, (self.m,), self.activation)

    @property
    def size(self) -> int:
        return self.m * (self.d + 1)

    @property
    def q(self) -> int | None:
        return 2 if self.activation == "relu" else None

    def split(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Views a (…, m) and b (…, m, d) of w (…, P)."""
        return w[..., : self.m], w[..., self.m :].view(*w.shape[:-1], self.m, self.d)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        a, b = self.split(w)
        hidden = ACTIVATIONS[self.activation](b @ x.mT)  # (…, m, n)
        return self.scale * (a.unsqueeze(-2) @ hidden).squeeze(-2)  # (…, n)

    def init(
        self, tau, seeds: int | Sequence[int], symmetrized: bool = False, *, dtype=torch.float32, device=None
    ) -> Tensor:
        """Parameters at w0: a, b ~ N(0, τ²) entrywise; (B, P), a row for each pair (τ, seed).

        A seed fixes w0/τ, so runs that share a seed start from the same direction at every τ.
        ``symmetrized``: a_i ≥ 0 for the first half, and the second half copies b and negates a, so
        that h(w0) = 0 (COB §1.1; BG §4).

        Raises: ValueError for τ ≤ 0, for lengths that do not match, for odd m with ``symmetrized``.
        """
        if symmetrized and self.m % 2:
            raise ValueError(f"a symmetrized net needs an even width m, got m = {self.m}.")
        rows = []
        for t, seed in zip(*one_a_run(tau, seeds), strict=True):
            rng = generator(seed, "init")
            a = torch.randn(self.m, generator=rng, dtype=torch.float64)
            b = torch.randn(self.m, self.d, generator=rng, dtype=torch.float64)
            if symmetrized:
                half = self.m // 2
                a = torch.cat([a[:half].abs(), -a[:half].abs()])
                b = torch.cat([b[:half], b[:half]])
            rows.append(t * torch.cat([a, b.reshape(-1)]))
        return torch.stack(rows).to(dtype=dtype, device=device)
