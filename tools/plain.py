"""Run the code of a chapter in this process: no Jupyter, no papermill.

python -m tools.plain NAME [--preset P]

Nothing is shown but what the cells print. Results go where the chapter keeps them, cells of sweeps to LAZYLIB_STORE,
and LAZYLIB_MINUTES ends a run between two of them. Exits with 0 when the chapter is done, 75 if it paused.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MORE = 75  # os.EX_TEMPFAIL, which Windows has not


def run(path: Path, preset: str) -> None:
    """Execute the code cells in order, in one namespace; what a cell raises is raised here."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace = {"__name__": "__main__", "In": [""]}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            sources = ["".join(cell["source"])]
            if "parameters" in cell["metadata"].get("tags", []):
                sources.append(f"# Parameters\npreset = {preset!r}")
            for source in sources:
                namespace["In"].append(source)
                exec(compile(source, f"{path.name}[{number}]", "exec"), namespace)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="chapter, e.g. 07_cifar_gap")
    parser.add_argument("--preset", default="laptop", help="one of the chapter's presets (default: laptop)")
    given = parser.parse_args()
    path = ROOT / "chapters" / f"{given.name}.ipynb"
    if not path.exists():
        known = ", ".join(sorted(each.stem for each in path.parent.glob("[0-9]*.ipynb")))
        parser.error(f"no such chapter: {given.name}; there are {known}")
    os.environ["MPLBACKEND"] = "agg"
    os.chdir(path.parent)
    from lazylib.runs import Paused  # after the backend is chosen

    try:
        run(path, given.preset)
    except Paused as paused:
        print(f"paused: {paused}")
        return MORE
    return 0


if __name__ == "__main__":
    sys.exit(main())
