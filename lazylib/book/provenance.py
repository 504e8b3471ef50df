"""Where a result comes from: date, device, versions and state of the code, as its record has them."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from typing import Any

from ..runs import cluster
from ..runs.files import PACKAGE, source_digest


def provenance(device: Any = None) -> dict[str, Any]:
    """Date, device, versions and code state of a result made now.

    device: what computed: "cuda…", "auto" (a GPU if there is one), or by default the CPU.
    """
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "code": _code(),
        "device": _device(device),
    }


def _device(device: Any) -> str:
    """Name of the processor that computed, or of the workers' of a cluster."""
    if workers := cluster.used():
        return "Dask workers: " + "; ".join(workers)
    if str(device).startswith(("cuda", "auto")):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(None if device == "auto" else device)
    return cluster.processor()


@lru_cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return found


@lru_cache
def _code() -> dict[str, Any]:
    """State of the code: git commit, whether lazylib differs from it, and a hash of lazylib's sources."""
    state: dict[str, Any] = {"commit": None, "changed": None, "lazylib": source_digest().hex()[:16]}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PACKAGE), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "book/provenance.py")  # else the checkout around it is another project's
        state.update(commit=git("rev-parse", "HEAD"), changed=bool(git("status", "--porcelain", "--", ".")))
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or no checkout: the hash alone identifies the code
    return state
