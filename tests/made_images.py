"""Images that are made in a moment: gratings of ten orientations at random phases, in noise."""

import math

import torch

from lazylib.problems import Images


def gratings(n: int = 300, n_test: int = 200) -> Images:
    """They pass for CIFAR-10, in name and shape, so that a chapter judges its claims on them."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(n + n_test) % 10
    angle, phase = math.pi * y / 10, 2 * math.pi * torch.rand(n + n_test, generator=rng)
    side = torch.arange(32.0)
    along = angle.cos()[:, None, None] * side[:, None] + angle.sin()[:, None, None] * side  # (n, 32, 32)
    wave = (0.9 * along + phase[:, None, None]).sin()[:, None]  # (n, 1, 32, 32)
    x = (128 + 60 * wave + 40 * torch.randn(n + n_test, 3, 32, 32, generator=rng)).clamp(0, 255).to(torch.uint8)
    return Images("CIFAR-10", x[:n], y[:n], x[n:], y[n:], (0.5,) * 3, (0.3,) * 3)
