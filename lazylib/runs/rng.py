"""Random streams: one seed a trial, split into named independent streams."""

import zlib

import numpy as np
import torch


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for the named stream ("teacher", "data", "init", …) of a trial.

    Streams of one seed, and the same stream of two seeds, are statistically independent.  Numbers are
    drawn on the CPU whatever the device of the computation, so that a seed means the same everywhere.
    """
    if seed < 0:
        raise ValueError(f"a seed must be a whole number ≥ 0, got {seed}.")
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
