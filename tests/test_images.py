"""Image sets: every layout in which they come, what is refused, what is loaded, and augmentation image by image."""

import gzip
import hashlib
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lazylib.problems import DataMissing, Images, augment, cifar10_or_sample, images, random_images
from lazylib.problems._torchvision import torchvision
from lazylib.problems.images import read, where
from tools import sample

DOWNLOAD = "torchvision.datasets.utils.download_url"


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """No data set anywhere, and no network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAZYLIB_DATA", raising=False)
    monkeypatch.delenv("LAZYLIB_OFFLINE", raising=False)
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "debian")

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Both sets in small, as plain files in a folder each, whose checksums the reader is told."""
    rng = np.random.default_rng(0)
    fashion, cifar = tmp_path / "made" / "fashion", tmp_path / "made" / "cifar10"
    fashion.mkdir(parents=True)
    cifar.mkdir()
    for name in images.FASHION:
        n = 12 if name.startswith("train") else 8
        shape = (n, 28, 28) if "images" in name else (n,)
        array = rng.integers(0, 10 if len(shape) == 1 else 256, shape, dtype=np.uint8)
        header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
        (fashion / name).write_bytes(header + array.tobytes())
        monkeypatch.setitem(images.FASHION, name, hashlib.sha256(array.tobytes()).hexdigest())
    for name in images.CIFAR10:
        content = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (cifar / name).write_bytes(pickle.dumps(content, protocol=2))
        digest = hashlib.sha256(content["data"].tobytes() + bytes(range(10))).hexdigest()
        monkeypatch.setitem(images.CIFAR10, name, digest)
    return {"fashion": fashion, "cifar10": cifar}


def packed(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))


