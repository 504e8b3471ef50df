"""Gradient descent as the papers ran it, as a generator: the caller owns the stop rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..objectives.square import FusedSquareLoss


def _gradient(objective) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """``objective.gradient``, compiled where it can be."""
    if objective.w0.device.type == "cpu" and isinstance(objective, FusedSquareLoss):
        from .one_run import gradients  # loads a compiler

        return gradients(objective)
    return objective.gradient


def _steps(step, like: Tensor) -> Tensor:
    step = torch.as_tensor(step, dtype=like.dtype, device=like.device)
    if step.shape not in ((), (len(like),)):
        raise ValueError(f"step must be one number or {len(like)} of them, one a run, got shape {tuple(step.shape)}.")
    if not bool((torch.isfinite(step) & (step > 0)).all()):
        raise ValueError(f"step must be finite and > 0, got {step.min().item()}.")
    return step.expand(len(like)).unsqueeze(1)  # (B, 1)


def gradient_descent(objective, step, *, momentum: float = 0.0) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Heavy-ball gradient descent u ← u + v, v ← momentum·v − step·∇F(w0 + u), from u = 0.

    k steps of size η are the flow time kη. A run whose step is unstable overflows; test ``torch.isfinite(out)``.

    Args:
        objective: see ``lazylib.objectives``.
        step: size > 0, one or one a run, in units of flow time.
        momentum: in [0, 1).

    Yields:
        (iteration k, displacement u_k (B, P), outputs h (B, n) at u_k) for k = 0, 1, 2, … without end: break when you
        have seen enough. u is updated in place: clone what you keep.

    Raises:
        ValueError: a step or momentum that is not allowed.

    Example:
        >>> import torch
        >>> from lazylib.flows import gradient_descent
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import square_loss
        >>> objective = square_loss(TwoLayer(1, 1), torch.tensor([[1.0, 2.0]]), torch.ones(1, 1), torch.tensor([5.0]))
        >>> for k, u, out in gradient_descent(objective, step=0.1):
        ...     if k == 1:
        ...         break
        >>> u  # minus 0.1 times the gradient (−6, −3)
        tensor([[0.6000, 0.3000]])
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}.")
    u = torch.zeros_like(objective.w0)
    velocity, step, k = torch.zeros_like(u), _steps(step, u), 0
    gradient = _gradient(objective)
    while True:
        g, out = gradient(u)  # at the present u; the caller may stop before it is used
        yield k, u, out
        velocity.mul_(momentum).addcmul_(step, g, value=-1)
        u += velocity
        k += 1


def adam(
    objective, step, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Adam on the full gradient, from u = 0: u ← u − step·m̂ / (√v̂ + eps), entrywise.

    m̂ and v̂ are the means of ∇F and (∇F)² with weights that decay as β1^k and β2^k, divided by the sum of their
    weights. A parameter moves by about ``step`` an iteration however small its gradient is, so an iteration is not a
    fixed piece of flow time.

    Args:
        objective: see ``lazylib.objectives``.
        step: size > 0, one or one a run, in units of the weights.
        betas: β1 and β2, in [0, 1).
        eps: > 0.

    Yields:
        As `gradient_descent`.

    Raises:
        ValueError: a value that is not allowed.

    Source: D. Kingma, J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015.

    Example:
        >>> import torch
        >>> from lazylib.flows import adam
        >>> from lazylib.nets import TwoLayer
        >>> from lazylib.objectives import square_loss
        >>> objective = square_loss(TwoLayer(1, 1), torch.tensor([[1.0, 2.0]]), torch.ones(1, 1), torch.tensor([5.0]))
        >>> for k, u, out in adam(objective, step=0.1):
        ...     if k == 1:
        ...         break
        >>> u  # the first step is of size 0.1 in every weight
        tensor([[0.1000, 0.1000]])
    """
    first, second = betas
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError(f"betas must lie in [0, 1), got {betas}.")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}.")
    u = torch.zeros_like(objective.w0)
    mean, square, step, k = torch.zeros_like(u), torch.zeros_like(u), _steps(step, u), 0
    gradient = _gradient(objective)
    while True:
        g, out = gradient(u)
        yield k, u, out
        k += 1
        mean.mul_(first).add_(g, alpha=1 - first)
        square.mul_(second).addcmul_(g, g, value=1 - second)
        size = (square / (1 - second**k)).sqrt_().add_(eps)  # (B, P)
        u -= step * mean / (1 - first**k) / size


def sgd(gradient: Callable[[Tensor], tuple[Tensor, Tensor]], w0: Tensor, step) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Stochastic gradient descent w ← w − step·g, on batches that ``gradient`` draws.

    Args:
        gradient: function w (B, P) → (g (B, P), loss of the batch (B,)), a fresh batch at every call.
        w0: initial parameters, (B, P).
        step: size > 0, one or one a run.

    Yields:
        (iteration k, w_k (B, P), loss (B,) of the batch drawn at w_k) without end; w is updated in place.

    Raises:
        ValueError: a step that is not allowed.

    Example:
        >>> import torch
        >>> from lazylib.flows import sgd
        >>> for k, w, loss in sgd(lambda w: (w, 0.5 * w.square().sum(1)), torch.tensor([[1.0]]), step=0.5):
        ...     if k == 3:
        ...         break
        >>> w, loss
        (tensor([[0.1250]]), tensor([0.0078]))
    """
    w = w0.clone()
    step, k = _steps(step, w), 0
    while True:
        g, loss = gradient(w)
        yield k, w, loss
        w.addcmul_(step, g, value=-1)
        k += 1
