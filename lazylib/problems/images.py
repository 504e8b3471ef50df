"""Image sets, held whole on the device as bytes; the one reader of their files.

    read("fashion sample")   10 000 images of Fashion-MNIST that come with this package
    read("fashion")          Fashion-MNIST, 60 000 + 10 000 images
    read("cifar10")          CIFAR-10, 50 000 + 10 000 images
    read("digits")           scikit-learn's 1 797 digits of 8 × 8 pixels, which have no split of their own

Files are looked for in the folder that the environment variable LAZYLIB_DATA names, then in ~/.cache/lazylib,
packed or unpacked, and Fashion-MNIST also where Debian's package dataset-fashion-mnist puts it. What is nowhere is
loaded into the first of these folders, unless LAZYLIB_OFFLINE is set. Checksums of the pixels are compared
on every reading, nothing that is found is ever overwritten, and no code that a file might hold is run.
"""

import codecs
import functools
import gzip
import hashlib
import io
import lzma
import os
import pickle
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from ..runs.rng import generator

HERE = Path(__file__).parent / "data"  # what comes with the package
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
TIMEOUT = 20.0  # seconds that a download may stay silent
Parts = tuple[Tensor, Tensor, Tensor, Tensor]  # x, y, x_test, y_test


class DataMissing(OSError):
    """The data of `parity` are neither on disk nor to be had; the message says where they were looked for."""