def archived(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:gz") as archive:
        archive.add(source, "cifar-10-batches-py")


LAYOUTS = {  # where below the folder of all data, and how the files get there
    "torchvision's folder, plain": ("fashion", "FashionMNIST/raw", shutil.copytree),
    "torchvision's folder, packed": ("fashion", "FashionMNIST/raw", packed),
    "the folder itself, packed": ("fashion", ".", lambda a, b: shutil.copytree(a, b, dirs_exist_ok=True)),
    "torchvision's folder": ("cifar10", "cifar-10-batches-py", shutil.copytree),
    "the archive": ("cifar10", "cifar-10-python.tar.gz", archived),
    "the folder itself": ("cifar10", ".", lambda a, b: shutil.copytree(a, b, dirs_exist_ok=True)),
}


@pytest.mark.parametrize("root", ["LAZYLIB_DATA", "cache"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(made, tmp_path, monkeypatch, layout, root):
    name, folder, put = LAYOUTS[layout]
    place = tmp_path / "data" if root == "LAZYLIB_DATA" else tmp_path / "home" / ".cache" / "lazylib"
    if root == "LAZYLIB_DATA":
        monkeypatch.setenv(root, str(place))
    place.mkdir(parents=True)
    put(made[name], place / folder)
    assert where(name) == place / folder
    found = read(name)
    if name == "cifar10":
        raw = pickle.loads((made[name] / "data_batch_2").read_bytes())
        assert found.x.shape == (50, 3, 32, 32) and found.x_test.shape == (10, 3, 32, 32)
        np.testing.assert_array_equal(found.x[13], raw["data"][3].reshape(3, 32, 32))
        assert found.y[10:20].tolist() == list(range(10)) and found.class_count == 10
    else:
        raw = (made[name] / "train-images-idx3-ubyte").read_bytes()
        labels = (made[name] / "t10k-labels-idx1-ubyte").read_bytes()
        assert found.x.shape == (12, 1, 28, 28) and found.x_test.shape == (8, 1, 28, 28)
        assert found.x[3].numpy().tobytes() == raw[16 + 3 * 784 : 16 + 4 * 784]
        assert found.y_test.tolist() == list(labels[8:])
    assert found.x.dtype == torch.uint8 and found.y.dtype == torch.long


def test_debians_package_is_read(made, tmp_path):
    packed(made["fashion"], tmp_path / "debian")
    assert read("fashion").x.shape == (12, 1, 28, 28) and where("fashion") == tmp_path / "debian"


def test_the_folder_that_is_named_comes_first(made, tmp_path, monkeypatch):
    for root in (tmp_path / "data", tmp_path / "home" / ".cache" / "lazylib"):
        shutil.copytree(made["cifar10"], root / "cifar-10-batches-py")
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    assert where("cifar10") == tmp_path / "data" / "cifar-10-batches-py"


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("harm", ["pixel", "cut", "empty"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_file_is_named_in_one_sentence_and_left_alone(made, tmp_path, monkeypatch, layout, harm):
    name, folder, put = LAYOUTS[layout]
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    put(made[name], tmp_path / "data" / folder)
    place = tmp_path / "data" / folder
    files = [path for path in place.glob("*") if "train-images" in path.name or path.name == "data_batch_3"]
    file = files[0] if files else place  # the archive
    whole = file.read_bytes()
    harmed = {"pixel": flipped(whole, len(whole) // 2), "cut": whole[: len(whole) // 2], "empty": b""}[harm]
    file.write_bytes(harmed)
    with pytest.raises(ValueError) as error:
        read(name)
    text = str(error.value)
    assert text.startswith(f"{file} is damaged (") and text.endswith("remove the file to have it loaded again.")
    assert "\n" not in text
    assert file.read_bytes() == harmed


def test_code_in_a_file_is_not_run(made, tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (made["cifar10"] / "data_batch_1").write_bytes(pickle.dumps(Harm()))
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    shutil.copytree(made["cifar10"], tmp_path / "data" / "cifar-10-batches-py")
    with pytest.raises(ValueError, match=r"data_batch_1 is damaged \(it asks for"):
        read("cifar10")
    assert not (tmp_path / "harm").exists()


def serve(monkeypatch, made, tmp_path, fail=()):
    """Downloads come from the made sets, but for the names in `fail`, which break off half-way."""
    asked = []

    def download(address, folder, *args, **kwargs):
        name = address.rpartition("/")[2]
        asked.append(address)
        if name.endswith(".tar.gz"):
            archived(made["cifar10"], tmp_path / "served.tar.gz")
            content = (tmp_path / "served.tar.gz").read_bytes()
        else:
            content = gzip.compress((made["fashion"] / name.removesuffix(".gz")).read_bytes())
        broken = name in fail
        (Path(folder) / name).write_bytes(content[: len(content) // 2] if broken else content)
        if broken:
            raise OSError("connection lost")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", download)
    return asked


@pytest.mark.parametrize("name", ["fashion", "cifar10"])
def test_what_is_missing_is_loaded_once(made, tmp_path, monkeypatch, name):
    asked = serve(monkeypatch, made, tmp_path)
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    first = read(name)
    assert asked == list(images.SETS[name].addresses) and where(name) == tmp_path / "data" / images.SETS[name].folder
    again = read(name)
    assert len(asked) == len(images.SETS[name].addresses) and again.x.equal(first.x)
    assert not list((tmp_path / "data").glob(".*")), "a temporary folder is left"


@pytest.mark.parametrize("name", ["fashion", "cifar10"])
def test_a_download_that_breaks_off_leaves_nothing_and_says_what_to_do(made, tmp_path, monkeypatch, name):
    last = images.SETS[name].addresses[-1]
    serve(monkeypatch, made, tmp_path, fail=[last.rpartition("/")[2]])
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    with pytest.raises(DataMissing) as error:
        read(name)
    text = str(error.value)
    for part in (last, str(tmp_path / "data"), "LAZYLIB_DATA", "connection lost", "by hand"):
        assert part in text, text
    assert "\n" not in text and not list((tmp_path / "data").rglob("*"))
    serve(monkeypatch, made, tmp_path)
    assert read(name).x.shape[0] in (12, 50)  # and the next one works


def test_what_is_there_is_never_overwritten(made, tmp_path, monkeypatch):
    serve(monkeypatch, made, tmp_path)
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "data"))
    mine = tmp_path / "data" / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")  # the others are missing
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is damaged"):
        read("fashion"), read("fashion")
    assert mine.read_bytes() == b"mine"


def test_a_set_that_is_not_the_real_one_is_not_taken(made, tmp_path, monkeypatch):
    serve(monkeypatch, made, tmp_path)
    monkeypatch.setitem(images.CIFAR10, "test_batch", "0" * 64)
    with pytest.raises(DataMissing, match="checksum"):
        read("cifar10")
    assert where("cifar10") is None


def test_an_archive_that_lacks_a_file_is_not_taken(made, tmp_path, monkeypatch):
    serve(monkeypatch, made, tmp_path)
    (made["cifar10"] / "data_batch_3").unlink()
    with pytest.raises(DataMissing, match="has no data_batch_3"):
        read("cifar10")
    assert where("cifar10") is None


def test_nothing_is_loaded_where_that_is_forbidden(made, tmp_path, monkeypatch):
    asked = serve(monkeypatch, made, tmp_path)
    monkeypatch.setenv("LAZYLIB_OFFLINE", "1")
    with pytest.raises(DataMissing, match="LAZYLIB_OFFLINE forbids"):
        read("cifar10")
    assert not asked


def test_without_data_and_network_one_sentence_says_what_to_do(tmp_path):
    for name, chosen in images.SETS.items():
        if not chosen.addresses:
            continue
        with pytest.raises(DataMissing) as error:
            read(name)
        text = str(error.value)
        for part in (chosen.title, str(tmp_path / "home"), chosen.addresses[0], "LAZYLIB_DATA", "no network"):
            assert part in text, text
        assert "\n" not in text


def test_an_unknown_set_is_refused():
    with pytest.raises(ValueError, match="must be one of fashion sample, .*, not 'imagenet'"):
        read("imagenet")


def test_the_sample_needs_nothing():
    found = read("fashion sample")
    assert found.x.shape == (6000, 1, 28, 28) and found.x_test.shape == (4000, 1, 28, 28)
    for y in (found.y, found.y_test, found.y[:50]):
        assert y.bincount().tolist() == [len(y) // 10] * 10
    assert (images.HERE / "LICENSE").read_text(encoding="utf-8").startswith("The MIT License")
    assert sum(path.stat().st_size for path in images.HERE.iterdir()) < 4e6


def test_the_sample_is_what_its_maker_gives(fashion):
    found = read("fashion sample")
    y = np.concatenate([found.y, found.y_test])
    x = np.concatenate([found.x.flatten(1), found.x_test.flatten(1)])
    np.testing.assert_array_equal(np.column_stack([y.astype(np.uint8), x]), sample.rows())


def test_the_sample_stands_in_for_cifar_and_this_is_said(capsys):
    found, plain = cifar10_or_sample(), read("fashion sample")
    assert "instead" in capsys.readouterr().out
    assert found.name == plain.name and found.x.shape == (6000, 3, 32, 32)
    assert all(found.x[:, c, 2:-2, 2:-2].equal(plain.x[:, 0]) for c in range(3))
    assert found.x.long().sum() == 3 * plain.x.long().sum()  # the border is black
    assert found.normalize(found.x[:10]).shape == (10, 3, 32, 32)


def test_the_real_cifar_has_its_known_sums(cifar10):
    found = read("cifar10")
    assert found.y.bincount().tolist() == [5000] * 10 and found.y_test.bincount().tolist() == [1000] * 10
    mean = found.x.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(found.mean).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["fashion sample", "digits"])
def test_sets_are_normalized_by_their_own_numbers(name):
    found = read(name)
    z = found.normalize(found.x)
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02


def set_of(x):
    return Images(
        "made",
        x,
        torch.zeros(len(x), dtype=torch.long),
        x,
        torch.zeros(len(x), dtype=torch.long),
        (0.5,) * 3,
        (0.25,) * 3,
    )


def test_augmentation_is_pad_crop_and_flip():
    x = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    shift, flip = torch.randint(9, (20, 2)), torch.rand(20) < 0.5
    found = augment(x, shift, flip)
    for image, (row, column), mirrored, got in zip(x, shift.tolist(), flip, found, strict=True):
        big = torch.zeros(3, 40, 40, dtype=torch.uint8)
        big[:, 4:36, 4:36] = image
        wanted = big[:, row : row + 32, column : column + 32]
        assert got.equal(wanted.flip(-1) if mirrored else wanted)
    assert augment(x, torch.full((20, 2), 4), torch.zeros(20, dtype=torch.bool)).equal(x)


def test_normalization_and_shape_of_random_images():
    data = set_of(torch.full((2, 3, 32, 32), 255, dtype=torch.uint8))
    assert data.normalize(data.x).unique().tolist() == [2.0]
    noise = random_images(500, data)
    assert noise.shape == (500, 3, 32, 32) and abs(noise.double().mean() - 127.5) < 0.5


@pytest.mark.parametrize("wanted", [(0, 1), (3, 1), (1, 3)])
def test_more_images_than_there_are_cannot_be_taken(wanted):
    with pytest.raises(ValueError, match="has 2 .* images"):
        set_of(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).take(*wanted)
