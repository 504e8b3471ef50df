"""Random features of images: random patches of them as filters."""

from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator

_BATCH = 250  # images whose responses are held at a time
_FEW = 8  # on a processor, as many as its cache takes


class TrainingImages(Protocol):
    """What has training images x, (n, channels, height, width) in bytes, as `lazylib.problems.Images` does."""

    @property
    def x(self) -> Tensor: ...


class RandomPatches:
    """Features of images by convolution with whitened random patches (Coates, Ng 2012; Recht et al. 2018).

    `count` patches of `size`×`size` pixels are drawn at random places of random training images, freed of
    their mean and contrast and whitened, f; each comes with its mirror image. A patch p of an image, treated likewise,
    responds with relu(f·p − b) and relu(−f·p − b); the responses are averaged over the four quarters of the image, and
    the square root is taken. Nothing is trained.

    Attributes:
        mirror: the image that is mirrored left to right has the features ``f[:, mirror]``.

    Raises ValueError for fewer than one patch, patches larger than the images, a negative bias b.

    Example:
        >>> import torch
        >>> from lazylib.measures import RandomPatches
        >>> from lazylib.problems import Images
        >>> x, y = torch.randint(256, (20, 1, 12, 12), dtype=torch.uint8), torch.zeros(20).long()
        >>> RandomPatches(Images("made", x, y, x, y, (0.5,), (0.5,)), count=5)(x).shape  # signs, filters, quarters
        torch.Size([20, 80])
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
        filters = filters @ whiten  # they act on patches that are not whitened yet
        self.shift = (filters @ self.mean).repeat(2)  # the mirror image of a filter is for mirrored patches
        filters = filters.reshape(-1, channels, size, size)
        self.filters = torch.cat([filters, filters.flip(-1)])  # (2·count, channels, size, size)
        places = torch.arange(16 * count, device=device).reshape(2, 2, count, 2, 2)  # sign, mirrored, patch, quarters
        self.mirror = places.flip(1).flip(-1).flatten()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, 16·count) of images x (n, channels, height, width) in bytes."""
        return torch.cat([self._some(part) for part in x.split(_FEW if x.device.type == "cpu" else _BATCH)])

    def _some(self, x: Tensor) -> Tensor:
        """As convolutions: a filter freed of its mean does not see that of a patch, whose contrast is a factor."""
        x, d = x.float() / 255, self.filters[0].numel()
        responses = nnf.conv2d(x, self.filters - self.filters.mean((1, 2, 3), keepdim=True))  # (n, 2·count, h, w)
        mean, square = (
            nnf.avg_pool2d(v.mean(1, keepdim=True), self.size, stride=1) for v in (x, x.square())
        )  # over a patch, (n, 1, h, w)
        responses *= _over_contrast((square - mean.square()).clamp(min=0) * d / (d - 1))
        shift = self.shift[:, None, None]
        both = (responses - (shift + self.bias)).relu_(), (shift - self.bias - responses).relu_()
        return torch.cat([nnf.adaptive_avg_pool2d(sign, 2) for sign in both], 1).flatten(1).sqrt()


def _over_contrast(variance: Tensor) -> Tensor:
    return (variance + 10 / 255**2).rsqrt()


def _contrast(patches: Tensor) -> Tensor:
    """Each patch (…, d) with mean 0 and standard deviation about 1; flat ones stay near 0."""
    patches = patches - patches.mean(-1, keepdim=True)
    return patches * _over_contrast(patches.var(-1, keepdim=True))
