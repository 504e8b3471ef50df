"""A classifier with fixed features: random patches of the images as filters, and ridge regression on top."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator

_BATCH = 250  # images whose responses are held at a time
_ROWS = 2000  # rows of features that are held in float64 at a time


class TrainingImages(Protocol):
    """What has training images x, (n, channels, height, width) in bytes, as `lazylib.problems.Images` does."""

    @property
    def x(self) -> Tensor: ...


class RandomPatches:
    """Features of images by convolution with whitened random patches (Coates, Ng 2012; Recht et al. 2018).

    `count` patches of `size`×`size` pixels are drawn at random places of random training images, freed of
    their mean and contrast and whitened, f. A patch p of an image, treated likewise, responds with
    relu(f·p − b) and relu(−f·p − b); the responses are averaged over the four quarters of the image. Nothing
    is trained.

    Raises ValueError for fewer than one patch, patches larger than the images, a negative bias b.

    Example:
        >>> import torch
        >>> from lazylib.measures import RandomPatches
        >>> from lazylib.problems import Images
        >>> x, y = torch.randint(256, (20, 1, 12, 12), dtype=torch.uint8), torch.zeros(20).long()
        >>> RandomPatches(Images("made", x, y, x, y, (0.5,), (0.5,)), count=5)(x).shape  # two signs, four quarters
        torch.Size([20, 40])
    """

    def __init__(self, images: TrainingImages, count: int, *, size: int = 6, bias: float = 1.0, seed: int = 0):
        n, channels, height, width = images.x.shape
        if not (isinstance(count, int) and count >= 1):
            raise ValueError(f"count must be a whole number of patches ≥ 1, not {count!r}.")
        if not 1 <= size <= min(height, width):
            raise ValueError(f"size must be from 1 to the {min(height, width)} pixels of an image, not {size}.")
        if not bias >= 0:
            raise ValueError(f"bias must be 0 or positive, not {bias}.")
        self.images, self.size, self.bias = images, size, bias
        rng, device = generator(seed, "patches"), images.x.device
        drawn = max(count, 10_000)  # the whitening is estimated on these
        which = torch.randint(n, (drawn,), generator=rng).to(device)
        rows, columns = (torch.randint(side - size + 1, (drawn,), generator=rng).to(device) for side in (height, width))
        span = torch.arange(size, device=device)
        patches = images.x[
            which[:, None, None], :, (rows[:, None] + span)[:, :, None], (columns[:, None] + span)[:, None, :]
        ]
        patches = patches.permute(0, 3, 1, 2).reshape(drawn, -1).float() / 255  # (drawn, d), d = channels·size²
        patches = _contrast(patches)
        self.mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - self.mean).T @ (patches - self.mean) / drawn)
        whiten = vectors * (values.clamp(min=0) + 0.1 * values.mean()).rsqrt() @ vectors.T  # (d, d), symmetric
        filters = (patches[:count] - self.mean) @ whiten
        filters = filters / filters.norm(dim=1, keepdim=True).clamp(min=1e-8)  # (count, d)
        self.filters = filters @ whiten  # they act on patches that are not whitened yet

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, 8·count) of images x (n, channels, height, width) in bytes."""
        return torch.cat([self._some(part) for part in x.split(_BATCH)])

    def _some(self, x: Tensor) -> Tensor:
        """As convolutions: a filter freed of its mean does not see that of a patch, whose contrast is a factor."""
        x, d = x.float() / 255, self.filters.shape[1]
        centred = self.filters - self.filters.mean(1, keepdim=True)
        responses = nnf.conv2d(x, centred.reshape(-1, x.shape[1], self.size, self.size))  # (n, count, h, w)
        mean, square = (
            nnf.avg_pool2d(v.mean(1, keepdim=True), self.size, stride=1) for v in (x, x.square())
        )  # over a patch, (n, 1, h, w)
        responses *= _over_contrast((square - mean.square()).clamp(min=0) * d / (d - 1))
        shift = (self.filters @ self.mean)[:, None, None]
        both = (responses - (shift + self.bias)).relu_(), (shift - self.bias - responses).relu_()
        return torch.cat([nnf.adaptive_avg_pool2d(sign, 2) for sign in both], 1).flatten(1)


