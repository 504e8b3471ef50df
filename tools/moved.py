"""How far the measures behind the ledger move from one machine, version or number of threads to another.

python -m tools.moved BASE LABEL=RECORDS …    prints a table, a row for each chapter

BASE and RECORDS are folders of live records: `make notebooks` leaves them in `_build/ledger/laptop`, `make verify` in
`_build/verify/bundle/ledger/laptop`.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lazylib.book.claims import claims
from tools.close import SHARE

ROUNDING = 1e-9  # two numbers below it are both nothing but rounding


def measures(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Limb, as "K2.fall" → its answer, and case → measure as the record has it.

    Raises:
        ValueError: the folder has no record.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"a folder of records is needed, but {folder} has none.")
    return {
        f"{record['id']}.{name}": (limb["answer"], limb["cases"])
        for record in records
        for name, limb in record["limbs"].items()
    }


def move(base: Any, other: Any) -> float:
    """The change of a measure over its size: the largest of the number, or of an estimate and the ends of its interval.

    0 for truths that agree and for rounding, infinite for measures of different kinds or truths that differ.

    Example:
        >>> from tools.moved import move
        >>> move({"value": 1.0, "low": -2.0, "high": 4.0}, {"value": 1.5, "low": -2.0, "high": 4.0})
        0.125
    """
    old, new = list(_numbers(base)), list(_numbers(other))
    if not old or len(old) != len(new):
        return 0.0 if base == other else math.inf
    if max(map(abs, old + new)) < ROUNDING:
        return 0.0
    far = max(0.0 if a == b else abs(a - b) for a, b in zip(old, new, strict=True))
    return far / max(map(abs, old)) if any(old) else math.inf


def _numbers(measure: Any) -> Iterator[float]:
    if isinstance(measure, dict):
        yield from (float(measure[name]) for name in ("value", "low", "high") if measure.get(name) is not None)
    elif isinstance(measure, (int, float)) and not isinstance(measure, bool):
        yield float(measure)


def moves(base: Path, other: Path) -> dict[str, tuple[float, str]]:
    """Limb → its largest move over all cases, and "yes → open" where the answer is another; limbs that both have."""
    old, new, found = measures(base), measures(other), {}
    for name in old.keys() & new.keys():
        (was, before), (answer, after) = old[name], new[name]
        far = math.inf if before.keys() != after.keys() else max(move(before[case], after[case]) for case in before)
        found[name] = far, "" if was == answer else f"{was} → {answer}"
    return found


def table(base: Path, others: dict[str, Path]) -> str:
    """A table in Markdown: for each chapter and label how many limbs move, the farthest of them, and other answers."""
    chapter = {f"{id}.{name}": claim["chapter"] for id, claim in claims().items() for name in claim["limbs"]}
    found = {label: moves(base, folder) for label, folder in others.items()}
    lines = [f"| chapter | limbs | {' | '.join(others)} |", "|---|---|" + "---|" * len(others)]
    for name in dict.fromkeys(chapter.values()):
        own = {label: {k: v for k, v in each.items() if chapter.get(k) == name} for label, each in found.items()}
        if count := max(map(len, own.values())):
            lines.append(f"| {name} | {count} | {' | '.join(map(_cell, own.values()))} |")
    return "\n".join(lines)


def _cell(limbs: dict[str, tuple[float, str]]) -> str:
    if not limbs:
        return "–"
    far = sorted(((size, name) for name, (size, _) in limbs.items() if size > SHARE), reverse=True)
    largest, name = max((size, name) for name, (size, _) in limbs.items())
    words = f"at most {100 * largest:.2g} % ({name})" if largest else "equal"
    if far:
        shown = ", ".join(f"{name} {'another' if math.isinf(size) else f'{100 * size:.0f} %'}" for size, name in far)
        words = f"{len(far)} by more than {100 * SHARE:.0f} %: {shown}"
    others = "; ".join(f"{name} {change}" for name, (_, change) in sorted(limbs.items()) if change)
    return f"{words}{f'; answers: {others}' if others else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, metavar="BASE", help="folder of records")
    parser.add_argument("others", nargs="+", metavar="LABEL=RECORDS", help="folders of other runs, each with a name")
    given = parser.parse_args()
    if wrong := [each for each in given.others if "=" not in each]:
        parser.error(f"other runs must be given as LABEL=RECORDS, not {wrong[0]}")
    try:
        print(table(given.base, {label: Path(at) for label, _, at in (each.partition("=") for each in given.others)}))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
