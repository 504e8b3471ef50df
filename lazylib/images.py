"""Image sets held whole on the device as bytes: CIFAR-10, Fashion-MNIST, and digits that need no download.

Files are looked for below the environment variable LAZYLIB_DATA, or else ~/.cache/lazylib, in torchvision's
own layout; what is not there is downloaded by torchvision. Checksums are compared on every load, and nothing
that is found is ever overwritten.
"""

import gzip
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from .rng import generator

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
TIMEOUT = 20.0  # seconds that a download may stay silent


class DataMissing(OSError):
    """The data are neither on disk nor to be had; the message says where they were looked for."""


@dataclass(frozen=True)
class Images:
    """Images in classes, as bytes; all tensors on one device.

    x: (n, c, h, w) uint8; y: (n,) class numbers; x_test, y_test likewise; mean, std: of each channel, for
    bytes/255, as `normalize` uses them.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def class_count(self) -> int:
        return int(max(self.y.max(), self.y_test.max())) + 1

    def normalize(self, x: Tensor) -> Tensor:
        """Bytes (n, c, h, w) → float32 (x/255 − mean)/std per channel, in torch's channels-last layout."""
        mean = torch.tensor(self.mean, device=x.device).view(-1, 1, 1)  # (c, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(-1, 1, 1)
        return ((x.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def take(self, n: int, n_test: int) -> "Images":
        """The first n training and n_test test images. Raises ValueError where there are not so many."""
        for label, wanted, there in (("training", n, len(self.x)), ("test", n_test, len(self.x_test))):
            if not 1 <= wanted <= there:
                raise ValueError(
                    f"{self.name} has {there} {label} images, so that many at most and one at least "
                    f"can be taken, not {wanted}."
                )
        return replace(
            self, x=self.x[:n], y=self.y[:n], x_test=self.x_test[:n_test], y_test=self.y_test[:n_test]
        )

    def to(self, device: str | torch.device) -> "Images":
        moved = {name: getattr(self, name).to(device) for name in ("x", "y", "x_test", "y_test")}
        return replace(self, **moved)


def augment(x: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Each image cropped from itself with a black border, and mirrored or not; all in one batch.

    x: (n, c, h, w) bytes; shift: (n, 2) whole numbers from 0 to 2b, rows then columns, where b is the width
    of the border and shift = b leaves the image in place; flip: (n,) booleans. b is 4, as usual for CIFAR-10.
    """
    padded = nnf.pad(x, (4, 4, 4, 4))  # (n, c, h + 8, w + 8)
    windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)  # (n, c, 9, 9, h, w), a view
    rows = torch.arange(len(x), device=x.device)
    cropped = windows[rows, :, shift[:, 0], shift[:, 1]]  # (n, c, h, w)
    return torch.where(flip[:, None, None, None], cropped.flip(-1), cropped)


def random_images(n: int, like: Images, seed: int = 0) -> Tensor:
    """n images of independent uniform bytes, shaped and placed as those of `like`; (n, c, h, w)."""
    shape = (n, *like.x.shape[1:])
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(seed, "random images")).to(
        like.x.device
    )


# ---- the sets ----


def cifar10(root: str | os.PathLike | None = None) -> Images:
    """CIFAR-10 (Krizhevsky 2009): 50 000 + 10 000 colour images of 32×32 pixels in 10 classes.

    root: folder with torchvision's ``cifar-10-batches-py``; default as the module says.
    Raises ValueError, naming file and checksums, if a file is damaged; DataMissing if there are no data.
    """
    from ._torchvision import torchvision

    source = torchvision.datasets.CIFAR10
    root = _root(root)
    folder = root / source.base_folder
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    _present(folder, files, source.url, lambda: source(str(root), download=True))
    train, test = source(str(root), train=True), source(str(root), train=False)
    # the mean and standard deviation by which COB's code normalizes
    return Images(
        "CIFAR-10",
        *_tensors(train.data, train.targets),
        *_tensors(test.data, test.targets),
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    )


def fashion_mnist(root: str | os.PathLike | None = None) -> Images:
    """Fashion-MNIST (Xiao et al. 2017): 60 000 + 10 000 grey images of 28×28 pixels in 10 classes.

    root: folder with torchvision's ``FashionMNIST/raw``; by default also Debian's package is looked at.
    Raises ValueError, naming file and checksums, if a file is damaged; DataMissing if there are no data.
    """
    from ._torchvision import torchvision

    source = torchvision.datasets.FashionMNIST
    folder = _root(root) / "FashionMNIST" / "raw"
    files = source.resources  # (name.gz, md5)
    if root is None and not (folder / files[0][0]).exists() and DEBIAN_FASHION.is_dir():
        # Debian packs the files anew, so that the packed ones have other checksums: gzip has its own.
        folder = DEBIAN_FASHION
    else:
        _present(folder, files, source.mirrors[0], lambda: source(str(_root(root)), download=True))
    parts = [_idx(folder / name) for name, _ in files]
    x, y, x_test, y_test = (torch.from_numpy(part) for part in parts)
    return Images("Fashion-MNIST", x[:, None], y.long(), x_test[:, None], y_test.long(), (0.2860,), (0.3530,))


def digits() -> Images:
    """scikit-learn's 1 797 handwritten digits of 8×8 pixels, enlarged to 32×32 in three equal channels.

    They come with scikit-learn and stand in for CIFAR-10 where there are no data; 1 500 are for training.
    Raises DataMissing where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataMissing(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn."
        ) from None
    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] * 255 / 16  # (n, 1, 8, 8)
    x = (
        nnf.interpolate(small, size=(32, 32), mode="bilinear")
        .clamp(0, 255)
        .to(torch.uint8)
        .expand(-1, 3, -1, -1)
    )
    y = torch.from_numpy(data.target).long()
    order = torch.randperm(len(x), generator=generator(0, "digits"))  # the set goes by writer
    x, y = x[order].contiguous(), y[order]
    return Images("digits", x[:1500], y[:1500], x[1500:], y[1500:], (0.305,) * 3, (0.334,) * 3)


def available() -> Images:
    """CIFAR-10, or the digits where there is neither CIFAR-10 nor a network; which it is, `name` says."""
    try:
        return cifar10()
    except DataMissing as missing:
        print(f"{missing}\nThe live part of this page runs on scikit-learn's digits instead.")
        return digits()


# ---- files ----


def _root(root: str | os.PathLike | None) -> Path:
    return Path(root or os.environ.get("LAZYLIB_DATA") or Path.home() / ".cache" / "lazylib").expanduser()


def _present(folder: Path, files: list, address: str, download: Callable) -> None:
    """Make sure that all files (name, md5) are in the folder and whole, downloading if one is missing."""
    damaged = _damaged(folder, files)
    if damaged is None:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)
        try:
            download()
        except Exception as error:  # of many kinds: no network, no room, a folder that is read-only
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataMissing(
                f"{folder} does not hold the data and {address} cannot be loaded into it ({reason}): "
                "load that file elsewhere and unpack it there, or let LAZYLIB_DATA name the folder "
                f"above {folder.name}."
            ) from None
        finally:
            socket.setdefaulttimeout(before)
        damaged = _damaged(folder, files)
    if damaged:
        raise ValueError(damaged)


def _damaged(folder: Path, files: list) -> str | None:
    """None if a file is missing, "" if all are whole, else a sentence about the first that is not."""
    from ._torchvision import torchvision

    if not all((folder / name).is_file() for name, _ in files):
        return None
    for name, md5 in files:
        found = torchvision.datasets.utils.calculate_md5(str(folder / name))
        if found != md5:
            return (
                f"{folder / name} is damaged: its MD5 checksum must be {md5}, not {found}; "
                "remove the file to have it loaded again."
            )
    return ""


def _tensors(data: np.ndarray, targets: list) -> tuple[Tensor, Tensor]:
    """torchvision's (n, h, w, c) bytes and list of classes as (n, c, h, w) and (n,)."""
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), torch.tensor(targets)


def _idx(path: Path) -> np.ndarray:
    """An array in MNIST's IDX format: two zeros, type, number of dimensions, big-endian sizes, bytes."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged: its gzip checksum or length is wrong ({error}).") from None
    shape = tuple(np.frombuffer(content, ">i4", content[3], 4)) if content[:3] == b"\0\0\x08" else ()
    start = 4 + 4 * len(shape)
    if not shape or len(content) - start != np.prod(shape):
        raise ValueError(f"{path} is damaged: it is no IDX file of bytes with the size that it names.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()
