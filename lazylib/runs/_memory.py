"""A batch that cannot fit is refused before work starts."""

import psutil
import torch


def require_memory(needed: int, what: str, device: torch.device | None = None) -> None:
    """Raise MemoryError with one sentence if ``needed`` bytes are not free on the device (default: the CPU)."""
    if device is not None and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "use fewer runs at a time or smaller sizes."
        )
