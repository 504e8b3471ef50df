"""Run the benchmarks and collect the tables that they print.

    python -m tools.bench --into FILE [NAME …]

A benchmark is a script benchmarks/NAME.py that measures and prints a Markdown table (lines that begin with
'|'); it may print anything else, and must exit with a non-zero status if what it measures is
wrong; a machine too slow for an aim is said, not failed.
"""

import argparse
import ast
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from tools.pages import ROOT


def machine() -> str:
    """Where the numbers come from: cores, memory, GPU, and the versions of Python and torch."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    memory = psutil.virtual_memory().total / 2**30
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{psutil.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB{gpu}, {versions}"


def title(script: Path) -> str:
    """The first sentence of the script's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")


def run(script: Path) -> tuple[int, list[str]]:
    """Run a benchmark and show what it prints; returns its exit status and the lines of its tables."""
    process = subprocess.Popen([sys.executable, "-u", str(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    table: list[str] = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("|"):
            table.append(line.rstrip())
        elif table and table[-1]:
            table.append("")  # a blank line ends a table
    return process.wait(), table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; default: all")
    parser.add_argument("--into", type=Path, required=True, help="Markdown file for the tables")
    given = parser.parse_args()
    scripts = [path for path in sorted((ROOT / "benchmarks").glob("[!_]*.py"))]
    chosen = [path for path in scripts if not given.names or path.stem in given.names]
    unknown = set(given.names) - {path.stem for path in chosen}
    if unknown or not chosen:
        parser.error(f"no such benchmark: {sorted(unknown)}; there are {[path.stem for path in scripts]}")
    lines, failed = [], []
    for script in chosen:
        print(f"## {script.stem}", flush=True)
        status, table = run(script)
        lines += [f"*{title(script)}*", "", *table, ""]
        failed += [script.stem] if status else []
    print(f"Measured on {machine()}.")
    if failed:
        print(f"Failed: {', '.join(failed)}. {given.into} is left as it was.", file=sys.stderr)
        return 1
    given.into.parent.mkdir(parents=True, exist_ok=True)
    given.into.write_text("\n".join([*lines, f"Measured on {machine()}."]) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
