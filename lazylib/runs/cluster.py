"""Cells of a sweep on the workers of a Dask cluster, which may come and go."""

from __future__ import annotations

import itertools
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

_used: list[str] = []  # processors of the workers that computed for this process


def used() -> list[str]:
    """The processors of the Dask workers that computed for this process, each once; none without a cluster."""
    return list(dict.fromkeys(_used))


def processor() -> str:
    """Name of this machine's processor, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model()}, {cores} cores"


@lru_cache
def _model() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def minutes_to_wait() -> float:
    """How long to wait for a first worker: LAZYLIB_WAIT in minutes, 10 if that is not set.

    Raises:
        ValueError: it is no positive number.
    """
    given = os.environ.get("LAZYLIB_WAIT") or "10"
    try:
        if (minutes := float(given)) > 0:
            return minutes
    except ValueError:
        pass
    raise ValueError(f"LAZYLIB_WAIT must be a positive number of minutes, got {given[:60]!r}")


@contextmanager
def workers(scheduler: str) -> Iterator[Callable[[Callable, Iterable[tuple]], Iterator[Any]]]:
    """A function (task, arguments) → results as they come, computed by the workers of a scheduler.

    Only as many tasks are under way as keep all workers busy, so that what decides whether another one may begin is
    asked when there is room for it. Tasks of a worker that dies are given to others.

    Args:
        scheduler: its address, tcp://host:port.

    Raises:
        ValueError: it is no address.
        ConnectionError: nothing answers there, or no worker comes within `minutes_to_wait`.
    """
    if not re.fullmatch(r"(tcp|tls|ucx|inproc|ws|wss)://\S+", scheduler):
        raise ValueError(
            f"LAZYLIB_SCHEDULER must be the address of a Dask scheduler, such as tcp://10.0.0.1:8786, "
            f"got {scheduler[:60]!r}"
        )
    minutes = minutes_to_wait()
    from distributed import Client, as_completed

    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(
            "LAZYLIB_SCHEDULER must be the address of a running Dask scheduler, "
            f"tcp://host:port, but none answers at {scheduler!r}: {error}"
        ) from None

    def results(task: Callable, arguments: Iterable[tuple]) -> Iterator[Any]:
        rest = iter(arguments)

        def submit(count: int) -> list:
            return [client.submit(task, *each, pure=False) for each in itertools.islice(rest, count)]

        under_way = as_completed(submit(2 * sum(client.nthreads().values())), loop=client.loop)
        for future in under_way:
            yield future.result()
            for more in submit(1):
                under_way.add(more)

    with client:
        _wait_for_one(client, scheduler, minutes)
        _used.extend(client.run(processor).values())
        yield results


def _wait_for_one(client: Any, scheduler: str, minutes: float) -> None:
    """Wait for a first worker, and say so: under a batch system they may come much later than their scheduler."""
    until = time.monotonic() + 60 * minutes
    if client.nthreads():
        return
    with tqdm(desc=f"waiting for a worker of {scheduler}", bar_format="{desc}, {elapsed}") as progress:
        while not client.nthreads():
            if time.monotonic() > until:
                raise ConnectionError(
                    f"no worker came to the Dask scheduler {scheduler!r} in {minutes:g} minutes: start some, "
                    "or let LAZYLIB_WAIT be the minutes to wait"
                )
            time.sleep(min(1.0, 60 * minutes / 10))
            progress.update()