def ridge(features: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Least squares of one-hot classes on standardized features, with penalty·n·‖weights‖² added.

    By the smaller of the p × p and the n × n system, in float64.

    Args:
        features: (n, p).
        y: class numbers, (n,).
        classes: how many there are.
        penalty: > 0.

    Returns:
        (weights, constant): the scores of features f are f @ weights + constant, (classes,).

    Example:
        >>> import torch
        >>> from lazylib.measures import ridge
        >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> weights, constant = ridge(x, y, classes=2, penalty=1e-6)
        >>> (x.double() @ weights + constant).argmax(1)
        tensor([0, 0, 1, 1])
    """
    _check_penalty(penalty)
    return _solver(features, y, classes)(penalty)


def _check_penalty(penalty: float) -> None:
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, not {penalty}.")


def _solver(features: Tensor, y: Tensor, classes: int) -> Callable[[float], tuple[Tensor, Tensor]]:
    """`ridge` as a function of the penalty: what does not depend on it, a matrix product, is made once."""
    n, p = features.shape
    parts = features.split(_ROWS)
    mean = sum(part.double().sum(0) for part in parts) / n
    std = (sum((part.double() - mean).square().sum(0) for part in parts) / (n - 1)).sqrt().clamp(min=1e-8)
    targets = nnf.one_hot(y, classes).double()
    centre = targets.mean(0)
    targets = targets - centre
    wide = n < p
    if wide:
        f = (features.double() - mean) / std
        gram, right = f @ f.T, targets
    else:
        gram, right = mean.new_zeros(p, p), mean.new_zeros(p, classes)
        for part, some in zip(parts, targets.split(_ROWS), strict=True):
            f = (part.double() - mean) / std
            gram.addmm_(f.T, f)
            right.addmm_(f.T, some)

    def solve(penalty: float) -> tuple[Tensor, Tensor]:
        system = gram.clone()
        system.diagonal().add_(penalty * n)
        weights = torch.linalg.solve(system, right)
        weights = (f.T @ weights if wide else weights) / std[:, None]
        return weights, centre - mean @ weights

    return solve


def choose_penalty(features: Tensor, y: Tensor, classes: int, penalties: Sequence[float]) -> float:
    """The penalty with which `ridge`, fitted on the first four fifths of the rows, classifies the last fifth best.

    features: (n, p), n ≥ 5; y: (n,) class numbers. Of penalties that do equally well it is the first.

    Raises ValueError for fewer than five rows, no penalty, or one that is not positive.

    Example:
        >>> import torch
        >>> from lazylib.measures import choose_penalty
        >>> x = torch.linspace(-1, 1, 50)[torch.randperm(50)]
        >>> choose_penalty(x[:, None], (x > 0).long(), 2, [0.1])
        0.1
    """
    if len(features) < 5 or not len(penalties):
        raise ValueError(f"there must be 5 rows and a penalty to choose, got {len(features)} rows and {penalties}.")
    for penalty in penalties:
        _check_penalty(penalty)
    cut = 4 * len(features) // 5
    solve = _solver(features[:cut], y[:cut], classes)

    def share_right(penalty: float) -> float:
        weights, constant = solve(penalty)
        return float(((features[cut:].double() @ weights + constant).argmax(1) == y[cut:]).double().mean())

    return max(penalties, key=share_right)


def _over_contrast(variance: Tensor) -> Tensor:
    return (variance + 10 / 255**2).rsqrt()


def _contrast(patches: Tensor) -> Tensor:
    """Each patch (…, d) with mean 0 and standard deviation about 1; flat ones stay near 0."""
    patches = patches - patches.mean(-1, keepdim=True)
    return patches * _over_contrast(patches.var(-1, keepdim=True))
