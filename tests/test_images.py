"""Image sets: what is read, what is refused, and augmentation against the same done image by image."""

import gzip
import pickle
import struct
from hashlib import md5

import numpy as np
import pytest
import torch

from lazylib import images
from lazylib._torchvision import torchvision
from lazylib.images import DataMissing, Images, augment, cifar10, digits, fashion_mnist, random_images

CIFAR = torchvision.datasets.CIFAR10


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A folder in CIFAR-10's format with ten images a file, whose checksums torchvision is told."""
    folder = tmp_path / CIFAR.base_folder
    folder.mkdir()
    sums = {}
    for name, _ in (*CIFAR.train_list, *CIFAR.test_list):
        rng = np.random.default_rng(len(sums))
        content = {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(c) for c in range(10)]}))
    meta = md5((folder / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR, "train_list", [[name, sums[name]] for name, _ in CIFAR.train_list])
    monkeypatch.setattr(CIFAR, "test_list", [[name, sums[name]] for name, _ in CIFAR.test_list])
    monkeypatch.setattr(CIFAR, "meta", {**CIFAR.meta, "md5": meta})
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_cifar_is_read_as_it_is_stored(small_cifar):
    found = cifar10(small_cifar.parent)
    raw = pickle.loads((small_cifar / "data_batch_2").read_bytes())
    assert (
        found.x.shape == (50, 3, 32, 32)
        and found.x.dtype == torch.uint8
        and found.x_test.shape == (10, 3, 32, 32)
    )
    np.testing.assert_array_equal(found.x[13], raw["data"][3].reshape(3, 32, 32))
    assert found.y[10:20].tolist() == list(range(10)) and found.class_count == 10


def test_a_damaged_file_is_named_with_both_checksums_and_left_alone(small_cifar, no_network):
    file = small_cifar / "data_batch_3"
    whole = file.read_bytes()
    broken = bytes([*whole[:100], whole[100] ^ 1, *whole[101:]])
    file.write_bytes(broken)
    with pytest.raises(ValueError) as error:
        cifar10(small_cifar.parent)
    text = str(error.value)
    assert str(file) in text and md5(whole).hexdigest() in text and md5(broken).hexdigest() in text
    assert "\n" not in text and file.read_bytes() == broken


def test_without_data_and_network_one_sentence_says_what_to_do(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path))
    with pytest.raises(DataMissing) as error:
        cifar10()
    text = str(error.value)
    assert (
        str(tmp_path / CIFAR.base_folder) in text
        and CIFAR.url in text
        and "LAZYLIB_DATA" in text
        and "\n" not in text
    )
    with pytest.raises(DataMissing, match="fashion"):
        fashion_mnist(tmp_path)


def test_then_the_digits_stand_in_and_it_is_said(tmp_path, no_network, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path))
    found = images.available()
    assert found.name == "digits" and "digits instead" in capsys.readouterr().out
    assert found.x.shape == (1500, 3, 32, 32) and found.x_test.shape == (297, 3, 32, 32)
    assert found.y.bincount().min() > 100 and digits().x.equal(found.x)


def test_the_real_cifar_has_its_known_sums(data_folder):
    found = cifar10(data_folder)
    assert found.y.bincount().tolist() == [5000] * 10 and found.y_test.bincount().tolist() == [1000] * 10
    mean = found.x.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(found.mean).double(), atol=1e-4, rtol=0)


def write_idx(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_debians_fashion_mnist_is_read_and_checked(tmp_path, monkeypatch):
    """Its files are packed anew, so their checksums are gzip's own."""
    debian = tmp_path / "debian"
    debian.mkdir()
    x, y = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28), np.array([0, 9, 4], dtype=np.uint8)
    names = [name for name, _ in torchvision.datasets.FashionMNIST.resources]
    for name, array in zip(names, (x, y, x[:2], y[:2])):
        write_idx(debian / name, array)
    monkeypatch.setattr(images, "DEBIAN_FASHION", debian)
    monkeypatch.setenv("LAZYLIB_DATA", str(tmp_path / "empty"))
    found = fashion_mnist()
    assert (
        found.x.shape == (3, 1, 28, 28)
        and found.y.tolist() == [0, 9, 4]
        and found.x_test.shape == (2, 1, 28, 28)
    )
    np.testing.assert_array_equal(found.x[2, 0], x[2])
    packed = (debian / names[0]).read_bytes()
    (debian / names[0]).write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])  # its CRC
    with pytest.raises(ValueError, match=f"{names[0]} is damaged"):
        fashion_mnist()
    assert not (tmp_path / "empty").exists()


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
    for image, (row, column), mirrored, got in zip(x, shift.tolist(), flip, found):
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
