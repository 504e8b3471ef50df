"""Training on a GPU: images per second, and the share of the card's bfloat16 peak that the arithmetic is.

Steps of `train` as it makes them, kernel by kernel and as one CUDA graph; and the structure of the published loop: a
network and its frozen copy, both run forward, in float64 as published and in float32, its images already on the card.
The arithmetic is that of the convolutions and products: a forward pass, that of h(w0), and two for the derivatives; one
more for the tangent model, two for a finite α that goes through the layers as differences.

    python benchmarks/gpu.py
"""

import copy
import math
import sys
import time

import torch

from lazylib.flows import Recipe
from lazylib.flows.classifier import _Steps
from lazylib.nets import Scaled, convnet
from lazylib.problems import Images

FORWARD = {"vgg11": 0.3055e9, "resnet18": 1.112e9}  # operations of a pass of one image, k = 1
PASSES = {1.0: 4, math.inf: 5}  # of a step; 6 for another α
ROWS = [
    *(("vgg11", 1.0, alpha, 128) for alpha in (1.0, 10.0, math.inf)),
    *(("vgg11", 8.0, alpha, 128) for alpha in (1.0, math.inf)),
    ("vgg11", 8.0, 1.0, 256),
    *(("resnet18", 1.0, alpha, 128) for alpha in (1.0, math.inf)),
]
PEAK = 989e12  # of an H100 or H200 in dense bfloat16, by its data sheet


def noise(n: int, device: str) -> Images:
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, device=device)
    y = torch.arange(n, device=device) % 10
    return Images("noise", x, y, x[:1], y[:1], (0.5,) * 3, (0.25,) * 3)


def timed(step, steps: int) -> float:
    """Seconds of a step, the mean of so many, after five."""
    for i in range(5 + steps):
        if i == 5:
            torch.cuda.synchronize()
            start = time.perf_counter()
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def ours(data: Images, net: torch.nn.Module, alpha: float, batch: int, graph: bool) -> float:
    model = Scaled(net.to(memory_format=torch.channels_last), alpha, two_passes=alpha == 1)
    recipe = Recipe(lr=1e-4, epochs=1, batch=batch)
    lr = torch.tensor(recipe.lr, device="cuda")
    optimizer = torch.optim.SGD(list(model.parameters()), lr=lr, momentum=recipe.momentum, fused=True)
    steps = _Steps(model, data, recipe, optimizer, "bfloat16")
    steps.before = steps.before if graph else math.inf
    rows = torch.arange(batch, device="cuda")
    with torch.cuda.stream(steps.stream):
        return timed(lambda: steps._step(rows), 40)


def published(data: Images, net: torch.nn.Module, batch: int, dtype: torch.dtype) -> float:
    net, frozen = copy.deepcopy(net).to(dtype), copy.deepcopy(net).to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    x, y = data.normalize(data.x[:batch]).contiguous().to(dtype), torch.nn.functional.one_hot(data.y[:batch], 10)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x) - frozen(x), y.to(dtype)).backward()
        optimizer.step()

    return timed(step, 40)


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return 0
    print("| network | α | batch | way | images/s | TFLOP/s | of the peak |")
    print("|---|---|---|---|---|---|---|")
    data = noise(10_000, "cuda")
    for name, k, alpha, batch in ROWS:
        net = convnet(name, k).cuda()
        ways = {"one CUDA graph": lambda: ours(data, net, alpha, batch, True)}  # noqa: B023
        if k == 1:
            ways["kernel by kernel"] = lambda: ours(data, net, alpha, batch, False)  # noqa: B023
        if k == 1 and alpha == 1:
            ways["published loop, float64"] = lambda: published(data, net, batch, torch.float64)  # noqa: B023
            ways["published loop, float32"] = lambda: published(data, net, batch, torch.float32)  # noqa: B023
        for way, measure in ways.items():
            seconds = measure()
            done = FORWARD[name] * k**2 * PASSES.get(alpha, 6) * batch / seconds
            print(
                f"| {name}, k = {k:g} | {alpha:g} | {batch} | {way} | {batch / seconds:.0f} | {done / 1e12:.0f} "
                f"| {done / PEAK:.0%} |",
                flush=True,
            )
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