@dataclass(frozen=True)
class Images:
    """Images in classes, as bytes; all tensors on one device.

    Attributes:
        name: of the set.
        x, x_test: (n, c, h, w), bytes.
        y, y_test: class numbers, (n,).
        mean, std: of each channel, for bytes/255, as `normalize` uses them.

    Example:
        >>> import torch
        >>> from lazylib.problems import Images
        >>> x, y = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), torch.tensor([0])
        >>> Images("made", x, y, x, y, mean=(0.5,), std=(0.25,)).normalize(x).unique()
        tensor([2.])
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
        return int(torch.cat([self.y, self.y_test]).max()) + 1

    def normalize(self, x: Tensor) -> Tensor:
        """Bytes (n, c, h, w) → float32 (x/255 − mean)/std per channel, in torch's channels-last layout."""
        mean, std = (_per_channel(tuple(values), x.device) for values in (self.mean, self.std))  # (c, 1, 1)
        return ((x.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def take(self, n: int, n_test: int) -> "Images":
        """The first n training and n_test test images. Raises ValueError where there are not so many."""
        for label, wanted, there in (("training", n, len(self.x)), ("test", n_test, len(self.x_test))):
            if not 1 <= wanted <= there:
                raise ValueError(
                    f"{self.name} has {there} {label} images, so that many at most and one at least "
                    f"can be taken, not {wanted}."
                )
        return replace(self, x=self.x[:n], y=self.y[:n], x_test=self.x_test[:n_test], y_test=self.y_test[:n_test])

    def to(self, device: str | torch.device) -> "Images":
        moved = {name: getattr(self, name).to(device) for name in ("x", "y", "x_test", "y_test")}
        return replace(self, **moved)


@functools.cache  # a copy to a GPU would wait for all that it is at
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(-1, 1, 1)


def augment(x: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
    """Each image cropped from itself with a black border of 4 pixels, and mirrored or not; all in one batch.

    Args:
        x: bytes, (n, c, h, w).
        shift: whole numbers from 0 to 8, (n, 2), rows then columns; 4 leaves the image in place.
        flip: booleans, (n,).

    Returns:
        Bytes, (n, c, h, w).

    Source: the usual augmentation of CIFAR-10, as in the public code of Chizat, Oyallon, Bach 2019.

    Example:
        >>> import torch
        >>> from lazylib.problems import augment
        >>> x = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
        >>> augment(x, torch.tensor([[4, 5]]), torch.tensor([False]))[0, 0]  # one column on
        tensor([[2, 0],
                [4, 0]], dtype=torch.uint8)
    """
    padded = nnf.pad(x, (4, 4, 4, 4))  # (n, c, h + 8, w + 8)
    windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)  # (n, c, 9, 9, h, w), a view
    rows = torch.arange(len(x), device=x.device)
    cropped = windows[rows, :, shift[:, 0], shift[:, 1]]  # (n, c, h, w)
    return torch.where(flip[:, None, None, None], cropped.flip(-1), cropped)


def random_images(n: int, like: Images, seed: int = 0) -> Tensor:
    """Images of independent uniform bytes.

    Args:
        n: how many.
        like: the images whose shape and device they have.
        seed: of the draw.

    Returns:
        Bytes, (n, c, h, w).

    Example:
        >>> import torch
        >>> from lazylib.problems import Images, random_images
        >>> x, y = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0])
        >>> random_images(5, Images("made", x, y, x, y, (0.5,) * 3, (0.5,) * 3)).shape
        torch.Size([5, 3, 8, 8])
    """
    shape = (n, *like.x.shape[1:])
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator(seed, "random images")).to(like.x.device)


# ---- reading ----


def read(name: str) -> Images:
    """The whole set of this name (see the module's first lines), loaded first where it is not on disk.

    Raises ValueError for an unknown name, and for a damaged file, which it names with what to do; DataMissing
    if there are no data, with the address, the folder and what to do.
    """
    chosen = _set(name)
    place = where(name) or _load(name)
    return Images(chosen.title, *chosen.read(place), chosen.mean, chosen.std)


def where(name: str) -> Path | None:
    """The folder or archive that has all files of a set, None if there is none; nothing is read or loaded.

    Raises ValueError for an unknown name.
    """
    chosen = _set(name)
    return next((place for place in chosen.places() if all(_file(place, file) for file in chosen.files)), None)


def cifar10_or_sample() -> Images:
    """CIFAR-10; where it is not to be had the sample of Fashion-MNIST in its shape, which is said.

    The stand-in is padded to 32 × 32 pixels with black, in three equal channels.

    Returns:
        Images of 3 × 32 × 32 pixels; `name` says which.

    Example:
        >>> from lazylib.problems import cifar10_or_sample
        >>> images = cifar10_or_sample()  # doctest: +SKIP
    """
    try:
        return read("cifar10")
    except DataMissing as missing:
        print(f"{missing}\nThe live part of this page runs on the sample of Fashion-MNIST instead.")
    found = read("fashion sample")
    x, x_test = (nnf.pad(part, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous() for part in (found.x, found.x_test))
    return replace(found, x=x, x_test=x_test, mean=3 * found.mean, std=3 * found.std)


# ---- the sets ----


@dataclass(frozen=True)
class ImageSet:
    """How a set lies on disk and where it comes from.

    files: name → SHA-256 of its content: of the pixels or classes alone, whatever they are packed in.
    addresses: of what is downloaded; they are unpacked into `folder` below the folder of all data.
    """

    title: str
    places: Callable[[], list[Path]]
    read: Callable[[Path], Parts]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: dict[str, str]
    folder: str = ""
    addresses: tuple[str, ...] = ()


def folders() -> list[Path]:
    """Where data sets are looked for, and loaded into the first: LAZYLIB_DATA, if it is set, and the cache."""
    named = [Path(os.environ["LAZYLIB_DATA"]).expanduser()] if os.environ.get("LAZYLIB_DATA") else []
    return [*named, Path.home() / ".cache" / "lazylib"]


def _read_sample(place: Path) -> Parts:
    ((name, digest),) = SAMPLE.items()
    try:
        with lzma.open(place / name) as file:
            rows = np.load(file, allow_pickle=False)  # (10 000, 785): class and pixels
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise _damaged(place / name, error) from None
    _compare(place / name, rows.tobytes(), digest)
    y, x = torch.from_numpy(rows[:, 0]).long(), torch.from_numpy(rows[:, 1:].copy()).view(-1, 1, 28, 28)
    return x[:6000], y[:6000], x[6000:], y[6000:]


def _read_fashion(place: Path) -> Parts:
    """Arrays in MNIST's IDX format: two zeros, type, number of dimensions, big-endian sizes, bytes."""
    parts = []
    for name, digest in FASHION.items():
        path, content = _content(place, name)
        shape = tuple(np.frombuffer(content, ">i4", content[3], 4)) if content[:3] == b"\0\0\x08" else ()
        body = content[4 + 4 * len(shape) :]
        _compare(path, body, digest)
        parts.append(torch.from_numpy(np.frombuffer(body, np.uint8).reshape(shape).copy()))
    x, y, x_test, y_test = parts
    return x[:, None], y.long(), x_test[:, None], y_test.long()


def _read_cifar10(place: Path) -> Parts:
    x, y = [], []
    for name, digest in CIFAR10.items():
        path, content = _content(place, name)
        try:
            batch = _Plain(io.BytesIO(content), encoding="latin1").load()
            data, labels = np.ascontiguousarray(batch["data"]), bytes(batch["labels"])
        except Exception as error:  # of many kinds, by what is damaged
            raise _damaged(path, error) from None
        _compare(path, data.tobytes() + labels, digest)
        x.append(torch.from_numpy(data).view(-1, 3, 32, 32))
        y.append(torch.tensor(list(labels)))
    return torch.cat(x[:5]), torch.cat(y[:5]), x[5], y[5]


def _read_digits(place: Path) -> Parts:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x.astype(np.uint8)).view(-1, 1, 8, 8), torch.from_numpy(y).long()
    return x, y, x[:0], y[:0]


SAMPLE = {"fashion_mnist_sample.npy.xz": "c3b2ef47f061080339eea0b0f5d09c3681f928580d05c45e7e9e7de6684f9489"}
FASHION = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
CIFAR10 = {  # of the pixels and then the classes of each file
    "data_batch_1": "ba52cb2d72c412975d7556bb26bd094956f1c002d1937053f6f1252f2ac17114",
    "data_batch_2": "350ff9000489d02f2568c0dcf4912ffdbae9e50932147905fb1b8159ad54f0ac",
    "data_batch_3": "a2b8653fc457df407af6c38b7e0d1a12530f3b5f81fce9f81516efd065daf722",
    "data_batch_4": "133e6292c377755074c305db8a684d48d5397372cb0aba34f52b4335eab35d97",
    "data_batch_5": "eb08cdc11fd1267ef871cf4790f193684b3f556d13317be68f4eb374a078ea87",
    "test_batch": "9a4c74f5c8b6f2c4e13d3a1dfb43a5a8cda8a9da515e99fd620d2013a1a6287a",
}
FASHION_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SETS = {
    "fashion sample": ImageSet("Fashion-MNIST, sample", lambda: [HERE], _read_sample, (0.2860,), (0.3530,), SAMPLE),
    "fashion": ImageSet(
        "Fashion-MNIST",
        lambda: [*(place for root in folders() for place in (root / "FashionMNIST" / "raw", root)), DEBIAN],
        _read_fashion,
        (0.2860,),
        (0.3530,),
        FASHION,
        "FashionMNIST/raw",
        tuple(f"{FASHION_ADDRESS}{name}.gz" for name in FASHION),
    ),
    "cifar10": ImageSet(
        "CIFAR-10",
        lambda: [
            place
            for root in folders()
            for place in (root / "cifar-10-batches-py", root / "cifar-10-python.tar.gz", root)
        ],
        _read_cifar10,
        (0.4914, 0.4822, 0.4465),  # the mean and standard deviation by which COB's code normalizes
        (0.2023, 0.1994, 0.2010),
        CIFAR10,
        "cifar-10-batches-py",
        ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    ),
    "digits": ImageSet("digits", lambda: [Path(str(files("sklearn")))], _read_digits, (0.0192,), (0.0236,), {}),
}


def _set(name: str) -> ImageSet:
    if name not in SETS:
        raise ValueError(f"an image set must be one of {', '.join(SETS)}, not {name!r}.")
    return SETS[name]


# ---- files ----


class _Plain(pickle.Unpickler):
    """Arrays, lists, dictionaries and numbers, as CIFAR-10's files hold them, and nothing that could run."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        if name in ("_reconstruct", "ndarray", "dtype") and module.split(".")[0] == "numpy":
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _file(place: Path, name: str) -> Path | None:
    """The file that holds `name`: packed or unpacked in a folder, or an archive of the whole set."""
    candidates = [place] if place.name.endswith(".tar.gz") else [place / name, place / f"{name}.gz"]
    return next((path for path in candidates if path.is_file()), None)


def _content(place: Path, name: str) -> tuple[Path, bytes]:
    """The file that holds `name`, and what it holds under it, unpacked."""
    path = _file(place, name)
    if path is None:
        raise FileNotFoundError(f"{place} has no {name}")
    try:
        if path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                member = next((m for m in archive if Path(m.name).name == name and m.isfile()), None)
                file = archive.extractfile(member) if member else None
                return path, file.read() if file else b""
        return path, gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _damaged(path, error) from None


def _compare(path: Path, content: bytes, digest: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise _damaged(path, f"its pixels or classes have the SHA-256 checksum {found}, not {digest}")


def _damaged(path: Path, reason: object) -> ValueError:
    text = " ".join(str(reason).split()).rstrip(".") or type(reason).__name__
    return ValueError(f"{path} is damaged ({text}): remove the file to have it loaded again.")


def _load(name: str) -> Path:
    """Download a set whole or not at all, and never over a file that is there; returns its folder."""
    chosen, root = _set(name), folders()[0]
    target = root / chosen.folder
    do = f"put its files into {target} by hand, or let LAZYLIB_DATA name the folder above {chosen.folder}"
    looked = " or ".join(dict.fromkeys(str(path / chosen.folder) for path in folders()))
    if os.environ.get("LAZYLIB_OFFLINE"):
        raise DataMissing(
            f"{chosen.title} is not in {looked}, and LAZYLIB_OFFLINE forbids to load it "
            f"from {chosen.addresses[0]}: unset LAZYLIB_OFFLINE, or {do}."
        )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    address = chosen.addresses[0]
    try:
        from ._torchvision import torchvision

        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".loading-") as folder:
            for address in chosen.addresses:
                torchvision.datasets.utils.download_url(address, folder)
            _unpack(Path(folder))
            chosen.read(Path(folder))  # compares the checksums
            target.mkdir(parents=True, exist_ok=True)
            for file in chosen.files:
                for path in Path(folder).glob(f"{file}*"):
                    if not _file(target, file):
                        os.replace(path, target / path.name)
    except Exception as error:  # of many kinds: no network, no room, a folder that is read-only
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataMissing(
            f"{chosen.title} is not in {looked} and cannot be loaded from {address} into {root} ({reason}): {do}."
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return target


def _unpack(folder: Path) -> None:
    """Put the files of an archive of a whole set beside it, without the folders that it has them in."""
    for path in folder.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    member.name = Path(member.name).name
                    archive.extract(member, folder, filter="data")
