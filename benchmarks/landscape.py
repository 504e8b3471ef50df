"""The loss on a plane through weight space: all grid points of a block at once against one point at a time.

The two-layer networks of chapter 6 (d = 100, 1000 test inputs, float32), 25 × 25 points on the plane of the
first two principal components of eight weight vectors. The loop is written as one writes it by hand: the
weights of a point are put into a torch module, which gives the test loss. Also against a loop over points in
plain tensor code, without the module's overhead. Losses are compared with a loop in float64. One process, all
cores.
"""

import statistics
import sys

import torch
from _timing import timed
from torch.nn.utils import vector_to_parameters

from lazylib.measures import pca_plane, plane_loss
from lazylib.nets import TwoLayer
from lazylib.problems import teacher_student

WIDTHS = (6, 8, 12, 16, 24, 32, 64, 128, 256)
D, POINTS = 100, 25
AIM, WRONG = 20, 1e-4  # ratio of wall times; relative error that counts as wrong


class Module(torch.nn.Module):
    """The same net for one point, as a torch module with parameters (a, b)."""

    def __init__(self, m: int, scale: float):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.zeros(m)), torch.nn.Parameter(torch.zeros(m, D))
        self.scale = scale

    def forward(self, x):
        return self.scale * torch.relu(x @ self.b.T) @ self.a


@torch.no_grad()
def by_module(net, plane, s, x, y):
    module, losses = Module(net.m, net.scale).to(x), torch.empty(len(s), len(s))
    for i, first in enumerate(s):
        for j, second in enumerate(s):
            w = plane.origin + first * plane.directions[0] + second * plane.directions[1]
            vector_to_parameters(w, module.parameters())
            losses[i, j] = 0.5 * torch.nn.functional.mse_loss(module(x), y).item()
    return losses


def by_tensors(net, plane, s, x, y):
    losses = torch.empty(len(s), len(s), dtype=x.dtype)
    for i, first in enumerate(s):
        for j, second in enumerate(s):
            a, b = net.split(plane.origin + first * plane.directions[0] + second * plane.directions[1])
            losses[i, j] = 0.5 * (net.scale * torch.relu(x @ b.T) @ a - y).square().mean()
    return losses


def main():
    problem = teacher_student(0, d=D, scale=100.0)
    x, y = problem.x_test, problem.y_test
    s = torch.linspace(-3, 3, POINTS)
    print(
        "| width | loop, module (s) | loop, tensors (s) | batched (s) "
        "| ratio, module | ratio, tensors | largest error |"
    )
    print("|---|---|---|---|---|---|---|")
    ratios, errors = [], []
    for m in WIDTHS:
        net = TwoLayer(D, m, scale=1 / m)
        plane = pca_plane(3 * net.init(1.0, range(8)))
        exact_plane = type(plane)(plane.origin.double(), plane.directions.double())
        exact = by_tensors(net, exact_plane, s.double(), x.double(), y.double())
        module, first = timed(by_module, net, plane, s, x, y, repeats=3)
        tensors, _ = timed(by_tensors, net, plane, s, x, y, repeats=3)
        batched, losses = timed(plane_loss, net, plane, s, s, x, y, repeats=5)
        errors.append(max(float((found / exact - 1).abs().max()) for found in (losses, first)))
        ratios.append((module / batched, tensors / batched))
        print(
            f"| {m} | {module:.3f} | {tensors:.3f} | {batched:.4f} "
            f"| {ratios[-1][0]:.0f} | {ratios[-1][1]:.0f} | {errors[-1]:.0e} |",
            flush=True,
        )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    worst = min(tensors for _, tensors in ratios)
    print(
        f"\nwall-time ratio: median {medians[0]:.0f} against the module, "
        f"{medians[1]:.0f} against tensors, worst {worst:.0f}"
    )
    wanted = ((f"median ratio ≥ {AIM}: {medians[0]:.0f}", medians[0] >= AIM),
              (f"every ratio ≥ {AIM}: {worst:.0f}", worst >= AIM),
              (f"relative error ≤ {WRONG:g}: {max(errors):.0e}", max(errors) <= WRONG))  # fmt: skip
    print("aims: " + "; ".join(f"{text} ({'reached' if fine else 'not reached'})" for text, fine in wanted))
    return 0 if max(errors) <= WRONG else 1  # a wrong loss fails; a slow machine only says so


if __name__ == "__main__":
    sys.exit(main())
