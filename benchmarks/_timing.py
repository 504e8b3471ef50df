"""What the benchmarks share."""

import time


def timed(function, *arguments, repeats):
    """The least of a few wall times in seconds, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result
