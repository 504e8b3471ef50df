"""Images in two classes by the parity of their label (GSJW §2.3): y = +1 for even labels, −1 for odd ones."""

from __future__ import annotations

import functools
import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .rng import generator

DATA = ("fashion", "cifar10", "digits")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package dataset-fashion-mnist puts its files


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


def read(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Images as bytes (N, d), labels (N,), and how many of the first images are the set's own training images.

    Files are looked for in the folder LAZYLIB_DATA, and Fashion-MNIST where Debian puts it; else torchvision loads
    them there (default: ~/.cache/lazylib).  The digits are scikit-learn's; they have no split of their own.
    """
    root = Path(os.environ.get("LAZYLIB_DATA", Path.home() / ".cache" / "lazylib"))
    if name == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise ModuleNotFoundError("the digits come with scikit-learn, which is not installed: pip install scikit-learn") from None
        images, labels = load_digits(return_X_y=True)
        return images.astype(np.uint8), labels, len(images)
    if name == "fashion":
        for folder in (root, root / "FashionMNIST" / "raw", DEBIAN):
            files = [folder / f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
            if all(file.exists() for file in files):
                raw = [np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files]
                images = np.concatenate([raw[0][16:], raw[2][16:]]).reshape(-1, 784)  # headers of 16 and 8 bytes
                return images, np.concatenate([raw[1][8:], raw[3][8:]]), 60_000
    from ._torchvision import torchvision

    kind = torchvision.datasets.FashionMNIST if name == "fashion" else torchvision.datasets.CIFAR10
    missing = not (root / ("FashionMNIST" if name == "fashion" else "cifar-10-batches-py")).exists()
    try:
        both = [kind(root, train=train, download=missing) for train in (True, False)]
    except Exception as error:
        raise RuntimeError(f"{kind.__name__} is neither in {root.resolve()} (set LAZYLIB_DATA) nor could it be loaded: {error}") from None
    images = [np.asarray(part.data).reshape(len(part.data), -1) for part in both]
    return np.concatenate(images), np.concatenate([np.asarray(part.targets) for part in both]), len(images[0])


@functools.cache
def _centred(name: str, folder: str | None) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """What ``read`` gives, and the mean of the set's training images (d,); kept for the next draw."""
    images, labels, own = read(name)
    return images, labels, own, images[:own].mean(0)


@functools.cache
def _components(name: str, folder: str | None) -> tuple[Tensor, Tensor]:
    """Variances, increasing, and directions (d, d) of the principal components of the set's training images."""
    images, _, own, mean = _centred(name, folder)
    centred = torch.from_numpy(images[:own].astype(np.float32) - mean.astype(np.float32))
    return torch.linalg.eigh((centred.T @ centred / own).double())


def parity(
    name: str, n: int, n_test: int, seed: int = 0, *, components: int | None = None, dtype=torch.float32, device=None
) -> Classes:
    """n training and n_test other images, drawn without replacement from all of them, in two classes by parity.

    The mean image of the set's training images is removed and every image scaled to norm √d, so that preactivations
    of a net with unit weights have unit variance.

    Args:
        name: "fashion" (Fashion-MNIST), "cifar10" or "digits" (scikit-learn's, 8 × 8).
        seed: of the draw.
        components: keep this many principal components of the set's training images, each with unit variance, first.

    Raises: ValueError for another name, and if there are fewer images or dimensions than asked for.
    """
    if name not in DATA:
        raise ValueError(f"name must be one of {', '.join(DATA)}, got {name!r}.")
    for label, value in (("n", n), ("n_test", n_test)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{label} must be a whole number ≥ 1, got {value!r}.")
    images, labels, _, mean = _centred(name, os.environ.get("LAZYLIB_DATA"))
    if n + n_test > len(images):
        raise ValueError(f"n + n_test must be at most {len(images)}, the images of {name}, got {n + n_test}.")
    chosen = torch.randperm(len(images), generator=generator(seed, "data"))[: n + n_test].numpy()
    x = torch.from_numpy(images[chosen] - mean)  # float64
    if components is not None:
        if not 1 <= components <= images.shape[1]:
            raise ValueError(f"components must lie between 1 and {images.shape[1]}, got {components}.")
        values, vectors = _components(name, os.environ.get("LAZYLIB_DATA"))
        x = x @ vectors[:, -components:] / values[-components:].sqrt()
    x *= x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    y = torch.from_numpy(1.0 - 2.0 * (labels[chosen] % 2))
    x, y = (part.to(dtype=dtype, device=device) for part in (x, y))
    return Classes(x[:n], y[:n], x[n:], y[n:], name)
