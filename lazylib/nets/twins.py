"""The tangent model of a torch module as a module, to be trained by the loop that trains the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import jvp

from ._calls import Inputs, as_floats, call, refuse_random
from ._differentiable import differentiable


def twin(module: nn.Module, *, output: Callable[[Any], Tensor] | None = None) -> Twin:
    """The tangent model h̄(w) = h(w0) + Dh(w0)(w − w0) of a module at its present weights w0, as a module.

    It takes the inputs of the module and gives outputs of the same shape, at the start the same outputs. Its trainable
    parameters are w, which start at w0 and have the module's names with ``module.`` before them: so it is trained by
    the same loop, with the same optimizer and weight decay. The distance of the two after training is what laziness
    means. The module is copied and left as it is.

    Args:
        module: deterministic (dropout off, batch normalization in eval mode), whatever mode the loop sets afterwards.
            Parameters that need no gradient do not move. Half-precision parameters are taken in float32.
        output: what to take of what the module returns, if that is no tensor: ``lambda out: out.logits``.

    Returns:
        The twin. A pass takes about three times as long as one of the module.

    Raises:
        ValueError: the module has no trainable parameter, or is random.

    Source: Chizat, Oyallon, Bach 2019, equation 3.

    Example:
        The net a·b x at a = b = 1, moved to a = b = 2: 4x, but its tangent model gives 3x.

        >>> import torch
        >>> from lazylib.nets import twin
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
        >>> for w in net.parameters():
        ...     _ = w.data.fill_(1.0)
        >>> tangent = twin(net)
        >>> for w in [*net.parameters(), *tangent.parameters()]:
        ...     _ = w.data.fill_(2.0)
        >>> net(torch.ones(1, 1)).detach(), tangent(torch.ones(1, 1)).detach()
        (tensor([[4.]]), tensor([[3.]]))
    """
    return Twin(module, output)


class Twin(nn.Module):
    """See `twin`."""

    def __init__(self, module: nn.Module, output: Callable[[Any], Tensor] | None = None):
        super().__init__()
        module = getattr(module, "_orig_mod", module)  # of a compiled one
        refuse_random(module)
        self.module, self.output = copy.deepcopy(module), output
        self.names = [name for name, w in self.module.named_parameters() if w.requires_grad]
        if not self.names:
            raise ValueError("the module must have at least one trainable parameter, it has none.")
        if any(w.element_size() < 4 for w in self.module.parameters()):
            self.module.float()
        for k, w in enumerate(self._weights().values()):
            self.register_buffer(f"start_{k}", w.detach().clone())

    def _weights(self) -> dict[str, Tensor]:
        parameters = dict(self.module.named_parameters())
        return {name: parameters[name] for name in self.names}

    def train(self, mode: bool = True) -> Twin:
        """Sets the mode of this model alone: the module inside stays as it was given."""
        self.training = mode
        return self

    def forward(self, *x: Any, **named: Any) -> Tensor:
        w = self._weights()
        w0 = {name: self.get_buffer(f"start_{k}") for k, name in enumerate(w)}
        dtype = next(iter(w.values())).dtype
        inputs = as_floats(Inputs(x, named), dtype)

        def h(weights: dict[str, Tensor]) -> Tensor:
            out = call(self.module, weights, inputs)
            return out if self.output is None else self.output(out)

        with differentiable():
            start, moved = jvp(h, (w0,), ({name: w[name] - w0[name] for name in w},))
        return start + moved
