"""‖D²h‖ of two-layer nets neuron by neuron: D²h is block diagonal in them (see ``criterion.two_layer_kappa``)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from .norms import Norm, climb, lanczos, random_rows, unit


def largest_gated(x: Tensor, gates: Tensor) -> float:
    """max_j λ_max(1/n Σ_i gates_ji x_i x_iᵀ), exactly; x (n, d), gates (m, n) boolean.

    Upper bounds ‖M^8‖_F^(1/8) in float32 sort the neurons; eigenvalues are then computed in the dtype of x,
    from the largest bound down, until no bound is left above the best eigenvalue.
    """
    n = x.shape[0]
    unit_x = x / x.norm(dim=1).amax().clamp_min(torch.finfo(x.dtype).tiny)
    scale = x.norm(dim=1).amax().item() ** 2 / n
    if n < x.shape[1]:  # only n dimensions matter: rotate x into them
        unit_x = torch.linalg.qr(unit_x.T, mode="r")[1].T  # (n, n)
    d = unit_x.shape[1]
    # symmetrized nets hold each activation pattern twice, small problems many times
    key = gates.to(torch.float64) @ random_rows(unit_x.to(torch.float64), 1, n, 0)[0]  # (m,)
    order = key.argsort()
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    gates = gates[order[first]]

    i, j = torch.triu_indices(d, d, device=x.device)
    single = unit_x.to(torch.float32)
    pairs = single[:, i] * single[:, j]  # (n, d(d+1)/2)
    bounds = []
    for block in gates.split(512):
        upper = block.to(torch.float32) @ pairs  # (c, d(d+1)/2)
        m = single.new_empty(len(block), d, d)
        m[:, i, j] = upper
        m[:, j, i] = upper
        bound, power = torch.linalg.matrix_norm(m), 1  # (c,)
        m /= bound[:, None, None].clamp_min(1e-30)
        for _ in range(3):
            m = m @ m
            norm, power = torch.linalg.matrix_norm(m), 2 * power
            m /= norm[:, None, None].clamp_min(1e-30)
            bound = bound * norm ** (1 / power)
        bounds.append(bound)
    # the margin covers float32 rounding
    bound, order = (torch.cat(bounds) * (1 + 1e-4)).sort(descending=True)
    best = 0.0
    for k in range(0, len(order), 64):
        if bound[k].item() <= best:
            break
        active = gates[order[k : k + 64]].to(x.dtype)[:, :, None] * unit_x  # (64, n, d)
        best = max(best, torch.linalg.eigvalsh(active.mT @ active)[:, -1].max().item())
    return best * scale


def _neurons(x: Tensor, a: Tensor, z: Tensor, sigma: Callable) -> tuple[Callable, Callable, Tensor]:
    """The products D²h_j[u, v] and H_ν u of all neurons at once, and curvatures a_j σ''(b_j·x_i)·√n (m, n).

    u, v (m, 1+d) hold (α, β); outputs and ν are (m, n).
    """
    ones = torch.ones_like(z)
    slope, curvature = jvp(lambda s: jvp(sigma, (s,), (ones,))[1], (z,), (ones,))  # (m, n)
    curvature = curvature * a[:, None]
    x = x / math.sqrt(x.shape[0])
    curvature = curvature * math.sqrt(x.shape[0])  # two factors of x/√n, one of 1/√n

    def bilinear(u, v):
        zu, zv = u[:, 1:] @ x.T, v[:, 1:] @ x.T  # (m, n)
        return slope * (u[:, :1] * zv + v[:, :1] * zu) + curvature * zu * zv

    def hessian(nu, u):
        zu = u[:, 1:] @ x.T  # (m, n)
        output = (nu * slope * zu).sum(dim=1, keepdim=True)  # (m, 1)
        return torch.cat([output, (nu * (slope * u[:, :1] + curvature * zu)) @ x], dim=1)

    return bilinear, hessian, curvature


def largest_neuron(x: Tensor, a: Tensor, z: Tensor, slope: Tensor, sigma: Callable, tol: float, keep: int) -> Norm:
    """max_j ‖D²h_j‖ by ascent from five starts u = (α, β) a neuron.

    Two are (1, ±β)/√2 with β the leading singular vector (8 Lanczos steps) of the mixed derivative
    β → σ'(b_j·x_i) β·x_i; three are (0, x_i/|x_i|) with i the samples of largest |σ''(b_j·x_i)| |x_i|².
    The best `keep` of each kind climb 15 steps, the best 32 of all to the top.
    """
    first = random_rows(x, 1, x.shape[1], 0)
    localized = min(3, len(x))
    kinds: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(2 + localized)]
    length = x.norm(dim=1)  # (n,)
    for rows in torch.arange(len(a), device=x.device).split(1024):
        s2 = slope[rows].square()  # (c, n)
        beta = lanczos(lambda v, s2=s2: (s2 * (v @ x.T)) @ x, first.expand(len(rows), -1), 8, 0.0)[1]  # (c, d)
        bilinear, hessian, curvature = _neurons(x, a[rows], z[rows], sigma)
        samples = (curvature.abs() * length**2).topk(localized, dim=1).indices  # (c, 3)
        one = torch.ones_like(beta[:, :1])
        heads = [one, one] + [0 * one] * localized
        tails = [beta, -beta] + [x[i] for i in samples.T]
        for kind, head, tail in zip(kinds, heads, tails, strict=True):
            u = unit(torch.cat([head, tail], dim=1))  # (c, 1+d)
            kind.append((bilinear(u, u).norm(dim=1), u))
    chosen, starts = [], []
    for kind in kinds:
        best = torch.cat([values for values, _ in kind]).topk(min(keep, len(a))).indices
        chosen.append(best)
        starts.append(torch.cat([u for _, u in kind])[best])
    rows, u = torch.cat(chosen), torch.cat(starts)
    for steps, count in ((15, 32), (500, 1)):
        bilinear, hessian, _ = _neurons(x, a[rows], z[rows], sigma)
        norm, values, u = climb(bilinear, hessian, u, tol, steps)
        best = values.topk(min(count, len(rows))).indices
        rows, u = rows[best], u[best]
    return norm
