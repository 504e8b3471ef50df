"""A job for tests of tools.visit: a sweep of slow cells, one that fails, or one that does not stop."""

import os
import subprocess
import sys
import time

from lazylib.runs import Paused, sweep


def run(cell, seconds):
    time.sleep(seconds)
    return {"value": float(cell)}


def main() -> int:
    if sys.argv[1] == "deaf":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        print(f"child {child.pid}", flush=True)
        time.sleep(300)
    cells, seconds = int(sys.argv[1]), float(sys.argv[2])
    if not cells:
        raise ValueError("no cells")
    try:
        found = sweep(run, {"cell": range(cells)}, {"seconds": seconds}, store=os.environ["LAZYLIB_STORE"])
    except Paused as paused:
        print(paused)
        return 75
    print(f"{cells} cells, sum {found.value.sum():.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
