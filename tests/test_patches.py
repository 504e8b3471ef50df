"""Random patches and ridge regression."""

import pytest
import torch

from lazylib.measures import RandomPatches, choose_penalty, ridge
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


def test_features_are_those_of_the_patches_one_by_one():
    """The formula, patch by patch; the library convolves."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (6, 3, 12, 12), generator=rng, dtype=torch.uint8)
    x[0], x[1] = 250, x[1] // 100  # a flat image, and one of little contrast
    y = torch.zeros(6).long()
    make = RandomPatches(Images("made", x, y, x, y, (0.5,) * 3, (0.25,) * 3), 5, size=5, bias=0.3)
    patches = torch.nn.functional.unfold(x.float() / 255, 5).mT.double()  # (n, places, d)
    patches = patches - patches.mean(2, keepdim=True)
    patches = patches / (patches.var(2, keepdim=True) + 10 / 255**2).sqrt()
    responses = ((patches - make.mean) @ make.filters.double().T).mT.unflatten(2, (8, 8))  # (n, 5, 8, 8)
    both = torch.cat([(responses - 0.3).relu(), (-responses - 0.3).relu()], 1)
    quarters = torch.stack([both[..., i : i + 4, j : j + 4].mean((2, 3)) for i in (0, 4) for j in (0, 4)], 2)
    torch.testing.assert_close(make(x), quarters.flatten(1).float(), atol=1e-5, rtol=1e-4)
    assert float(quarters.max()) > 0.1


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


@pytest.fixture
def noisy():
    """(features, classes): one feature of many tells, and hardly so, and the classes of some rows are wrong."""
    rng, y = torch.Generator().manual_seed(1), torch.arange(200) % 2
    features = torch.randn(200, 100, generator=rng)
    features[:, 0] += 3.0 * y
    return features, torch.where(torch.rand(200, generator=rng) < 0.2, 1 - y, y)


def test_a_penalty_is_chosen_on_rows_that_were_not_fitted(noisy):
    features, y = noisy
    penalties = [1e-8, 0.5]
    fits = [ridge(features[:160], y[:160], 2, penalty) for penalty in penalties]
    held_out = [score(features[160:], y[160:], fit) for fit in fits]
    fitted = [score(features[:160], y[:160], fit) for fit in fits]
    assert held_out[1] > held_out[0] and fitted[0] > fitted[1]  # rows that were fitted mislead
    assert choose_penalty(features, y, 2, penalties) == choose_penalty(features, y, 2, penalties[::-1]) == 0.5


def test_wrong_classes_of_the_held_out_rows_change_the_choice(noisy):
    features, y = noisy
    assert choose_penalty(features, torch.cat([y[:160], 1 - y[160:]]), 2, [1e-8, 0.5]) == 1e-8


def test_of_equal_penalties_the_first_is_chosen(noisy):
    assert choose_penalty(noisy[1][:, None].double(), noisy[1], 2, [0.1, 0.2]) == 0.1


@pytest.mark.parametrize(("rows", "penalties"), [(4, [0.1]), (20, [])])
def test_choosing_a_penalty_needs_rows_and_penalties(noisy, rows, penalties):
    with pytest.raises(ValueError, match="there must be 5 rows"):
        choose_penalty(noisy[0][:rows], noisy[1][:rows], 2, penalties)
