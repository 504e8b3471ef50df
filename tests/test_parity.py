"""Images by parity: preprocessing, draws without overlap, what is said the layout of an image."""

import numpy as np
import pytest
import torch

from lazylib.problems import Images, halved, parity
from lazylib.problems import classes as module
from lazylib.problems.images import read


@pytest.fixture
def made(monkeypatch):
    """A hundred images of five pixels, the last pixel telling which image it is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 5)).astype(np.uint8)
    images[:, 4] = np.arange(100)
    labels = np.arange(100) % 10
    x, y = torch.from_numpy(images)[:, None, None], torch.from_numpy(labels)
    found = Images("made", x[:80], y[:80], x[80:], y[80:], (0.5,), (0.25,))
    monkeypatch.setattr("lazylib.problems.images.read", lambda name: found)
    monkeypatch.setattr("lazylib.problems.images.where", lambda name: None)
    forget()
    yield images, labels
    forget()


def forget():
    for kept in (module._whole, module._components):
        kept.cache_clear()


def test_images_have_norm_root_d_and_lose_the_mean_of_the_training_images(made):
    images, labels = made
    problem = parity("fashion", 30, 50, dtype=torch.float64)
    x, y = torch.cat([problem.x, problem.x_test]), torch.cat([problem.y, problem.y_test])
    assert torch.allclose(x.norm(dim=1), torch.full((80,), 5**0.5, dtype=torch.float64))
    expected = images - images[:80].mean(0)
    expected *= 5**0.5 / np.linalg.norm(expected, axis=1, keepdims=True)
    nearest = np.abs(x.numpy()[:, None] - expected[None]).max(2)
    found = nearest.argmin(1)
    assert nearest.min(1).max() < 1e-12 and len(set(found)) == 80  # no image twice
    assert (y.numpy() == np.where(labels[found] % 2 == 0, 1, -1)).all()


def test_a_seed_fixes_the_draw(made):
    a, b, c = (parity("fashion", 30, 50, seed) for seed in (0, 0, 1))
    assert torch.equal(a.x, b.x) and not torch.equal(a.x, c.x)


def test_principal_components_have_unit_variance(made):
    images, _ = made
    problem = parity("fashion", 60, 40, components=2, dtype=torch.float64)
    assert problem.x.shape == (60, 2) and torch.allclose(problem.x.norm(dim=1), torch.full((60,), 2**0.5).double())
    centred = images[:80] - images[:80].mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / 80)
    scores = (images - images[:80].mean(0)) @ vectors[:, -2:] / np.sqrt(values[-2:])
    angles = np.abs(scores) / np.linalg.norm(scores, axis=1, keepdims=True) * 2**0.5
    x = torch.cat([problem.x, problem.x_test]).abs().numpy()
    assert np.abs(x[:, None] - angles[None]).max(2).min(1).max() < 1e-4


def test_error_counts_wrong_signs(made):
    problem = parity("fashion", 30, 50)
    assert float(problem.error(problem.y_test)) == 0 and float(problem.error(-problem.y_test)) == 1
    assert problem.error(torch.zeros(3, 50)).tolist() == [1, 1, 1]


def test_an_image_keeps_its_layout():
    """A row is channels, rows, columns: what a convolution takes it for."""
    whole = read("fashion sample")
    problem = parity("fashion sample", 20, 1, dtype=torch.float64)
    mean = whole.x.double().mean(0)
    for row in problem.x:
        others = torch.cat([whole.x, whole.x_test]).double() - mean
        cosine = (others.flatten(1) @ row) / others.flatten(1).norm(dim=1) / row.norm()
        assert cosine.max() > 1 - 1e-12


def test_colours_come_one_after_the_other(cifar10):
    whole = read("cifar10")
    row = parity("cifar10", 1, 1, dtype=torch.float64).x[0].view(3, 32, 32)
    others = torch.cat([whole.x, whole.x_test])[:, 1].double() - whole.x[:, 1].double().mean(0)  # green alone
    cosine = (others.flatten(1) @ row[1].flatten()) / others.flatten(1).norm(dim=1) / row[1].norm()
    assert cosine.max() > 1 - 1e-12


def test_the_digits_need_no_download():
    problem = parity("digits", 1000, 797)
    assert problem.x.shape == (1000, 64) and abs(float(problem.y.mean())) < 0.1


def test_more_than_the_sample_holds_names_the_whole_set():
    with pytest.raises(ValueError, match=r"at most 10000, .* or take the whole set, 'fashion', got 10001\."):
        parity("fashion sample", 5001, 5000)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(name="imagenet"), "name must be one of fashion sample, fashion, cifar10, digits, got 'imagenet'"),
        (dict(n=0), "n must be a whole number ≥ 1"),
        (dict(n=60), "n \\+ n_test must be at most 100"),
        (dict(components=6), "components must lie between 1 and 5"),
    ],
)
def test_bad_input_gets_one_sentence(made, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        parity(**{"name": "fashion", "n": 10, "n_test": 50, **wrong})


def test_halved_images_are_means_of_four_pixels_of_one_colour():
    x = torch.randn(5, 3 * 6 * 6, dtype=torch.float64)
    blocks = x.view(5, 3, 3, 2, 3, 2)
    means = blocks.mean((3, 5)).flatten(1)
    expected = means / means.norm(dim=1, keepdim=True) * 27**0.5
    torch.testing.assert_close(halved(x, 3, 6), expected)
    scrambled = x.view(5, 36, 3).mT.flatten(1)  # colours last taken for colours first
    assert not torch.allclose(halved(scrambled, 3, 6), expected, atol=0.1)


@pytest.mark.parametrize(("colours", "side"), [(3, 4), (1, 5)])
def test_halved_images_must_be_of_that_size(colours, side):
    with pytest.raises(ValueError, match=r"^x must be .* even number of pixels a side, got \(2, 25\)\.$"):
        halved(torch.zeros(2, 25), colours, side)
