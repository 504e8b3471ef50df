"""Objectives F(w) for gradient flows and descents, as functions of the displacement u = w − w0.

In the lazy regime u is 10⁻⁴ of w0 and less: a state of w itself would lose it to rounding.  Every objective
therefore works on u, and the fused two-layer one evaluates h(w0 + u) − h(w0) with no subtraction of
nearly equal numbers, which keeps float32 meaningful at any init scale.

What an objective offers says ``Objective``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from ..nets._base import input_dim, set_a_run
from ..nets.two_layer import TwoLayer
from ..runs._memory import saved_bytes
from ._objective import Objective

SHARE = 0.01  # of what is to be learned, that rounding of w0 may move the outputs by


def square_loss(net, w0: Tensor, x: Tensor, y: Tensor) -> SquareLoss:
    """F(w) = ½ mean_i (h(w, x_i) − y_i)² for a batch of runs.

    Training αh with the loss divided by α² is training h on the target y/α: pass that as y.

    Args:
        net: any net of ``lazylib.nets``; the two-layer ReLU net takes a fused, hand-derived gradient.
        w0: initial parameters, (B, P).
        x: inputs, (n, d), shared, or (B, n, d); of a net made from a module whatever that takes.
        y: targets, shaped as the outputs, (n,) or (n, k), shared, or (B, …); the loss of k outputs is their sum.

    Returns:
        The objective, of the displacement u = w − w0.

    Raises:
        ValueError: shapes do not fit, a value is not finite, the two-layer ReLU net gets w0 and x that are not
            both float32 or both float64, or are empty, or targets are so close to the outputs that rounding of w0
            would be learned: a centred net in float32 with y/10⁶, say.

    Source: Chizat, Oyallon, Bach 2019, equation 2.

    Example:
        >>> import torch
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import square_loss
        >>> objective = square_loss(TwoLayer(1, 1), torch.tensor([[1.0, 2.0]]), torch.ones(1, 1), torch.tensor([5.0]))
        >>> gradient, outputs = objective.gradient(torch.zeros(1, 2))  # a relu(b) = 2, so the residual is −3
        >>> gradient, objective.loss(outputs)
        (tensor([[-6., -3.]]), tensor([4.5000]))
    """
    fused = isinstance(net, TwoLayer) and net.activation == "relu"
    shape = check_inputs(net, w0, x)
    if y.shape not in (shape[1:], shape):
        raise ValueError(f"y must be {tuple(shape[1:])} or {tuple(shape)}, got {tuple(y.shape)}.")
    if not bool(torch.isfinite(y).all()):
        raise ValueError("y must be finite, got NaN or infinite entries.")
    objective = (FusedSquareLoss if fused else SquareLoss)(net, w0, x, y.to(w0.dtype).expand(shape))
    if not fused:
        _check_rounding(objective)
    return objective


def check_inputs(net, w0: Tensor, x) -> torch.Size:
    """The shape of the outputs of all runs, (B, n) or (B, n, k); ValueError where w0 or x does not fit the net."""
    if w0.dim() != 2:
        raise ValueError(f"w0 must be (runs, parameters), got shape {tuple(w0.shape)}.")
    runs, dim = len(w0), input_dim(net)
    if isinstance(x, Tensor) and dim is not None:
        if x.dim() not in (dim, dim + 1) or (x.dim() == dim + 1 and len(x) != runs):
            one = "n, d" if dim == 2 else f"n, … ({dim} dimensions)"
            raise ValueError(f"x must be ({one}) or ({runs}, {one}), got {tuple(x.shape)}.")
    leaves = [v for v in tree_flatten(x)[0] if isinstance(v, Tensor) and v.is_floating_point()]
    for name, values in dict(w0=[w0], x=leaves).items():
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise ValueError(f"{name} must be finite, got NaN or infinite entries.")
    if isinstance(net, TwoLayer):
        if not (runs and x.shape[-2]):
            raise ValueError(f"there must be a run and an input at least, got {runs} and {x.shape[-2]}.")
        if w0.dtype not in (torch.float32, torch.float64) or x.dtype != w0.dtype:
            raise ValueError(f"w0 and x must both be float32 or both float64, got {w0.dtype} and {x.dtype}.")
        return torch.Size((runs, x.shape[-2]))
    with torch.no_grad():
        shape = net(w0, x).shape
    if len(shape) not in (2, 3) or shape[0] != runs:
        raise ValueError(
            f"the net must give ({runs}, n) or ({runs}, n, k) outputs, got {tuple(shape)}; for a set of inputs a run "
            "make it by from_module(module, x) with one set as x."
        )
    return shape


@torch.no_grad()
def _check_rounding(objective: SquareLoss) -> None:
    """ValueError where rounding of w0 + u moves the outputs by more than SHARE of what is to be learned."""
    w0, out = objective.w0, objective.outputs(torch.zeros_like(objective.w0))
    rng = torch.Generator().manual_seed(0)
    signs = torch.randn(w0.shape, generator=rng).sign().to(w0)
    rounded = objective.outputs(2 * torch.finfo(w0.dtype).eps * signs * w0)  # eight times what rounding does
    noise, missing = (_mean_square(v).sqrt() for v in ((rounded - out) / 8, out - objective.y))
    worst = int((noise / missing.clamp(min=torch.finfo(w0.dtype).tiny)).argmax())
    if float(noise[worst]) > SHARE * float(missing[worst]) > 0:
        raise ValueError(
            f"rounding of w0 in {w0.dtype} moves the outputs by {float(noise[worst]):.1e}, and what is to be learned "
            f"is {float(missing[worst]):.1e} (root mean squares): use float64."
        )


def _mean_square(errors: Tensor) -> Tensor:
    """Mean over inputs of the squared length of (B, n) or (B, n, k), (B,)."""
    square = errors.square()
    return (square.sum(2) if square.dim() > 2 else square).mean(-1)


class SquareLoss(Objective):
    """See `square_loss`: of any net, its gradient by reverse and its differential by forward mode."""

    def __init__(self, net, w0: Tensor, x, y: Tensor):
        self.net, self.w0, self.x, self.y = net, w0, x, y

    @property
    def bytes_per_run(self) -> int:
        if isinstance(getattr(self.net, "net", None), torch.nn.Module):
            x = self.x[0] if set_a_run(self.net, self.x) else self.x
            return 2 * saved_bytes(lambda w: self.net(w, x), self.w0[0]) + 8 * self.w0.element_size() * self.size
        return 8 * self.w0.element_size() * (self.y[0].numel() * getattr(self.net, "m", 100) + self.size)

    def outputs(self, u: Tensor, x=None) -> Tensor:
        """h(w0 + u, x) on the training inputs or on others, (B, n) or (B, n, k)."""
        return self.net(self.w0 + u, self.x if x is None else x)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self._latest = u
        with torch.enable_grad():  # torch.func.vjp gives the same and takes longer to set up than a small net to run
            u = u.detach().requires_grad_()
            out = self.outputs(u)
        out, graph = out.detach(), out
        return torch.autograd.grad(graph, u, (out - self.y) / self.y.shape[1])[0], out

    def loss(self, out: Tensor) -> Tensor:
        return 0.5 * _mean_square(out - self.y)

    def jvp(self, u: Tensor, v: Tensor) -> Tensor:
        """Dh(w0 + u) v, as the outputs."""
        return torch.func.jvp(self.outputs, (u,), (v,))[1]

    def error_size(self, out: Tensor, rows: Tensor) -> Tensor:
        y = self.y[rows]
        return torch.maximum(_mean_square(out - y), _mean_square(y)).sqrt()

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        return _mean_square(self.select(rows).jvp(u[rows], v)).sqrt()

    def select(self, rows) -> SquareLoss:
        x = self.x[rows] if set_a_run(self.net, self.x) else self.x
        return type(self)(self.net, self.w0[rows], x, self.y[rows])


class FusedSquareLoss(SquareLoss):
    """½ mean (h − y)² of the two-layer ReLU net with a hand-derived gradient in the displacement u.

    With p0 = b0·x and p = p0 + u_b·x, the change Δ = relu(p) − relu(p0) equals
    max(u_b·x + min(p0, 0), −relu(p0)): no cancellation.  Then h − h(w0) = Σ a Δ + u_a relu(p0),
    ∂h/∂a = relu(p), ∂h/∂b = a 1[p > 0] x.
    """

    def __init__(self, net: TwoLayer, w0: Tensor, x: Tensor, y: Tensor, base=None):
        super().__init__(net, w0, x, y)
        self.base = self._base(x) if base is None else base
        self.a0 = net.split(w0)[0]  # (B, m)
        self.xt = x.mT.contiguous()  # (…, d, n)
        # relu(p) and r·1[p > 0], both (B, m, n): overwritten by every gradient
        self.relu, self.gated = torch.empty_like(self.base[0]), torch.empty_like(self.base[0])

    @property
    def bytes_per_run(self) -> int:
        n, d = self.x.shape[-2:]
        return self.w0.element_size() * (4 * n * self.net.m + 2 * n * d + 8 * self.size)

    def _base(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """min(p0, 0) and −relu(p0), both (B, m, n), and h(w0) (B, n), in double precision until rounded."""
        xt = x.double().mT
        negative, floor, outputs = [], [], []
        for row, w in enumerate(self.w0.double()):  # one run at a time: double needs twice the memory
            a, b = self.net.split(w)
            p0 = b @ (xt if x.dim() == 2 else xt[row])  # (m, n)
            outputs.append((self.net.scale * (a @ p0.relu())).to(x.dtype))
            negative.append(p0.clamp(max=0).to(x.dtype))
            floor.append(-p0.relu().to(x.dtype))
        return torch.stack(negative), torch.stack(floor), torch.stack(outputs)

    def _forward(self, u: Tensor, xt: Tensor, base, out: Tensor) -> Tensor:
        """h(w0 + u) (B, n); leaves relu(p) in ``out`` (B, m, n)."""
        negative, floor, h0 = base
        ua, ub = self.net.split(u)
        if xt.dim() == 3:
            torch.baddbmm(negative, ub, xt, out=out)
        else:  # one matrix product for all runs
            n = xt.shape[-1]
            torch.addmm(negative.view(-1, n), ub.reshape(-1, len(xt)), xt, out=out.view(-1, n))
        torch.maximum(out, floor, out=out)  # Δ
        change = torch.bmm((self.a0 + ua).unsqueeze(1), out) - torch.bmm(ua.unsqueeze(1), floor)  # (B, 1, n)
        out -= floor
        return h0 + self.net.scale * change.squeeze(1)

    def outputs(self, u: Tensor, x: Tensor | None = None) -> Tensor:
        if x is None or x is self.x:
            return self._forward(u, self.xt, self.base, torch.empty_like(self.relu))
        base = self._base(x)
        return self._forward(u, x.mT.contiguous(), base, torch.empty_like(base[0]))

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self._latest = u
        out = self._forward(u, self.xt, self.base, self.relu)
        r = (out - self.y) * (self.net.scale / self.y.shape[1])  # (B, n)
        grad = torch.empty_like(u)
        ga, gb = self.net.split(grad)
        torch.bmm(self.relu, r.unsqueeze(2), out=ga.unsqueeze(2))
        # r where p > 0, else 0
        torch.ops.aten.threshold_backward.grad_input(
            r.unsqueeze(1).expand_as(self.relu), self.relu, 0, grad_input=self.gated
        )
        if self.x.dim() == 3:
            torch.bmm(self.gated, self.x, out=gb)
        else:
            gb.copy_((self.gated.view(-1, self.gated.shape[-1]) @ self.x).view_as(gb))
        gb *= (self.a0 + u[:, : self.net.m]).unsqueeze(2)
        return grad, out

    def _along(self, row: int, u: Tensor, v: Tensor, relu: Tensor) -> Tensor:
        """Dh(w0 + u) v of one run, (n,), from its relu(p) (m, n)."""
        va, vb = self.net.split(v)
        xt = self.xt if self.xt.dim() == 2 else self.xt[row]
        hidden = torch.ops.aten.threshold_backward(vb @ xt, relu, 0)  # (m, n)
        return self.net.scale * (va @ relu + (self.a0[row] + u[: self.net.m]) @ hidden)

    def moved(self, u: Tensor, v: Tensor, rows: Tensor) -> Tensor:
        self._at(u)
        parts = [self._along(r, u[r], v[k], self.relu[r]) for k, r in enumerate(rows.tolist())]
        return torch.stack(parts).square().mean(-1).sqrt()

    def jvp(self, u: Tensor, v: Tensor) -> Tensor:
        relu = torch.empty_like(self.relu)
        self._forward(u, self.xt, self.base, relu)
        return torch.stack([self._along(r, u[r], v[r], relu[r]) for r in range(self.runs)])

    def select(self, rows) -> FusedSquareLoss:
        x = self.x if self.x.dim() == 2 else self.x[rows]
        base = tuple(piece[rows] for piece in self.base)
        return FusedSquareLoss(self.net, self.w0[rows], x, self.y[rows], base)
