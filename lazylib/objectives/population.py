"""The population risk of a two-layer ReLU student and teacher on the sphere, in closed form.

For x uniform on the unit sphere of R^d (Cho & Saul 2009, arc-cosine kernel of degree 1; E|x|² = 1):
    E relu(b·x) relu(c·x) = k(b, c) = ‖b‖‖c‖ (sin θ + (π − θ) cos θ) / (2π d),   θ = ∠(b, c),
    ∇_b k(b, c) = (‖c‖ sin θ · b/‖b‖ + (π − θ) c) / (2π d).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..nets.two_layer import TwoLayer
from ._objective import Objective


def arccos_kernel(b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k(b_i, c_j), sin θ_ij and π − θ_ij, each (…, m, m0), for b (…, m, d) and c (…, m0, d)."""
    nb, nc = b.norm(dim=-1).unsqueeze(-1), c.norm(dim=-1).unsqueeze(-2)  # (…, m, 1), (…, 1, m0)
    tiny = torch.finfo(b.dtype).tiny
    cos = ((b @ c.mT) / (nb * nc).clamp(min=tiny)).clamp(-1, 1)
    sin = (1 - cos.square()).sqrt()
    rest = math.pi - torch.atan2(sin, cos)
    return nb * nc * (sin + rest * cos) / (2 * math.pi * b.shape[-1]), sin, rest


def population_loss(net: TwoLayer, w0: Tensor, teacher_net: TwoLayer, teacher: Tensor, b_metric: float = 1.0):
    """F(w) = ½ E_x (h(w, x) − h*(x))² over the sphere, as an objective for ``gradient_flow``.

    Args:
        net, w0: two-layer ReLU student and its initial parameters (B, P).
        teacher_net, teacher: two-layer ReLU teacher and its parameters (P0,) or (B, P0).
        b_metric: factor of ∇_b F in the flow (the published code of COB fig. 2b multiplies it by d).
    """
    for name, part in (("student", net), ("teacher", teacher_net)):
        if not isinstance(part, TwoLayer) or part.activation != "relu" or part.d != net.d:
            raise ValueError(f"the {name} must be a TwoLayer ReLU net of d = {net.d}, got {part}.")
    if not b_metric > 0:
        raise ValueError(f"b_metric must be > 0, got {b_metric}.")
    if teacher.dim() == 1:
        teacher = teacher.expand(len(w0), -1)
    return PopulationLoss(net, w0, teacher_net, teacher.to(w0.dtype), b_metric)


class PopulationLoss(Objective):
    """See ``population_loss``.  "Outputs" of this objective are the risks themselves, (B, 1).

    There is no finite set of outputs to control: a flow controls the displacement alone.
    """

    def __init__(self, net, w0: Tensor, teacher_net, teacher: Tensor, b_metric: float):
        self.net, self.w0, self.teacher_net, self.teacher, self.b_metric = net, w0, teacher_net, teacher, b_metric
        a0, self.b0 = teacher_net.split(teacher)
        self.a0 = teacher_net.scale * a0  # (B, m0)
        k = arccos_kernel(self.b0, self.b0)[0]
        self.teacher_power = 0.5 * torch.einsum("bi,bij,bj->b", self.a0, k, self.a0)  # ½ E h*², (B,)

    @property
    def bytes_per_run(self) -> int:
        return 8 * self.w0.element_size() * (self.net.m * (self.net.m + self.teacher_net.m) + self.size)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.net.split(self.w0 + u)
        a = self.net.scale * a
        every, weights = torch.cat([b, self.b0], dim=1), torch.cat([a, -self.a0], dim=1)  # student − teacher
        k, sin, rest = arccos_kernel(b, every)  # (B, m, m + m0)
        along_a = (k @ weights.unsqueeze(2)).squeeze(2)  # E relu(b_i·x) (h − h*), (B, m)
        m = self.net.m
        cross = (arccos_kernel(self.b0, b)[0] @ a.unsqueeze(2)).squeeze(2)  # E relu(b0_j·x) h, (B, m0)
        risk = 0.5 * (a * along_a).sum(1) - 0.5 * (self.a0 * cross).sum(1) + self.teacher_power
        # ½ aᵀ(K a − K₀ a0) − ½ a0ᵀ K₀ᵀ a + ½ E h*² = ½ E (h − h*)²
        norms = every.norm(dim=2)  # (B, m + m0)
        unit = b / norms[:, :m].clamp(min=torch.finfo(b.dtype).tiny).unsqueeze(2)
        radial = (sin * (weights * norms).unsqueeze(1)).sum(2)  # Σ_j c_j ‖b_j‖ sin θ_ij
        turning = (rest * weights.unsqueeze(1)) @ every  # Σ_j c_j (π − θ_ij) b_j, (B, m, d)
        along_b = a.unsqueeze(2) * (radial.unsqueeze(2) * unit + turning) / (2 * math.pi * self.net.d)
        grad = torch.cat([self.net.scale * along_a, self.b_metric * along_b.flatten(1)], dim=1)
        return grad, risk.unsqueeze(1)

    def loss(self, out: Tensor) -> Tensor:
        return out.squeeze(1)

    def risk(self, u: Tensor) -> Tensor:
        """F(w0 + u), (B,)."""
        return self.gradient(u)[1].squeeze(1)

    def select(self, rows) -> PopulationLoss:
        return PopulationLoss(self.net, self.w0[rows], self.teacher_net, self.teacher[rows], self.b_metric)
