"""Images in two classes by the parity of their label (GSJW §2.3): y = +1 for even labels, −1 for odd ones."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator
from . import images
from .teacher import check_apart

DATA = tuple(images.SETS)


@dataclass(frozen=True)
class Classes:
    """A problem of two classes.

    Attributes:
        x, x_test: inputs, (n, d) and (n_test, d). Test inputs that are training inputs are refused: `check_apart`.
        y, y_test: classes, (n,) and (n_test,) with entries ±1.
        name: of the set of images.

    Example:
        >>> from lazylib.problems import parity
        >>> digits = parity("digits", n=50, n_test=100)
        >>> float(digits.error(-digits.y_test))
        1.0
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    name: str

    def __post_init__(self):
        check_apart(self.x, self.x_test)

    def error(self, outputs: Tensor) -> Tensor:
        """Share of test inputs whose class the sign of the outputs (…, n_test) misses, (…,).

        0 counts as a miss; where an output is NaN, so is the share.
        """
        missed = (outputs * self.y_test <= 0).double().mean(-1)
        return torch.where(outputs.isnan().any(-1), torch.nan, missed)


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
        name: "fashion sample", which comes with the package, "fashion", "cifar10" or "digits".
        n: training images.
        n_test: test images.
        seed: of the draw.
        components: keep this many principal components of the set's training images, each with unit variance, first.
        dtype: of all tensors.
        device: of all tensors.

    Returns:
        The problem; y = +1 for even labels, −1 for odd ones.

    Raises:
        ValueError: another name, or fewer images or dimensions than asked for.
        DataMissing: the set is not there and cannot be loaded.

    Source: Geiger, Spigler, Jacot, Wyart 2020, section 2.3.

    Example:
        >>> from lazylib.problems import parity
        >>> problem = parity("fashion sample", n=100, n_test=50)
        >>> problem.x.shape, round(float(problem.x.norm(dim=1).mean()), 3)
        (torch.Size([100, 784]), 28.0)
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


def halved(x: Tensor, colours: int, side: int) -> Tensor:
    """Images at half the resolution: the mean of each 2×2 pixels, scaled to norm √d again, as those of ``parity`` are.

    Args:
        x: images as rows, (n, colours·side²), ordered by colour, row, column.
        colours: 1 or 3, say.
        side: pixels of a side, an even number.

    Returns:
        (n, d) with d = colours·(side/2)², each row of norm √d.

    Raises:
        ValueError: rows of another length, or an odd side.

    Example:
        >>> import torch
        >>> from lazylib.problems import halved
        >>> halved(torch.tensor([[3.0, 1.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0] + 8 * [0.0]]), colours=1, side=4)
        tensor([[2., 0., 0., 0.]])
    """
    if side % 2 or x.shape[1:] != (colours * side**2,):
        raise ValueError(
            f"x must be (n, {colours}·{side}²) with an even number of pixels a side, got {tuple(x.shape)}."
        )
    x = nnf.avg_pool2d(x.unflatten(1, (colours, side, side)), 2).flatten(1)
    return nnf.normalize(x) * math.sqrt(x.shape[1])
