"""Training on images per second: the structure of the published loop, and a tuned one, against lazylib.

The published structure: a network and its frozen copy, both run forward in float32 on every batch, images
normalized, cropped and mirrored one by one in a DataLoader (here in the training process: workers would take
cores from the training). The tuned loop: the network alone, with no frozen copy to subtract, images cropped and
mirrored a batch at a time, channels last, torch's fused SGD; it costs what a standard step must cost. lazylib: `train`
on a `Scaled` model, at α = 1 (two passes, as published), at a finite α and as the tangent model. Where images come as
they are, not augmented, lazylib computes h(w0) once, here for three epochs; a step then costs what a tuned one costs.
By the count of convolutions a tuned loop makes three passes a step, lazylib four at α = 1 (three on images as they
are), and five for the tangent model.
The same network, width, batch and images; what is compared is wall time, the best of three rounds.

    python benchmarks/images.py [--k K] [--images N]
"""

import argparse
import copy
import math
import sys
import time

import torch

from lazylib.flows import Recipe, best_precision, train
from lazylib.nets import Scaled, convnet
from lazylib.problems import Images, augment
from lazylib.problems._torchvision import torchvision

BATCH = 128


def noise(n: int) -> Images:
    """Images of the size of CIFAR-10; their content does not matter here."""
    x = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(n) % 10
    return Images("noise", x, y, x[:1], y[:1], (0.5,) * 3, (0.25,) * 3)


def published_loop(data: Images, net: torch.nn.Module, epochs: int) -> tuple[float, float]:
    """Seconds of the fastest epoch, and the loss of the first."""
    transforms = torchvision.transforms
    steps = [
        transforms.ToPILImage(),
        transforms.RandomCrop(32, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(data.mean, data.std),
    ]
    transform = transforms.Compose(steps)
    pairs = list(zip(data.x, data.y.tolist(), strict=True))
    loader = torch.utils.data.DataLoader(
        pairs,
        BATCH,
        shuffle=True,
        collate_fn=lambda batch: (
            torch.stack([transform(x) for x, _ in batch]),
            torch.tensor([y for _, y in batch]),
        ),
    )
    net, frozen = copy.deepcopy(net), copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    seconds, losses = [], []
    for _ in range(epochs):
        start, total = time.perf_counter(), 0.0
        for x, y in loader:
            optimizer.zero_grad()
            outputs = net(x) - frozen(x)
            loss = torch.nn.functional.mse_loss(outputs, torch.nn.functional.one_hot(y, 10).float())
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        seconds.append(time.perf_counter() - start)
        losses.append(total / len(data.x))
    return min(seconds), losses[0]


def tuned_loop(data: Images, net: torch.nn.Module, epochs: int, augmented: bool) -> float:
    """Seconds of the fastest epoch of plain training at its best."""
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    targets, n, seconds = torch.nn.functional.one_hot(data.y, 10).float(), len(data.x), []
    for _ in range(epochs):
        start = time.perf_counter()
        shift, flip = torch.randint(9, (n, 2)), torch.rand(n) < 0.5
        for rows in torch.randperm(n).split(BATCH):
            x = data.x[rows]
            x = data.normalize(augment(x, shift[rows], flip[rows]) if augmented else x)
            loss = torch.nn.functional.mse_loss(net(x), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(data: Images, net: torch.nn.Module, alpha: float, epochs: int, augmented: bool) -> tuple[float, float]:
    model = Scaled(copy.deepcopy(net).to(memory_format=torch.channels_last), alpha, two_passes=alpha == 1)
    found = list(train(model, data, Recipe(lr=0.1, decay=0.0, epochs=epochs, batch=BATCH, augment=augmented)))
    return len(data.x) / max(e.images_per_second for e in found), found[0].loss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=float, default=0.25, help="widening factor")
    parser.add_argument("--images", type=int, default=512, help="training images")
    given = parser.parse_args()
    print("| network | images | published loop, images/s | tuned | α | lazylib, images/s | ratio | to tuned |")
    print("|---|---|---|---|---|---|---|---|")
    ratios, best, plainly, wrong = {}, {}, {}, False
    for name in ("vgg11", "resnet18"):
        data, net = noise(given.images), convnet(name, given.k)
        plain, loss = published_loop(data, net, 3)
        for augmented in (True, False):
            tuned = tuned_loop(data, net, 3, augmented)
            for alpha in (1.0, 10.0, math.inf):
                seconds, found = ours(data, net, alpha, 3, augmented)
                if augmented:
                    ratios[name, alpha] = plain / seconds
                    wrong |= alpha == 1 and abs(found - loss) > 0.05 * loss  # other orders and crops of the same images
                (best if augmented else plainly)[name, alpha] = tuned / seconds
                beside = (f"{len(data.x) / plain:.0f}", f"{plain / seconds:.2f}") if augmented else ("", "")
                print(
                    f"| {name}, k = {given.k:g} | {'augmented' if augmented else 'as they are'} | {beside[0]} "
                    f"| {len(data.x) / tuned:.0f} | {alpha:g} | {len(data.x) / seconds:.0f} | {beside[1]} "
                    f"| {tuned / seconds:.2f} |",
                    flush=True,
                )
    aims = [
        ("standard", ratios, 1.0, 1.5),
        ("tangent model", ratios, math.inf, 1.5),
        ("standard to tuned", best, 1.0, 1.0),
        ("standard to tuned, images as they are", plainly, 1.0, 1.0),
        ("tangent model to tuned", best, math.inf, 0.8),
    ]
    reached = {
        f"{what} ≥ {aim}": (min(r for (_, a), r in found.items() if a == alpha), aim)
        for what, found, alpha, aim in aims
    }
    print(
        f"\n{best_precision('cpu')}; aims: "
        + "; ".join(
            f"{what}: {ratio:.2f} ({'reached' if ratio >= aim else 'not reached'})"
            for what, (ratio, aim) in reached.items()
        )
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
