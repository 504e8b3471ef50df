"""Execute a chapter that takes hours, in pieces; each goes on where the last one paused.

python -m tools.pieces NAME --into DIR [--preset P] [--minutes M] [--pieces N]

A chapter pauses by raising lazylib.runs.Paused after LAZYLIB_MINUTES, as its sweeps do; what it has
reached is on disk, the cells of its sweeps in the folder LAZYLIB_STORE, which is DIR/cells unless set.
Killed at any moment, the same command goes on. Exits with 0 when the chapter is done, 75 if pieces are left.
"""

import argparse
import math
import os
import sys
from pathlib import Path

from tools.execute import ChapterFailed, execute
from tools.pages import ROOT, notebooks

MORE = 75  # os.EX_TEMPFAIL, which Windows has not


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="chapter, e.g. 07_cifar_gap")
    parser.add_argument("--into", type=Path, required=True, help="folder for the executed copy")
    parser.add_argument("--preset", default="paper", help="paper (default), or another of the chapter's presets")
    parser.add_argument("--minutes", type=float, default=8.0, help="length of a piece (default: 8)")
    parser.add_argument("--pieces", type=int, default=0, help="stop after so many pieces (default: when all is done)")
    given = parser.parse_args()
    chosen = {path.stem: path for path in notebooks()}
    if given.name not in chosen:
        parser.error(f"no such chapter: {given.name}; there are {', '.join(chosen)}")
    if not (math.isfinite(given.minutes) and given.minutes > 0):
        parser.error(f"minutes must be positive, not {given.minutes}")
    os.environ["LAZYLIB_MINUTES"] = str(given.minutes)
    os.environ.setdefault("LAZYLIB_STORE", str(given.into.resolve() / "cells"))
    notebook, piece = chosen[given.name], 0
    output = given.into.resolve() / notebook.relative_to(ROOT)
    while True:
        piece += 1
        try:
            cost = execute(notebook, output, given.preset)
        except ChapterFailed as error:
            if "Paused: " not in str(error):
                print(error, file=sys.stderr)
                return 1
            print(f"piece {piece}: {str(error).splitlines()[0].partition('Paused: ')[2]}", flush=True)
            if piece == given.pieces:
                return MORE
        else:
            print(f"piece {piece}: done, {cost['seconds']} s; the page is {output}")
            return 0


if __name__ == "__main__":
    sys.exit(main())
