"""Images by parity: preprocessing, draws without overlap, what is said where data are missing."""

import gzip

import numpy as np
import pytest
import torch

from lazylib import parity as module
from lazylib.parity import parity


@pytest.fixture
def made(monkeypatch):
    """A hundred images of five pixels, the last pixel telling which image it is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 5)).astype(np.uint8)
    images[:, 4] = np.arange(100)
    labels = np.arange(100) % 10
    monkeypatch.setattr(module, "read", lambda name: (images, labels, 80))
    forget()
    yield images, labels
    forget()


def forget():
    for kept in (module._centred, module._components):
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


def test_the_format_of_fashion_mnist(tmp_path, monkeypatch):
    def write(name, header, values):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(bytes(header) + values.tobytes()))

    train, test = np.random.default_rng(0).integers(0, 256, (2, 3, 784)).astype(np.uint8)
    for part, images in (("train", train), ("t10k", test)):
        write(f"{part}-images-idx3", 16, images)
        write(f"{part}-labels-idx1", 8, np.array([7, 8, 9], np.uint8))
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path))
    images, labels, own = module.read("fashion")
    assert (images == np.concatenate([train, test])).all() and labels.tolist() == [7, 8, 9] * 2 and own == 60_000


def test_missing_data_say_where_they_were_looked_for(tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path))
    monkeypatch.setattr(module, "DEBIAN", tmp_path)
    monkeypatch.setattr("lazylib._torchvision.torchvision.datasets.FashionMNIST", type("FashionMNIST", (), {"__new__": refuse}))
    with pytest.raises(RuntimeError, match=f"(?s){tmp_path}.*LAZYLIB_DATA.*no network"):
        module.read("fashion")


def test_the_digits_need_no_download():
    pytest.importorskip("sklearn")
    problem = parity("digits", 1000, 797)
    assert problem.x.shape == (1000, 64) and abs(float(problem.y.mean())) < 0.1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(name="imagenet"), "name must be one of fashion, cifar10, digits, got 'imagenet'"),
        (dict(n=0), "n must be a whole number ≥ 1"),
        (dict(n=60), "n \\+ n_test must be at most 100"),
        (dict(components=6), "components must lie between 1 and 5"),
    ],
)
def test_bad_input_gets_one_sentence(made, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        parity(**{"name": "fashion", "n": 10, "n_test": 50, **wrong})
