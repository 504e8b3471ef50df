"""Random patches, and kernel ridge regression on them."""

import pytest
import torch

from lazylib.measures import MirrorKernelRidge, RandomPatches
from lazylib.problems import Images


@pytest.fixture
def stripes():
    """Two classes that no linear classifier of pixels tells apart: stripes across or along."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(2, (600,), generator=rng)
    phase = torch.randint(4, (600,), generator=rng)
    wave = ((torch.arange(16)[None] + phase[:, None]) // 2 % 2 * 120 + 60).float()  # (n, 16)
    x = torch.where(y[:, None, None] == 0, wave[:, :, None].expand(-1, -1, 16), wave[:, None, :].expand(-1, 16, -1))
    x = (x + 30 * torch.rand(x.shape, generator=rng)).to(torch.uint8)[:, None]
    return Images("stripes", x[:400], y[:400], x[400:], y[400:], (0.5,), (0.25,))


def fitted(make, images, y):
    return MirrorKernelRidge(make(images.x), make.mirror, y, 2, centres=100)


def test_they_tell_apart_what_pixels_cannot(stripes):
    make = RandomPatches(stripes, 20)
    assert make(stripes.x).shape == (400, 320)
    fit = fitted(make, stripes, stripes.y)
    assert (fit(make(stripes.x_test)) == stripes.y_test).double().mean() > 0.95


def test_shuffled_labels_cannot_be_predicted(stripes):
    make = RandomPatches(stripes, 20)
    fit = fitted(make, stripes, stripes.y[torch.randperm(400)])
    assert (fit(make(stripes.x_test)) == stripes.y_test).double().mean() < 0.7


def test_the_mirrored_image_has_the_features_in_another_order(stripes):
    make, x = RandomPatches(stripes, 7), torch.randint(256, (5, 1, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(make(x.flip(-1)), make(x)[:, make.mirror], atol=1e-3, rtol=1e-3)
    assert (make(x.flip(-1)) - make(x)).abs().max() > 0.1


def test_features_are_those_of_the_patches_one_by_one():
    """The formula, patch by patch, of filters and of mirrored patches; the library convolves."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (6, 3, 12, 12), generator=rng, dtype=torch.uint8)
    x[0], x[1] = 250, x[1] // 100  # a flat image, and one of little contrast
    y = torch.zeros(6).long()
    make = RandomPatches(Images("made", x, y, x, y, (0.5,) * 3, (0.25,) * 3), 5, size=5, bias=0.3)

    def responses(images):
        patches = torch.nn.functional.unfold(images.float() / 255, 5).mT.double()  # (n, places, d)
        patches = patches - patches.mean(2, keepdim=True)
        patches = patches / (patches.var(2, keepdim=True) + 10 / 255**2).sqrt()
        return ((patches - make.mean) @ make.filters[:5].flatten(1).double().T).mT.unflatten(2, (8, 8))  # (n, 5, 8, 8)

    found = torch.cat([responses(x), responses(x.flip(-1)).flip(-1)], 1)
    both = torch.cat([(found - 0.3).relu(), (-found - 0.3).relu()], 1)
    quarters = torch.stack([both[..., i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)], 2).sqrt()
    torch.testing.assert_close(make(x), quarters.flatten(1).float(), atol=1e-3, rtol=1e-3)
    assert float(quarters.max()) > 0.3


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 5, "size": 17}, {"count": 5, "bias": -1.0}])
def test_bad_arguments_are_refused(stripes, arguments):
    with pytest.raises(ValueError, match="must be"):
        RandomPatches(stripes, **arguments)
