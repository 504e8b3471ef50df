"""The tangent kernel at two points, K and K0 on the same inputs: its change, and its alignment with the labels.

With J_i = ∂h(x_i)/∂w, (k, P), the kernel has a block K_ij = J_i J_jᵀ for each pair of inputs, and

    ‖K‖² = Σ_ij ‖K_ij‖²,      change ‖K − K0‖/‖K0‖,      alignment yᵀKy/(‖K‖ ‖y‖²).

Where the rows of J are many, some inputs are drawn without replacement, and for each q random sign vectors z of its
outputs in place of the k unit vectors. As E (zᵀ K_ij z′)² = ‖K_ij‖² for independent z and z′, means over pairs of them
are unbiased for ‖K‖², ‖K0‖² and ‖K − K0‖²: pairs of one input and of two are weighted as they occur among all inputs.
yᵀKy = ‖Jᵀy‖² is always exact: one gradient.

The variance has two parts, as in two-stage sampling: the jackknife over inputs holds both, that over the sign vectors
within each input only the second, and the finite population reduces the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from ..runs.rng import generator
from .subject import State, Subject

EXACT_ROWS = 512  # rows of J up to which the kernel is computed whole
SIGNS = 3  # sign vectors for each input drawn
HELD_BYTES = 3 * 2**29  # of rows of J held at a time
_AT_A_TIME = 8  # rows of J that are multiplied with those held, at a time

Gradients = Callable[[int], Iterator[Tensor]]


@dataclass(frozen=True)
class Rows:
    """Which rows of J are taken: inputs, and for each directions of its outputs, (inputs, q, k)."""

    inputs: Tensor
    directions: Tensor
    exact: bool  # the directions are the k unit vectors


def choose(n: int, k: int, size: int, wanted: int, seed: int) -> Rows:
    """All rows where they are few, else those of `wanted` inputs drawn at random; size: bytes of one row."""
    draw = generator(seed, "kernel of the report")
    whole = n * k <= EXACT_ROWS and n * k * size <= HELD_BYTES
    inputs = torch.arange(n) if whole or n <= wanted else torch.randperm(n, generator=draw)[:wanted].sort().values
    if whole or k <= SIGNS:
        return Rows(inputs, torch.eye(k).expand(len(inputs), k, k), True)
    signs = torch.randint(0, 2, (len(inputs), SIGNS, k), generator=draw) * 2 - 1
    return Rows(inputs, signs.float(), False)


def gram(subject: Subject, state: State, names: list[str], rows: Rows) -> Tensor:
    """⟨Jᵀ_i z, Jᵀ_j z′⟩ of all rows, (inputs, q, inputs, q), float64; one backward pass a row."""
    m, q = rows.directions.shape[:2]
    size = sum(state[name].numel() for name in names)
    held = min(m * q, max(_AT_A_TIME, HELD_BYTES // (size * subject.dtype.itemsize)))
    result = torch.zeros(m * q, m * q, dtype=torch.float64)
    block = torch.empty(held, size, dtype=subject.dtype, device=subject.device)
    for first in range(0, m * q, held):
        here = slice(first, min(first + held, m * q))
        count = here.stop - here.start
        waiting: list[Tensor] = []
        for row, gradient in enumerate(_rows(subject, state, names, rows, first), start=first):
            if row < here.stop:
                block[row - first] = gradient
                if row == here.stop - 1:
                    result[here, here] = (block[:count] @ block[:count].T).double().cpu()
                continue
            waiting.append(gradient)
            if len(waiting) == _AT_A_TIME or row == m * q - 1:
                others = slice(row + 1 - len(waiting), row + 1)
                result[here, others] = (block[:count] @ torch.stack(waiting).T).double().cpu()
                result[others, here] = result[here, others].T
                waiting = []
    return result.view(m, q, m, q)


def _rows(subject: Subject, state: State, names: list[str], rows: Rows, first: int) -> Iterator[Tensor]:
    """Rows of J from the first on, each (P,)."""
    q = rows.directions.shape[1]
    for i in range(first // q, len(rows.inputs)):
        at = int(rows.inputs[i])
        wanted = rows.directions[i, max(first - i * q, 0) :]
        yield from pulled(subject, state, names, slice(at, at + 1), wanted)


def pulled(subject: Subject, state: State, names: list[str], rows: slice, directions: Tensor) -> Iterator[Tensor]:
    """Jᵀv for each v of directions (q, outputs) of some inputs, each (P,)."""
    weights = {name: state[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        h = subject({**state, **weights}, rows)
    directions = directions.to(h).view(len(directions), *h.shape)
    for count, v in enumerate(directions, start=1):
        if not h.requires_grad:
            yield torch.cat([torch.zeros_like(w).flatten() for w in weights.values()])
            continue
        last = count == len(directions)
        grads = torch.autograd.grad(h, list(weights.values()), v, retain_graph=not last, allow_unused=True)
        pairs = zip(grads, weights.values(), strict=True)
        dense = ((torch.zeros_like(w) if g is None else g.to_dense() if g.is_sparse else g) for g, w in pairs)
        yield torch.cat([g.flatten() for g in dense])


# ---- estimates ----


@dataclass(frozen=True)
class Estimate:
    """A number and the half-width of its 95 % interval, for sampling alone: 0 where all was computed."""

    value: float
    error: float


def estimates(before: Tensor, after: Tensor, n: int, rows: Rows, pulls: tuple[float, float] | None) -> list[Estimate]:
    """Change of the kernel; with pulls = yᵀKy/‖y‖² at both points also its alignment before and after.

    Args:
        before, after: from `gram`.
        n: all inputs.
    """
    pairs = torch.stack([before, after, after - before]).square()  # (3, m, q, m, q)
    m, q = pairs.shape[1:3]
    by_row = (pairs.sum(4) if rows.exact else pairs.mean(4)).double()  # (3, m, q, m): ‖·‖² of row (i, a) with input j
    blocks = by_row.sum(2) if rows.exact else by_row.mean(2)  # (3, m, m)
    own = torch.einsum("siaib->siab", pairs)  # (3, m, q, q)
    if not rows.exact:  # a sign vector with itself is biased
        own = own - torch.diag_embed(torch.diagonal(own, dim1=2, dim2=3))
        same = own.sum((2, 3)) / (q * (q - 1))  # (3, m)
    else:
        same = own.sum((2, 3))
    other = blocks - torch.diag_embed(torch.diagonal(blocks, dim1=1, dim2=2))  # (3, m, m)

    def weigh(same, other, m):  # sums over inputs and over pairs of two, as among all n
        pair = n * (n - 1) / (m * (m - 1)) if m > 1 else 0.0
        return n / m * same + pair * other

    def numbers(norms):  # (3, …) → (measures, …)
        found = [(norms[2] / norms[0]).sqrt()]
        if pulls is not None:
            found += [pull / norms[i].sqrt() for i, pull in enumerate(pulls)]
        return torch.stack(found)

    value = numbers(weigh(same.sum(1), other.sum((1, 2)), m))
    if m == n and rows.exact:
        return [Estimate(float(v), 0.0) for v in value]
    around = other.sum(2)  # (3, m)
    total = torch.zeros_like(value)
    if m < n:  # else no inputs were drawn, and only the sign vectors vary; `choose` draws three at least
        by_input = numbers(weigh(same.sum(1, keepdim=True) - same, other.sum((1, 2))[:, None] - 2 * around, m - 1))
        total = (m - 1) / m * (by_input - by_input.mean(1, keepdim=True)).square().sum(1)
    within = torch.zeros_like(total)
    if not rows.exact:  # leave one sign vector out
        less = (q * same[:, :, None] * (q - 1) - 2 * own.sum(3)) / ((q - 1) * (q - 2)) - same[:, :, None]  # (3, m, q)
        cross = by_row - torch.einsum("siai->sia", by_row)[..., None] * torch.eye(m, dtype=torch.float64)[:, None]
        shift = 2 * (around[:, :, None] - cross.sum(3)) / (q - 1)  # both ij and ji
        base_same, base_other = same.sum(1)[:, None, None], other.sum((1, 2))[:, None, None]
        one_out = numbers(weigh(base_same + less, base_other + shift, m))  # (measures, m, q)
        within = (q - 1) / q * (one_out - one_out.mean(2, keepdim=True)).square().sum((1, 2))
    variance = (1 - m / n) * (total - within).clamp(min=0) + within
    t = float(special.stdtrit(max(m - 1, 1), 0.975))
    return [Estimate(float(v), t * math.sqrt(float(s))) for v, s in zip(value, variance, strict=True)]
