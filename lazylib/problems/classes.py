"""Images in two classes by the parity of their label (GSJW §2.3): y = +1 for even labels, −1 for odd ones."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runs.rng import generator
from . import images

DATA = tuple(images.SETS)


@dataclass(frozen=True)
class Classes:
    """A problem of two classes: inputs x (n, d), x_test (n_test, d); y (n,), y_test (n_test,) with entries ±1."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    name: str

    def error(self, outputs: Tensor) -> Tensor:
        """Share of test inputs whose class the sign of the outputs (…, n_test) misses, (…,); 0 counts as a miss."""
        return (outputs * self.y_test <= 0).double().mean(-1)


@functools.cache
def _whole(name: str, place: str) -> tuple[Tensor, Tensor, Tensor]:
    """All images of a set as bytes (N, d), their labels (N,), and the mean of its training images (d,) in float64."""
    found = images.read(name)
    x = torch.cat([found.x, found.x_test]).flatten(1)
    return x, torch.cat([found.y, found.y_test]), x[: len(found.x)].double().mean(0)


@functools.cache
def _components(name: str, place: str) -> tuple[Tensor, Tensor]:
    """Variances, increasing, and directions (d, d) of the principal components of the set's training images."""
    found, (x, _, mean) = images.read(name), _whole(name, place)
    centred = x[: len(found.x)].float() - mean.float()
    return torch.linalg.eigh((centred.T @ centred / len(centred)).double())


def parity(
    name: str, n: int, n_test: int, seed: int = 0, *, components: int | None = None, dtype=torch.float32, device=None
) -> Classes:
    """n training and n_test other images, drawn without replacement from all of them, in two classes by parity.

    The mean image of the set's training images is removed and every image scaled to norm √d, so that preactivations
    of a net with unit weights have unit variance.

    Args:
        name: of the set, as in `lazylib.problems.images.read`.
        seed: of the draw.
        components: keep this many principal components of the set's training images, each with unit variance, first.

    Raises: ValueError for another name, and if there are fewer images or dimensions than asked for.
    """
    if name not in DATA:
        raise ValueError(f"name must be one of {', '.join(DATA)}, got {name!r}.")
    for label, value in (("n", n), ("n_test", n_test)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{label} must be a whole number ≥ 1, got {value!r}.")
    place = str(images.where(name))
    x, labels, mean = _whole(name, place)
    if n + n_test > len(x):
        more = ", or take the whole set, 'fashion'" if name == "fashion sample" else ""
        raise ValueError(f"n + n_test must be at most {len(x)}, the images of {name}{more}, got {n + n_test}.")
    chosen = torch.randperm(len(x), generator=generator(seed, "data"))[: n + n_test]
    x = x[chosen] - mean  # float64
    if components is not None:
        if not 1 <= components <= x.shape[1]:
            raise ValueError(f"components must lie between 1 and {x.shape[1]}, got {components}.")
        values, vectors = _components(name, place)
        x = x @ vectors[:, -components:] / values[-components:].sqrt()
    x *= x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    y = 1.0 - 2.0 * (labels[chosen] % 2).double()
    x, y = (part.to(dtype=dtype, device=device) for part in (x, y))
    return Classes(x[:n], y[:n], x[n:], y[n:], name)
