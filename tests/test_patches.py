"""Random patches and ridge regression."""

import pytest
import torch

from lazylib.measures import RandomPatches, ridge
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


def score(features, y, fit):
    weights, constant = fit
    return float(((features.double() @ weights + constant).argmax(1) == y).double().mean())


def test_they_tell_apart_what_pixels_cannot(stripes):
    make = RandomPatches(stripes, 20)
    features, test = make(stripes.x), make(stripes.x_test)
    assert features.shape == (400, 160)
    assert score(test, stripes.y_test, ridge(features, stripes.y, 2, 0.1)) > 0.95
    pixels, raw = stripes.x.flatten(1).float(), stripes.x_test.flatten(1).float()
    assert score(raw, stripes.y_test, ridge(pixels, stripes.y, 2, 0.1)) < 0.7


def test_shuffled_labels_cannot_be_predicted(stripes):
    make = RandomPatches(stripes, 20)
    shuffled = stripes.y[torch.randperm(400)]
    assert score(make(stripes.x_test), stripes.y_test, ridge(make(stripes.x), shuffled, 2, 0.1)) < 0.7


@pytest.mark.parametrize("shape", [(50, 20), (20, 50)])
def test_ridge_minimizes_its_objective(shape):
    """Both systems, the one of the features and the one of the images."""
    f, y = torch.randn(shape).double(), torch.randint(3, (shape[0],))
    weights, constant = ridge(f, y, 3, 0.1)
    z = (f - f.mean(0)) / f.std(0)
    v = (weights * f.std(0)[:, None]).requires_grad_()
    targets = torch.nn.functional.one_hot(y, 3).double()
    loss = (z @ v + targets.mean(0) - targets).square().sum() + 0.1 * shape[0] * v.square().sum()
    assert torch.autograd.grad(loss, v)[0].abs().max() < 1e-9
    torch.testing.assert_close(f @ weights + constant, (z @ v + targets.mean(0)).detach())


@pytest.mark.parametrize("arguments", [{"count": 0}, {"count": 5, "size": 17}, {"count": 5, "bias": -1.0}])
def test_bad_arguments_are_refused(stripes, arguments):
    with pytest.raises(ValueError, match="must be"):
        RandomPatches(stripes, **arguments)


def test_a_penalty_must_be_positive():
    with pytest.raises(ValueError, match="penalty must be positive"):
        ridge(torch.randn(4, 2), torch.zeros(4, dtype=torch.long), 2, 0.0)
