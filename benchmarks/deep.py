"""Deep fully connected nets: the layerwise tangent kernel against gradients sample by sample, and the stabilized flow
against the adaptive Euler steps of GSJW.

Kernel: L = 3, h = 100, d = 784, N inputs, float32; the Gram matrix of one net by a loop of gradients, by the product
of vmap(grad), and layer by layer.  Flow: Fashion-MNIST by parity, soft hinge loss, until every training margin
exceeds 1.  The Euler steps are those of GSJW: a step is taken back and halved unless α max|Δf| < 0.1 and the gradient
changes by less than 1e-4 of its square (‖∇ − ∇′‖² < 1e-4 ‖∇‖‖∇′‖), else the next one is 1.1 times as long.  Every
gradient counts, those taken back as well; the flow's count includes its estimates of the spectral radius, and its
differentials (one a step) are listed.  One process, all cores.
"""

import argparse
import statistics
import sys

import torch
from _timing import timed

from lazylib.flows import gradient_flow
from lazylib.measures import tangent_kernel
from lazylib.nets import FullyConnected
from lazylib.objectives import soft_hinge
from lazylib.problems import parity

NET = FullyConnected(784, 100, 3)
ALPHA_HATS = (0.01, 1.0, 100.0)  # √h·α
RTOL = 0.2  # that of chapter 10, which shows that the test error does not depend on it


def by_loop(w, x):
    """Σ over parameters of the products of gradients, each by one backward pass; by autograd as codes run it."""
    w = w.clone().requires_grad_()
    rows = [torch.autograd.grad(NET(w, a[None])[0], w)[0] for a in x]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def by_vmap(w, x):
    jacobian = torch.func.vmap(torch.func.grad(lambda v, a: NET(v, a[None])[0]), (None, 0))(w, x)
    return jacobian @ jacobian.T


def layerwise(w, x):
    return tangent_kernel(NET, w[None], x)[0]


def kernel(inputs: int) -> tuple[bool, list]:
    x, w = parity("fashion", inputs, 1).x, NET.init(0)[0]
    layerwise(w, x)
    own, theta = timed(layerwise, w, x, repeats=5)
    exact = tangent_kernel(NET, w[None].double(), x.double())[0]
    print(f"| tangent kernel of {inputs} inputs | s | ratio | difference |\n|---|---|---|---|")
    ratios, close = [], True
    for name, other, repeats in (("loop of gradients", by_loop, 2), ("vmap(grad)", by_vmap, 3)):
        seconds, result = timed(other, w, x, repeats=repeats)
        difference = float((theta - result).norm() / result.norm())
        close &= difference < 1e-5
        ratios.append(seconds / own)
        print(f"| {name} | {seconds:.3f} | {ratios[-1]:.0f} | {difference:.1e} |", flush=True)
    error = float((theta - exact).norm() / exact.norm())
    print(f"| layer by layer | {own:.4f} | 1 | {error:.1e} (to float64) |\n")
    aims = [
        (f"{name} ≥ {least} times slower: {ratio:.0f}", ratio >= least)
        for name, least, ratio in zip(("loop", "vmap(grad)"), (50, 30), ratios, strict=True)
    ]
    return close and error < 1e-5, aims


def euler(objective, limit: int) -> tuple[torch.Tensor, int, float]:
    """Displacement, gradients and time of GSJW's adaptive Euler steps, for one run; the first step is small."""
    u = torch.zeros_like(objective.w0)
    gradient, out = objective.gradient(u)
    step, t, count = 1e-3 / float(gradient.norm()), 0.0, 1
    while not bool(objective.ended(out)) and count < limit:
        trial = u - step * gradient
        gradient2, out2 = objective.gradient(trial)
        count += 1
        change = float((gradient - gradient2).square().sum() / (gradient.norm() * gradient2.norm()))
        if float((out2 - out).abs().max()) < 0.1 and change < 1e-4:
            u, gradient, out, t, step = trial, gradient2, out2, t + step, 1.1 * step
        else:
            step /= 10.0 if change > 1.0 else 2.0
    return u, count, t


def flow(n: int, runs: int, limit: int) -> tuple[bool, list]:
    print(
        f"| √h·α (n = {n}) | Euler, gradients | flow, gradients | differentials | ratio | test error, Euler | flow "
        "| sign differs |\n|---|---|---|---|---|---|---|---|"
    )
    ratios, same = [], True
    for alpha_hat in ALPHA_HATS:
        rows = []
        for seed in range(runs):
            data = parity("fashion", n, 10_000, seed)
            objective = soft_hinge(NET, NET.init(seed), data.x, data.y, alpha_hat / NET.h**0.5)
            u, count, _ = euler(objective, limit)
            result = gradient_flow(objective, rtol=RTOL)
            assert result.reached.all(), f"a flow did not reach the margin: {result.status}"
            plain, fast = objective.outputs(u, data.x_test), objective.outputs(result.u, data.x_test)
            differs = float((plain * fast < 0).double().mean())
            errors = float(data.error(plain)), float(data.error(fast))
            rows.append((count, int(result.evals[0]), int(result.steps[0]), *errors, differs))
        count, evals, steps, plain, fast, differs = map(statistics.mean, zip(*rows, strict=True))
        unfinished = any(row[0] >= limit for row in rows)
        ratios.append(count / evals)
        same &= abs(fast - plain) < 0.004
        more = "≥ " if unfinished else ""
        print(
            f"| {alpha_hat:g} | {more}{count:.0f} | {evals:.0f} | {steps:.0f} | {more}{ratios[-1]:.0f} "
            f"| {100 * plain:.2f} % | {100 * fast:.2f} % | {100 * differs:.2f} % |",
            flush=True,
        )
    print()
    return same, [(f"gradients ≥ 10 times fewer at every √h·α: {min(ratios):.0f}", min(ratios) >= 10)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=500, help="inputs of the kernel")
    parser.add_argument("--n", type=int, default=300, help="training images of the flow")
    parser.add_argument("--runs", type=int, default=2, help="seeds of the flow")
    parser.add_argument("--limit", type=int, default=60_000, help="gradients after which an Euler run is given up")
    given = parser.parse_args()
    right, aims = kernel(given.inputs)
    same, more = flow(given.n, given.runs, given.limit)
    print("aims: " + "; ".join(f"{text} ({'reached' if fine else 'not reached'})" for text, fine in aims + more))
    return 0 if right and same else 1  # wrong results fail; a slow machine only says so


if __name__ == "__main__":
    sys.exit(main())
