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
    """E relu(b_i·x) relu(c_j·x) over the unit sphere, with the angles θ_ij between b_i and c_j.

        k(b, c) = ‖b‖ ‖c‖ (sin θ + (π − θ) cos θ) / (2π d)

    Args:
        b: (…, m, d).
        c: (…, m0, d).

    Returns:
        k, sin θ and π − θ, each (…, m, m0).

    Source: Cho and Saul 2009, the arc-cosine kernel of degree one.

    Example:
        >>> import torch
        >>> from lazylib.objectives import arccos_kernel
        >>> b = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> k, sin, rest = arccos_kernel(b, b)  # E relu(x_1)² = ½ E x_1² = 1/4 on the circle
        >>> k
        tensor([[0.2500]], dtype=torch.float64)
    """
    nb, nc = b.norm(dim=-1).unsqueeze(-1), c.norm(dim=-1).unsqueeze(-2)  # (…, m, 1), (…, 1, m0)
    tiny = torch.finfo(b.dtype).tiny
    cos = ((b @ c.mT) / (nb * nc).clamp(min=tiny)).clamp(-1, 1)
    sin = (1 - cos.square()).sqrt()
    rest = math.pi - torch.atan2(sin, cos)
    return nb * nc * (sin + rest * cos) / (2 * math.pi * b.shape[-1]), sin, rest


def population_loss(net: TwoLayer, w0: Tensor, teacher_net: TwoLayer, teacher: Tensor, b_metric: float = 1.0):
    """F(w) = ½ E_x (h(w, x) − h*(x))² over the unit sphere, as an objective for ``gradient_flow``.

    Args:
        net: two-layer ReLU student.
        w0: its initial parameters, (B, P).
        teacher_net: two-layer ReLU teacher.
        teacher: its parameters, (P0,) or (B, P0).
        b_metric: factor of ∇_b F in the flow (the published code of COB, figure 2b, multiplies it by d).

    Returns:
        The objective; its "outputs" are the risks themselves, (B, 1).

    Raises:
        ValueError: a net of another kind or dimension, or a factor that is not positive.

    Source: Chizat, Oyallon, Bach 2019, figure 2b; the expectation by Cho and Saul 2009.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import population_loss
        >>> net, w = TwoLayer(d=2, m=1), torch.tensor([[1.0, 1.0, 0.0]])
        >>> objective = population_loss(net, torch.zeros(1, 3), net, w[0])
        >>> objective.risk(torch.zeros(1, 3)), objective.risk(w)  # of the zero function, and of the teacher
        (tensor([0.1250]), tensor([0.]))
    """
    for name, part in (("student", net), ("teacher", teacher_net)):
        if not isinstance(part, TwoLayer) or part.activation != "relu" or part.d != net.d:
            raise ValueError(f"the {name} must be a TwoLayer ReLU net of d = {net.d}, got {part}.")
    if not b_metric > 0:
        raise ValueError(f"b_metric must be > 0, got {b_metric}.")
    if teacher.dim() == 1:
        teacher = teacher.expand(len(w0), -1)
    return PopulationLoss(net, w0, teacher_net, teacher.to(w0.dtype), b_metric)


def batch_gradient(net: TwoLayer, w: Tensor, x: Tensor, y: Tensor, b_metric: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gradient and value of F(w) = ½ mean_i (h(w, x_i) − y_i)² on one batch, for ``lazylib.flows.sgd``.

    With the residual r = h − y and ReLU features,

        ∂F/∂a_i = scale · mean(r relu(b_i·x)),   ∂F/∂b_i = b_metric · scale · a_i mean(r 1[b_i·x > 0] x).

    Over fresh inputs on the sphere its mean is the gradient of ``population_loss``. Unlike ``square_loss`` it prepares
    nothing for other w on the same inputs, and takes half of the time.

    Args:
        net: two-layer ReLU student.
        w: parameters, (B, P).
        x: inputs (n, d), shared by all runs, in the dtype of w.
        y: targets, (n,) or (B, n).
        b_metric: factor of ∇_b F, as in ``population_loss``.

    Returns:
        (B, P) and (B,), in the dtype of w.

    Raises:
        ValueError: the net is another one, a shape does not fit, or b_metric is not positive.

    Source: the published code of Chizat, Oyallon, Bach 2019, figure 2b.

    Example:
        h = a relu(b x) with a = 1, b = 2 on the input 1 has the residual 2 − 5.

        >>> import torch
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import batch_gradient
        >>> batch_gradient(TwoLayer(1, 1), torch.tensor([[1.0, 2.0]]), torch.ones(1, 1), torch.tensor([5.0]))
        (tensor([[-6., -3.]]), tensor([4.5000]))
    """
    if not isinstance(net, TwoLayer) or net.activation != "relu":
        raise ValueError(f"the student must be a TwoLayer ReLU net, got {net}.")
    runs, n = len(w), len(x)
    if w.shape != (runs, net.size) or x.shape != (n, net.d) or y.shape not in ((n,), (runs, n)):
        raise ValueError(
            f"w must be (B, {net.size}), x (n, {net.d}) and y (n,) or (B, n), "
            f"got {tuple(w.shape)}, {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not b_metric > 0:
        raise ValueError(f"b_metric must be > 0, got {b_metric}.")
    a, b = net.split(w)
    hidden = (b.reshape(-1, net.d) @ x.T).relu_().view(runs, net.m, n)
    r = net.scale * torch.bmm(a.unsqueeze(1), hidden).squeeze(1) - y  # (B, n)
    loss, r = 0.5 * r.square().mean(1), net.scale / n * r
    along_a = torch.bmm(hidden, r.unsqueeze(2)).squeeze(2)  # (B, m)
    gated = hidden.sign_().mul_(r.unsqueeze(1)).view(-1, n)  # in place: torch.where takes seven times as long
    along_b = b_metric * a.unsqueeze(2) * (gated @ x).view_as(b)  # (B, m, d)
    return torch.cat([along_a, along_b.flatten(1)], dim=1), loss


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
