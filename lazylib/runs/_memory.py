"""A batch that cannot fit is refused before work starts."""

from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor


def require_memory(
    needed: int,
    what: str,
    device: torch.device | None = None,
    way_out: str = "use fewer runs at a time or smaller sizes",
) -> None:
    """Raise MemoryError with one sentence if ``needed`` bytes are not free on the device (default: the CPU)."""
    if device is not None and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(f"{what} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; {way_out}.")


def saved_bytes(function: Callable[[Tensor], Any], w: Tensor) -> int:
    """Memory that a forward pass of a function at w leaves for its backward pass: activations, mostly; it is run."""
    seen: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        function(w.detach().requires_grad_())
    return sum(seen.values())
