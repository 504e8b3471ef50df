"""torchvision must import beside any build of torch, and its own operators must win where they load."""

import subprocess
import sys

import pytest

DECLARE_AS_COMPILED = """
import torch
compiled = torch.library.Library("torchvision", "DEF")      # stands for operators that did load
for name in ("nms", "qnms"):
    compiled.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def python(code: str) -> subprocess.CompletedProcess:
    """Run `code` in a fresh interpreter: what is imported here must not help it."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_datasets_transforms_and_models_work():
    done = python(
        "from lazylib.problems._torchvision import torchvision\n"
        "import torch\n"
        "assert torchvision.datasets.CIFAR10 and torchvision.datasets.FashionMNIST\n"
        "flip = torchvision.transforms.RandomHorizontalFlip(p=1.0)\n"
        "x = torch.arange(12.0).reshape(1, 3, 4)\n"
        "assert torch.equal(flip(x), x.flip(-1))\n"
        "net = torchvision.models.vgg11(num_classes=10, weights=None)\n"
        "assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)\n"
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_where_the_operators_are_present():
    done = python(
        DECLARE_AS_COMPILED
        + "def load(path): raise OSError('the stand-in has no further operators')\n"  # real ones would clash with it
        + "torch.ops.load_library = load\n"
        + "import lazylib.problems._torchvision as shim\n"
        + "assert shim._library is None and shim.declare_missing_operators() is None\n"
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_where_the_library_loads():
    done = python(
        "import torch\n"
        "loaded = []\n"
        "def load(path):\n"
        "    if loaded: raise OSError('the stand-in has no further operators')\n"
        "    loaded.append(path)\n"
        "    global compiled\n"
        + "".join(f"    {line}\n" for line in DECLARE_AS_COMPILED.strip().splitlines()[1:])
        + "torch.ops.load_library = load\n"
        + "import lazylib.problems._torchvision as shim\n"
        + "assert shim._library is None and '_C' in loaded[0], loaded\n"
    )
    assert done.returncode == 0, done.stderr


def test_without_the_shim_a_mismatched_torchvision_fails():
    """The reason for the shim: if this ever passes on the pinned versions, the shim can go."""
    probe = python("import lazylib.problems._torchvision as shim; print(shim._library is None)")
    if probe.stdout.strip() == "True":
        pytest.skip("torchvision's compiled operators load here, so there is no mismatch to show")
    done = python("import torchvision")
    assert done.returncode != 0 and "torchvision::nms does not exist" in done.stderr
