"""Norms of linear and bilinear maps by iterations that need products only, batched over rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """An operator norm, from `operator_norm`: its value, and whether the iteration met its tolerance."""

    value: float
    converged: bool


def require_finite(value: Tensor, name: str = "h(w0) and y") -> None:
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} must be finite, got inf or NaN.")


def random_rows(like: Tensor, rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same starts on every device
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(like)


def unit(v: Tensor) -> Tensor:
    norm = v.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, v / norm, 0.0)


def lanczos(op: Callable, start: Tensor, steps: int, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenpairs of largest |eigenvalue| of symmetric operators, one a row of start (R, D).

    Returns values (R,), unit vectors (R, D) and residual norms (R,).
    Full reorthogonalization: the bases are short, and small against the net's activations.
    """
    rows, size = start.shape
    steps = min(steps, size)
    basis = start.new_zeros(rows, steps, size)
    matrix = start.new_zeros(rows, steps, steps)
    v = unit(start)  # (R, D)
    for k in range(steps):
        basis[:, k] = v
        r = op(v)  # (R, D)
        require_finite(r, "the derivatives of h at w0")
        matrix[:, k, k] = (v * r).sum(dim=1)
        known = basis[:, : k + 1]  # (R, k+1, D)
        for _ in range(2):
            r = r - torch.einsum("rk,rkd->rd", torch.einsum("rkd,rd->rk", known, r), known)
        beta = r.norm(dim=1)  # (R,)
        values, vectors = torch.linalg.eigh(matrix[:, : k + 1, : k + 1])
        top = values.abs().argmax(dim=1)  # (R,)
        theta = values.gather(1, top[:, None])[:, 0]  # (R,)
        weights = vectors.gather(2, top[:, None, None].expand(-1, k + 1, 1))[:, :, 0]  # (R, k+1)
        residual = beta * weights[:, -1].abs()  # (R,)
        # an invariant subspace is exhausted when beta is rounding: going on would divide noise by noise
        beta = torch.where(beta > 10 * torch.finfo(r.dtype).eps * values.abs().amax(dim=1), beta, 0.0)
        if k + 1 == steps or bool((residual <= tol * theta.abs()).all()) or not beta.any():
            break
        matrix[:, k, k + 1] = matrix[:, k + 1, k] = beta
        v = torch.where(beta[:, None] > 0, r / beta[:, None], 0.0)
    return theta, torch.einsum("rk,rkd->rd", weights, known), residual


def operator_norm(push: Callable, pull: Callable, w: Tensor, out: Tensor, tol: float, steps: int, seed: int) -> Norm:
    """Largest singular value of a linear map and its transpose, by Lanczos on the smaller side.

    Args:
        push: the map, (P,) → (N,).
        pull: its transpose, (N,) → (P,).
        w: any vector of the one side, for shape, dtype and device.
        out: any of the other.
        tol: relative change at which it stops.
        steps: products at most.
        seed: of the first vector.

    Returns:
        The norm, and whether the tolerance was met.

    Example:
        >>> import torch
        >>> from lazylib.measures import operator_norm
        >>> A = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
        >>> norm = operator_norm(lambda u: A @ u, lambda v: A.T @ v, A[0], A[:, 0], tol=1e-9, steps=50, seed=0)
        >>> round(norm.value, 6), norm.converged
        (3.0, True)
    """
    tol = max(tol, 20 * torch.finfo(out.dtype).eps)
    small, there, back = (out, pull, push) if out.numel() <= w.numel() else (w, push, pull)
    start = random_rows(small, 1, small.numel(), seed)
    theta, _, residual = lanczos(lambda v: back(there(v[0]))[None], start, steps, tol)
    value, error = float(theta), float(residual)
    return Norm(max(value, 0.0) ** 0.5, small.numel() <= steps or error <= tol * value)


def climb(bilinear: Callable, hessian: Callable, u: Tensor, tol: float, steps: int) -> tuple[Norm, Tensor, Tensor]:
    """Maximize ‖D²h[u, u]‖ over unit u, all rows of u (R, P) at once; returns the best, and all values and u.

    Polak–Ribière conjugate gradients; on a great circle u cos t + p sin t the function is a small polynomial
    in (cos t, sin t), so each line search is exact.
    """
    tol = max(tol, 1e3 * torch.finfo(u.dtype).eps)
    q = bilinear(u, u)  # (R, N)
    before: tuple[Tensor, Tensor, Tensor] | None = None  # of the last step: p, gradient (R, P), its square (R, 1)
    for k in range(steps + 1):
        sigma = q.norm(dim=1, keepdim=True)  # (R, 1)
        new = hessian(unit(q), u)  # (R, P)
        new = new - (new * u).sum(dim=1, keepdim=True) * u
        done = new.norm(dim=1) <= tol * sigma[:, 0]  # (R,)
        if bool(done.all()) or k == steps:
            break
        new = unit(new) * (new.norm(dim=1, keepdim=True) / sigma.clamp_min(torch.finfo(u.dtype).tiny))
        p = new
        if before is not None:
            last, gradient, norm2 = before
            beta = ((new * (new - gradient)).sum(dim=1, keepdim=True) / norm2).clamp_min(0.0)
            p = new + torch.where(norm2 > 0, beta, 0.0) * last
        p = p - (p * u).sum(dim=1, keepdim=True) * u
        length = p.norm(dim=1, keepdim=True)
        direction = unit(p)
        q_up, q_pp = bilinear(u, direction), bilinear(direction, direction)  # (R, N)
        t = _best_angle(q, q_up, q_pp)[:, None]  # (R, 1)
        c, s = t.cos(), t.sin()
        moved = (c * direction - s * u) * length  # p, transported along the circle
        before = moved, new, new.square().sum(dim=1, keepdim=True)
        u = unit(c * u + s * direction)
        q = c * c * q + 2 * c * s * q_up + s * s * q_pp
    values = bilinear(u, u).norm(dim=1)
    require_finite(values, "the second derivatives of h at w0")
    best = values.argmax()
    return Norm(values[best].item(), bool(done[best])), values, u


def _best_angle(q_uu: Tensor, q_up: Tensor, q_pp: Tensor) -> Tensor:
    """The t in [−π/2, π/2) that maximizes ‖cos²t q_uu + sin 2t q_up + sin²t q_pp‖; q (R, N), t (R,)."""
    q = torch.stack([q_uu, q_up, q_pp], dim=1)  # (R, 3, N)
    q = q / q.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
    gram = q @ q.mT  # (R, 3, 3)

    def terms(t):
        c, s = (2 * t).cos(), (2 * t).sin()
        return (
            torch.stack([(1 + c) / 2, s, (1 - c) / 2], -1),
            torch.stack([-s, 2 * c, s], -1),
            torch.stack([-2 * c, -4 * s, 2 * c], -1),
        )

    grid = torch.arange(-32, 32, device=q.device, dtype=q.dtype) * (math.pi / 64)
    f = terms(grid)[0]  # (64, 3)
    t = grid[torch.einsum("ti,rij,tj->rt", f, gram, f).argmax(dim=1)]  # (R,)
    for _ in range(6):
        f, f1, f2 = terms(t)  # (R, 3)
        gf = torch.einsum("rij,rj->ri", gram, f)
        first = (f1 * gf).sum(dim=1)
        second = (f2 * gf).sum(dim=1) + torch.einsum("ri,rij,rj->r", f1, gram, f1)
        t = t + torch.where(second < 0, -first / second, 0.0).clamp(-math.pi / 64, math.pi / 64)
    return t
