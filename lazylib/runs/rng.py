"""Random streams: one seed a trial, split into named independent streams."""

import contextlib
import zlib
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
import torch

_drawn: ContextVar[set[tuple[str, int]] | None] = ContextVar("drawn", default=None)  # one a thread


def generator(seed: int, stream: str) -> torch.Generator:
    """A CPU generator for the named stream ("teacher", "data", "init", …) of a trial.

    Streams of one seed, and the same stream of two seeds, are statistically independent. Numbers are drawn on the CPU
    whatever the device of the computation, so that a seed means the same everywhere.

    Args:
        seed: of the trial, ≥ 0.
        stream: its name.

    Returns:
        A torch generator at the start of the stream.

    Raises:
        ValueError: a negative seed.

    Example:
        >>> import torch
        >>> from lazylib.runs import generator
        >>> first, again, other = (torch.rand(1, generator=generator(0, s)) for s in ("init", "init", "data"))
        >>> bool(first == again), bool(first == other)
        (True, False)
    """
    if seed < 0:
        raise ValueError(f"a seed must be a whole number ≥ 0, got {seed}.")
    if (drawn := _drawn.get()) is not None:
        drawn.add((stream, int(seed)))
    state = np.random.SeedSequence([seed, zlib.crc32(stream.encode())]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@contextlib.contextmanager
def noted() -> Iterator[set[tuple[str, int]]]:
    """The set, filled in the course of the block, of the streams that this thread asks for, and their seeds."""
    around, drawn = _drawn.get(), set[tuple[str, int]]()
    token = _drawn.set(drawn)
    try:
        yield drawn
    finally:
        _drawn.reset(token)
        if around is not None:
            around |= drawn
