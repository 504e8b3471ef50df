"""What the criterion κ says of a module before it is trained."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..measures.criterion import hessian_norm, jacobian_norm
from ..runs.rng import generator
from . import _losses
from ._checks import require_deterministic, require_finite, require_room, require_true_tangent
from ._losses import Loss
from .state import snapshot
from .subject import Subject, undisturbed


@dataclass(frozen=True)
class AtInit:
    """What `at_init` found; it prints as a table.

    Attributes:
        kappa: κ = residual · hessian_norm / jacobian_norm².
        residual: ‖h(w0) − y‖ for the square loss, 2R/‖R′‖ in general.
        jacobian_norm, hessian_norm: ‖Dh(w0)‖ and ‖D²h(w0)‖, see `lazylib.measures.kappa` for the norms.
        alignment: c = ‖∇F‖/(‖Dh‖ ‖R′‖), between 0 and 1.
        ratio: κ/(2c), relative change of Dh over that of the loss in a first short step: lazy well below 1.
        lazy_until: flow time (step size times steps of gradient descent) at which Dh can have changed by a tenth, at
            the first rate ‖∇F‖ ‖D²h‖/‖Dh‖.
        learning_time: flow time R/‖∇F‖² in which the loss would be gone, at its first rate.
        converged: both norms met their tolerance; ‖D²h‖ is a lower bound even then.
        seconds: of wall time.
    """

    kappa: float
    residual: float
    jacobian_norm: float
    hessian_norm: float
    alignment: float
    ratio: float
    lazy_until: float
    learning_time: float
    converged: bool
    seconds: float

    def __str__(self) -> str:
        rows = [
            ("κ/(2c)", self.ratio, "lazy first steps where it is well below 1"),
            ("κ", self.kappa, "residual · ‖D²h‖/‖Dh‖²"),
            ("c", self.alignment, "share of the residual that the largest direction of Dh carries"),
            ("residual", self.residual, ""),
            ("‖Dh‖", self.jacobian_norm, ""),
            ("‖D²h‖", self.hessian_norm, "" if self.converged else "a lower bound, not converged"),
            ("lazy until", self.lazy_until, "flow time at which Dh can have changed by a tenth"),
            ("learning time", self.learning_time, "flow time in which the loss would be gone, at its first rate"),
        ]
        return "\n".join([f"{name:<16}{value:<12.4g}{text}".rstrip() for name, value, text in rows])

    __repr__ = __str__


def at_init(
    model: nn.Module,
    x: Any,
    y: Tensor | None = None,
    loss: str | Loss | None = None,
    output: Callable[[Any], Tensor] | None = None,
    *,
    starts: int = 4,
    tol: float = 1e-2,
    seed: int = 0,
) -> AtInit:
    """κ of a module at its present weights, and how long laziness is predicted to last.

    κ_h = ‖h(w0) − y‖ ‖D²h‖/‖Dh‖² compares two relative changes in a short step of gradient descent, that of Dh and that
    of the loss: their ratio is κ/(2c) ≪ 1 in lazy training. For a loss R that is not the square one the same ratio
    is R ‖D²h‖/(‖∇F‖ ‖Dh‖), and κ is 2c times it.

    It speaks of the *first* steps. Over a long training Dh changes by the sum of them, so that weights and kernel can
    go far with a small κ: `lazy_until` says for how long the first rate allows less than a tenth, `compare` measures
    what came of it.

    Args:
        model: in a deterministic mode, see `compare`, in float32 or float64. Frozen parameters are not counted.
        x, y: inputs and targets, all used at once: some dozens. A loader is taken whole.
        loss, output: see `compare`.
        starts, tol, seed: of ‖D²h‖, see `lazylib.measures.hessian_norm`.

    Returns:
        κ, its parts and predictions.

    Raises:
        ValueError: one sentence, as `compare`, derivatives being tried along a small random step; also where Dh or ∇F
            is zero, and κ is not defined.
        MemoryError: activations of all inputs, as estimated from one and two, do not fit.

    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        A linear model has no second derivative.

        >>> import torch
        >>> from lazylib import laziness
        >>> laziness.at_init(torch.nn.Linear(2, 1).double(), torch.eye(2), torch.ones(2)).kappa
        0.0
    """
    begun = time.perf_counter()
    x, y = _losses.gather(x, y)
    if y is None:
        raise ValueError("at_init needs targets y, for κ compares with the loss.")
    subject, now = Subject(model, x, output), snapshot(model)
    function, y = _losses.find(loss, y), subject.cast(y)
    state, n = subject.state(now), subject.n
    names = [subject.real[name] for name in now.parameters if name in now.trainable]
    if not names:
        raise ValueError("the model must have a trainable parameter, all are frozen.")
    shapes = [state[name].shape for name in names]
    w0 = torch.cat([state[name].flatten() for name in names])

    def h(w: Tensor) -> Tensor:  # (P,) → (n, k)
        return subject(_put(state, names, w, shapes), slice(0, n)).flatten(1)

    with undisturbed(model), _differentiated():
        require_deterministic(subject, state)
        require_room(subject, state, names, n, 4, "give fewer inputs, some dozens or less")  # D²h: of both orders
        require_true_tangent(subject, state, _somewhere(state, names))
        with torch.enable_grad():
            w = w0.clone().requires_grad_()
            outputs = subject(_put(state, names, w, shapes), slice(0, n))
            loss_now = function(outputs, y)
            gradient, slope = torch.autograd.grad(loss_now, (w, outputs))
        require_finite(loss_now.detach(), "the loss")
        error = float(slope.norm()) * math.sqrt(n)  # ‖R′‖: n ∂R/∂h in the empirical norm
        steepness, risk = float(gradient.norm()), float(loss_now.detach())
        if not (risk > 0 and steepness > 0):
            raise ValueError(f"loss and gradient must be positive at w0, they are {risk:.3g} and {steepness:.3g}.")
        jacobian = jacobian_norm(h, w0, seed=seed)
        hessian = hessian_norm(h, w0, starts=starts, tol=tol, seed=seed)
    ratio = risk * hessian.value / (steepness * jacobian.value)
    c = steepness / (jacobian.value * error)
    bend = steepness * hessian.value / jacobian.value
    return AtInit(
        kappa=2 * c * ratio,
        residual=2 * risk / error,
        jacobian_norm=jacobian.value,
        hessian_norm=hessian.value,
        alignment=c,
        ratio=ratio,
        lazy_until=0.1 / bend if bend else math.inf,
        learning_time=risk / steepness**2,
        converged=jacobian.converged and hessian.converged,
        seconds=time.perf_counter() - begun,
    )


@contextlib.contextmanager
def _differentiated() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"κ needs derivatives of the outputs by the weights, twice, and PyTorch says: {said}."
        ) from error


def _somewhere(state, names):
    """A step of a tenth of each weight's size, along which derivatives are tried."""
    draw = generator(0, "where derivatives are tried")
    return {
        name: 0.1 * state[name].square().mean().sqrt() * torch.randn(state[name].shape, generator=draw).to(state[name])
        for name in names
    }


def _put(state, names, w, shapes):
    parts = zip(names, w.split([s.numel() for s in shapes]), shapes, strict=True)
    return {**state, **{name: part.view(shape) for name, part, shape in parts}}
