"""Every test starts from the same state, touches no record of the project, and leaves nothing behind."""

import os
from unittest import mock

# Before torch is imported: one thread, so that sums have one order everywhere; pictures without a screen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from lazylib.problems import images  # noqa: E402

PLACES = {name: images.where(name) for name in images.SETS}  # before a test hides them


@pytest.fixture(autouse=True)
def _records_in_a_temporary_folder(tmp_path, monkeypatch):
    """A claim that a test checks, itself or in a subprocess, must not land among the measured ones."""
    monkeypatch.setenv("LAZYLIB_LEDGER", str(tmp_path / "ledger"))
    for name in ("LAZYLIB_JOBS", "LAZYLIB_SCHEDULER", "LAZYLIB_STORE"):
        monkeypatch.delenv(name, raising=False)
    with mock.patch.dict(os.environ):  # what a tool sets in this process ends with its test
        yield


@pytest.fixture(autouse=True)
def _same_state_for_every_test():
    """Seeds, deterministic algorithms, one thread; and a test that changes a default of torch fails.

    The default dtype stays float32: a test asks for float64 itself, so that code which forgets to pass the
    dtype on is found.
    """
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    grad = torch.is_grad_enabled()
    yield
    changed = [
        name
        for name, same in (
            ("default dtype", torch.get_default_dtype() == torch.float32),
            ("default device", torch.get_default_device() == torch.device("cpu")),
            ("gradient mode", torch.is_grad_enabled() == grad),
        )
        if not same
    ]
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("cpu")
    torch.set_grad_enabled(grad)
    assert not changed, f"this test, or what it called, changed torch's {' and '.join(changed)} and left it so"


@pytest.fixture
def cifar10(monkeypatch):
    """The real CIFAR-10 is at hand; a test that needs it is skipped where it is not."""
    _at_hand("cifar10", monkeypatch)


@pytest.fixture
def fashion(monkeypatch):
    """The whole Fashion-MNIST is at hand; a test that needs it is skipped where it is not."""
    _at_hand("fashion", monkeypatch)


def _at_hand(name, monkeypatch):
    place = PLACES[name]
    if place is None:
        pytest.skip(f"{images.SETS[name].title} is not on this machine: `make data` loads it")
    monkeypatch.setattr(images, "where", lambda wanted, found=images.where: place if wanted == name else found(wanted))
