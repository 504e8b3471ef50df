"""Any loss of the outputs of any net, as an objective for gradient flows and descents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..nets._base import set_a_run
from .square import SquareLoss, check_inputs


def empirical_loss(net, w0: Tensor, x, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> EmpiricalLoss:
    """F(w) = loss(h(w, x), y) for a batch of runs, such as torch's cross-entropy.

    Args:
        net: any net.
        w0: initial parameters, (B, P).
        x: inputs, (n, d), shared, or (B, n, d); of a net made from a module whatever that takes.
        y: what the loss takes beside the outputs of one run, (n,) or (n, …), shared by the runs.
        loss: function of the outputs (n,) or (n, k) of one run and of y → scalar, differentiable by torch.func:
            ``cross_entropy`` of ``torch.nn.functional`` or the mean of ``softplus(-y * h)``, say.

    Returns:
        The objective, of the displacement u = w − w0.

    Raises:
        ValueError: w0 or x does not fit the net, a value is not finite, or the loss is not one finite number.

    Example:
        Two classes, both outputs 0: the cross-entropy is log 2.

        >>> import torch
        >>> from lazylib.nets import from_module
        >>> from lazylib.objectives import empirical_loss
        >>> net, w0 = from_module(torch.nn.Linear(1, 2, bias=False))
        >>> x, y = torch.tensor([[1.0]]), torch.tensor([1])
        >>> objective = empirical_loss(net, 0 * w0[None], x, y, torch.nn.functional.cross_entropy)
        >>> gradient, outputs = objective.gradient(torch.zeros(1, 2))
        >>> gradient, objective.loss(outputs)
        (tensor([[ 0.5000, -0.5000]]), tensor([0.6931]))
    """
    check_inputs(net, w0, x)
    objective = EmpiricalLoss(net, w0, x, y, loss)
    with torch.no_grad():
        value = loss(objective.outputs(torch.zeros_like(w0))[0], y)
    if not (isinstance(value, Tensor) and value.dim() == 0 and bool(value.isfinite())):
        given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) and value.dim() else repr(value)
        raise ValueError(f"loss must give one finite number for the outputs of a run and y, got {given}.")
    return objective


class EmpiricalLoss(SquareLoss):
    """See `empirical_loss`."""

    curvature = 0.0  # not known

    def __init__(self, net, w0: Tensor, x, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(net, w0, x, y)
        self.one = loss

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self._latest = u
        out, vjp = torch.func.vjp(self.outputs, u)
        return vjp(torch.func.vmap(torch.func.grad(lambda h: self.one(h, self.y)))(out))[0], out

    def loss(self, out: Tensor) -> Tensor:
        return torch.func.vmap(lambda h: self.one(h, self.y))(out)

    def error_size(self, out: Tensor, rows: Tensor) -> Tensor:
        return torch.ones_like(self.w0[rows, 0])

    def select(self, rows) -> EmpiricalLoss:
        x = self.x[rows] if set_a_run(self.net, self.x) else self.x
        return EmpiricalLoss(self.net, self.w0[rows], x, self.y, self.one)
