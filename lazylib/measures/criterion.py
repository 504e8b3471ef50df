"""The criterion κ of lazy training and its parts, matrix-free, for any torch function h(w).

    κ_h(w0) = ‖h(w0) − y*‖ · ‖D²h(w0)‖ / ‖Dh(w0)‖²        (Chizat, Oyallon, Bach 2019, eq. 2)

One convention holds throughout. Parameters w (P,) carry the Euclidean norm; outputs h (n,) or (n, k) carry
the empirical L2 norm ‖h‖ = (1/n Σ_i |h_i|²)^½, so F(w) = ½‖h(w) − y‖² is half the mean square error, and

    ‖Dh‖  = max ‖Dh u‖ over ‖u‖ = 1                       = λ_max(Dh Dhᵀ)^½, a tangent kernel divided by n,
    ‖D²h‖ = max ‖D²h[u, v]‖ over ‖u‖ = ‖v‖ = 1            = max ‖D²h[u, u]‖ over ‖u‖ = 1.

The two forms of ‖D²h‖ agree: for a fixed output direction ν the Hessian H_ν of ⟨ν, h⟩ is symmetric, and
|uᵀ H_ν v| is largest at u = ±v, an eigenvector. Finding ‖D²h‖ is a maximization with several local maxima
(NP-hard in general), so `hessian_norm` returns the best of many starts: a lower bound, equal to the norm on
small nets. In a wide layer every neuron is a local maximum, and 16 starts can end a few percent low;
`two_layer_kappa` treats the neurons one by one and is exact for ReLU.

ReLU has no second derivative at its kink. Here D²h is the Hessian that exists almost everywhere, as autograd
gives it; the jumps of Dh where a kink is crossed are not in it, so that ‖D²h‖ times a distance does not bound
the change of Dh for ReLU as it does for softplus or GELU.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from ..nets._base import ACTIVATIONS
from ..nets._differentiable import differentiable
from ..runs._memory import require_memory, saved_bytes
from ._neurons import largest_gated, largest_neuron
from .norms import Norm, climb, lanczos, operator_norm, random_rows, require_finite, unit

BYTES = 2**30  # of the products with several vectors at a time


class Kappa(NamedTuple):
    """κ and its parts, from `kappa`: κ = residual · hessian_norm / jacobian_norm², with residual = ‖h(w0) − y‖."""

    kappa: float
    residual: float
    jacobian_norm: float
    hessian_norm: float
    converged: bool


class Changes(NamedTuple):
    """Relative changes over one gradient step, their first-order predictions, and κ, from `relative_changes`."""

    objective: float
    jacobian: float
    predicted_objective: float
    predicted_jacobian: float
    alignment: float
    kappa: Kappa


# --- the public functions -----------------------------------------------------------------------------------


def kappa(
    h: Callable[[Tensor], Tensor], w0: Tensor, y: Tensor, *, starts: int = 8, tol: float = 1e-2, seed: int = 0
) -> Kappa:
    """κ_h(w0) = ‖h(w0) − y‖ · ‖D²h(w0)‖ / ‖Dh(w0)‖² of any function h of a flat vector (see the module for the norms).

    Args:
        h: function of w (P,) with outputs (n,) or (n, k).
        w0: parameters, (P,), float32 or float64.
        y: targets, shaped as the outputs.
        starts, tol, seed: see `hessian_norm`, whose own defaults are tighter: at 10⁻² the norm is about 10⁻⁴ below
            the local maximum that was found.

    Returns:
        κ, a pure number, and its parts; converged says that both norms met their tolerance.

    Raises:
        ValueError: shapes disagree, a value is not finite, or Dh(w0) = 0, where κ is undefined.

    Source: Chizat, Oyallon, Bach 2019, section 1.1, equation 2.

    Example:
        h(w) = w1 w2 at w = (1, 0) has Dh = (0, 1) and D²h with eigenvalues ±1; the residual is 2.

        >>> import torch
        >>> from lazylib.measures import kappa
        >>> w0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> round(kappa(lambda w: (w[0] * w[1]).reshape(1), w0, torch.tensor([2.0]).double()).kappa, 6)
        2.0
    """
    h0 = _outputs(h, w0)
    residual = _empirical_norm(h0 - _targets(y, h0))
    jacobian = jacobian_norm(h, w0, seed=seed)
    hessian = hessian_norm(h, w0, starts=starts, tol=tol, seed=seed)
    return _kappa(residual, jacobian, hessian)


def jacobian_norm(
    h: Callable[[Tensor], Tensor], w: Tensor, *, tol: float = 1e-7, steps: int = 300, seed: int = 0
) -> Norm:
    """‖Dh(w)‖ by Lanczos on Dh Dhᵀ (or DhᵀDh, whichever is smaller), with jvp and vjp only.

    Args:
        h: function of w (P,) with outputs (n,) or (n, k).
        w: parameters, (P,).
        tol: relative tolerance.
        steps: products at most.
        seed: of the first vector.

    Returns:
        The norm: within a relative `tol` of a singular value, in practice far closer and the largest; converged is
        False after `steps` products.

    Raises:
        ValueError: a value is not finite.

    Example:
        >>> import torch
        >>> from lazylib.measures import jacobian_norm
        >>> round(jacobian_norm(lambda w: 3.0 * w.sum().reshape(1), torch.ones(4, dtype=torch.float64)).value, 6)
        6.0
    """
    _outputs(h, w)
    out = _flat(h)
    pull = vjp(out, w)[1]

    def push(u):
        return jvp(out, (w,), (u,))[1]

    return operator_norm(push, lambda v: pull(v)[0], w, out(w), tol, steps, seed)


def hessian_norm(
    h: Callable[[Tensor], Tensor], w: Tensor, *, starts: int = 16, tol: float = 1e-5, steps: int = 500, seed: int = 0
) -> Norm:
    """‖D²h(w)‖ = max_{‖u‖=1} ‖D²h[u, u]‖, the largest found from several random starts.

    Each start alternates: u ← the eigenvector of H_ν of largest |eigenvalue| (Lanczos), then
    ν ← D²h[u, u] / ‖D²h[u, u]‖. The better half of the starts (at least 4) goes on by conjugate gradients on
    the sphere, with exact line searches, until ‖H_ν u − σu‖ ≤ tol·σ, where σ = ‖D²h[u, u]‖; the relative
    error of σ is of order tol² over the relative gap. Cost: starts · 30 to 300 Hessian-vector products (about 3 s for a
    two-layer net of 5 000 parameters on 1 000 inputs, one core).

    Args:
        h: function of w (P,) with outputs (n,) or (n, k), which torch.func can differentiate in reverse, then forward.
        w: parameters, (P,).
        starts: random starts, at least 1.
        tol: see above.
        steps: iterations of a start at most.
        seed: of the starts.

    Returns:
        The norm, 0 for an h that is linear. converged: the best start met `tol` in `steps` iterations, which does not
        certify a global maximum: raise `starts` to gain confidence.

    Raises:
        ValueError: no start, or a value that is not finite.
        MemoryError: a single product cannot fit.

    Example:
        >>> import torch
        >>> from lazylib.measures import hessian_norm
        >>> w = torch.zeros(2, dtype=torch.float64)
        >>> round(hessian_norm(lambda w: (3 * w[0] ** 2 - w[1] ** 2).reshape(1), w).value, 6)
        6.0
    """
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}.")
    n_out = _outputs(h, w).numel()
    out, zero = _flat(h), w.new_zeros(n_out)
    each = 4 * saved_bytes(out, w) + 8 * w.nbytes  # of a product: activations, and their derivatives of both orders
    require_memory(each, "a product with the second derivative of h", w.device)
    chunk = max(1, BYTES // each)  # starts at a time

    def hessian_one(nu, u):
        return jvp(lambda p: vjp(out, p)[1](nu)[0], (w,), (u,))[1]

    def bilinear_one(u, v):  # ⟨H_ν u, v⟩ is linear in ν; twice forward mode is slower, and wrong for some layers
        return grad(lambda nu: hessian_one(nu, u) @ v)(zero)

    bilinear, hessian = vmap(bilinear_one, chunk_size=chunk), vmap(hessian_one, chunk_size=chunk)
    u, nu = random_rows(w, starts, w.numel(), seed), unit(random_rows(w, starts, n_out, seed + 1))
    # every second start looks at one random output alone: maxima may sit on few samples
    nu[1::2] = torch.nn.functional.one_hot(nu[1::2].argmax(dim=1), n_out).to(nu)
    for _ in range(3):
        u = lanczos(lambda v, nu=nu: hessian(nu, v), u, 8, 0.0)[1]
        q = bilinear(u, u)  # (starts, n_out)
        nu = unit(q)
    best = q.norm(dim=1).topk(min(starts, max(4, starts // 2))).indices
    return climb(bilinear, hessian, u[best], tol, steps)[0]


def two_layer_kappa(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    activation: str | Callable[[Tensor], Tensor] = "relu",
    tol: float = 1e-5,
) -> Kappa:
    """κ of h(a, b)_i = scale · Σ_j a_j σ(b_j·x_i), neuron by neuron; m = 10⁴ takes seconds.

    x: (n, d); y: (n,); a: (m,); b: (m, d), all of one float dtype; activation σ: "relu", "softplus", "gelu"
    or an elementwise function with two derivatives; tol: as in `hessian_norm`.

    D²h is block diagonal in the neurons, so for each ν the spectral norm of H_ν is that of its largest block,
    and ‖D²h‖ = max_j ‖D²h_j‖. For ReLU, D²h_j[u, u] = 2·scale·α·A_j β with u = (α, β) and A_j the rows
    of x/√n where neuron j is active; |α||β| ≤ ½ gives, exactly,

        ‖D²h‖ = |scale| · max_j λ_max(1/n Σ_i 1[b_j·x_i > 0] x_i x_iᵀ)^½.

    For other σ the ascent of `hessian_norm` runs on the neurons that look largest from five starts each.
    ‖Dh‖ comes from the (n, n) tangent kernel. Memory: about 8n(n + 10m) bytes in float64, and 2nd² for ReLU.
    Raises ValueError if shapes disagree, the activation is unknown, a value is not finite, or Dh = 0.

    Example:
        One neuron, a = b = 1, on the input 1: Dh = (1, 1), ‖D²h‖ = 1, and the residual is 3.

        >>> import torch
        >>> from lazylib.measures import two_layer_kappa
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> round(two_layer_kappa(one[:, None], 4 * one, one, one[:, None]).kappa, 6)
        1.5
    """
    if x.ndim != 2 or b.ndim != 2 or b.shape[1] != x.shape[1] or a.shape != b.shape[:1]:
        raise ValueError(
            "x, a and b must have shapes (n, d), (m,) and (m, d), got "
            f"{tuple(x.shape)}, {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        allowed = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation must be one of {allowed} or a function, got {activation!r}.")
    sigma = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    n, m = x.shape[0], a.shape[0]
    z = b @ x.T  # (m, n)
    phi, slope = jvp(sigma, (z,), (torch.ones_like(z),))  # (m, n), (m, n)
    h0 = scale * (a @ phi)  # (n,)
    require_finite(h0)
    residual = _empirical_norm(h0 - _targets(y, h0))
    require_finite(slope, "the derivatives of h at w0")
    kernel = phi.T @ phi + ((slope * a[:, None] ** 2).T @ slope) * (x @ x.T)  # (n, n)
    jacobian = abs(scale) * math.sqrt(max(torch.linalg.eigvalsh(kernel)[-1].item(), 0.0) / n)
    if sigma in (torch.relu, torch.nn.functional.relu):
        hessian = Norm(largest_gated(x, z > 0) ** 0.5, True)
    else:
        del phi, kernel
        hessian = largest_neuron(x, a, z, slope, sigma, tol, keep=max(64, m // 20))
    return _kappa(residual, Norm(jacobian, True), hessian._replace(value=abs(scale) * hessian.value))


def relative_changes(
    h: Callable[[Tensor], Tensor],
    w0: Tensor,
    y: Tensor,
    step: float,
    *,
    starts: int = 8,
    tol: float = 1e-2,
    seed: int = 0,
) -> Changes:
    """How much F = ½‖h − y‖² and Dh change, relative to themselves, over one step w1 = w0 − step·∇F(w0).

    Arguments as in `kappa`; step > 0 is the step size, a time of gradient flow. Returns, with r = h(w0) − y:

    - objective: |F(w1) − F(w0)| / F(w0), measured
    - jacobian: ‖Dh(w1) − Dh(w0)‖ / ‖Dh(w0)‖, measured
    - predicted_objective: step·‖∇F‖² / F(w0), its first order in step
    - predicted_jacobian: step·‖∇F‖·‖D²h‖ / ‖Dh(w0)‖, an upper bound at first order (smooth h)
    - alignment: c = ‖∇F‖ / (‖Dh(w0)‖·‖r‖), between 0 and 1
    - kappa: κ and its parts.

    The predictions satisfy predicted_jacobian / predicted_objective = κ / (2c), exactly: laziness, which asks
    that Dh change little while F changes much, is κ/(2c) ≪ 1.
    Raises ValueError as `kappa` does, and if F(w0) = 0, ∇F(w0) = 0 or F(w1) is not finite.
    Source: Chizat, Oyallon, Bach 2019, section 1.1.

    Example:
        For h(w) = w the differential never changes, and one step of 0.1 lowers F = ½(w − 1)² by 19 %.

        >>> import torch
        >>> from lazylib.measures import relative_changes
        >>> w0, y = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> found = relative_changes(lambda w: w, w0, y, step=0.1)
        >>> round(found.objective, 6), found.jacobian, found.alignment
        (0.19, 0.0, 1.0)
    """
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step must be positive and finite, got {step}.")
    k = kappa(h, w0, y, starts=starts, tol=tol, seed=seed)
    out = _flat(h)
    target = (_targets(y, h(w0)) / math.sqrt(y.shape[0])).reshape(-1)
    h0, pull0 = vjp(out, w0)
    gradient = pull0(h0 - target)[0]  # (P,)
    slope, f0 = gradient.norm().item(), 0.5 * k.residual**2
    if not (f0 > 0 and slope > 0):
        raise ValueError(f"w0 must not be stationary: F and ‖∇F‖ must be positive, got {f0:g} and {slope:g}.")
    w1 = w0 - step * gradient
    h1, pull1 = vjp(out, w1)
    f1 = 0.5 * (h1 - target).square().sum().item()
    if not math.isfinite(f1):
        raise ValueError(f"F must stay finite over the step: step = {step:g} is too long.")
    change = operator_norm(
        lambda u: jvp(out, (w1,), (u,))[1] - jvp(out, (w0,), (u,))[1],
        lambda v: pull1(v)[0] - pull0(v)[0],
        w0,
        h0,
        1e-6,
        300,
        seed,
    )
    return Changes(
        objective=abs(f1 - f0) / f0,
        jacobian=change.value / k.jacobian_norm,
        predicted_objective=step * slope**2 / f0,
        predicted_jacobian=step * slope * k.hessian_norm / k.jacobian_norm,
        alignment=slope / (k.jacobian_norm * k.residual),
        kappa=k._replace(converged=k.converged and change.converged),
    )


# --- checks, norms ------------------------------------------------------------------------------------------


def _outputs(h: Callable, w: Tensor) -> Tensor:
    if w.ndim != 1 or not w.is_floating_point():
        raise ValueError(
            "w must be one flat vector of floats (P,), e.g. one row w[i] of a batch, "
            f"got shape {tuple(w.shape)} and {w.dtype}."
        )
    with torch.no_grad():
        outputs = h(w)
    if outputs.ndim not in (1, 2) or outputs.numel() == 0:
        raise ValueError(f"h(w) must have shape (n,) or (n, k), got {tuple(outputs.shape)}.")
    require_finite(outputs)
    return outputs


def _targets(y: Tensor, outputs: Tensor) -> Tensor:
    if y.shape != outputs.shape:
        raise ValueError(f"y must have the shape {tuple(outputs.shape)} of h(w0), got {tuple(y.shape)}.")
    require_finite(y)
    return y.to(outputs)


def _kappa(residual: float, jacobian: Norm, hessian: Norm) -> Kappa:
    if jacobian.value == 0:
        raise ValueError("Dh(w0) must not be zero: κ divides by its norm.")
    value = residual / jacobian.value * (hessian.value / jacobian.value)
    return Kappa(value, residual, jacobian.value, hessian.value, jacobian.converged and hessian.converged)


def _empirical_norm(outputs: Tensor) -> float:
    return outputs.norm().item() / math.sqrt(outputs.shape[0])


def _flat(h: Callable) -> Callable:
    """w → h(w)/√n as one vector: its Euclidean norm is the empirical norm of the outputs."""

    def out(w):
        with differentiable():
            outputs = h(w)
        return outputs.reshape(-1) / math.sqrt(outputs.shape[0])

    return out
