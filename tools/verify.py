"""Run the book again and say whether its ledger comes out as it was committed.

python -m tools.verify --into DIR [NAME …]    `make verify` runs it in an environment of its own

The reference is what the committed notebooks show: the lines of `ledger.judge`. The other side are the records of this
run. A claim is reproduced if verdict and answers are equal and its numbers are as close as two kinds of processor give
them (tools/close.py). The status is 0 if every claim that was asked for is, else 1; the last line says what differs.

DIR gets report.md and verify.json, the executed notebooks, the records, ro-crate-metadata.json, .zenodo.json, and a
codecheck.yml in which a codechecker has still to put name, report and certificate: nobody has given any.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import psutil
from packaging.requirements import Requirement

from lazylib.book import ledger
from lazylib.book.claims import ANSWERS, VERDICTS, claims
from lazylib.book.provenance import provenance
from tools.close import close
from tools.crate import citation, codecheck, crate, sha256, write_zenodo
from tools.execute import CODE, choose, cost_of, execute_changed, interrupted
from tools.pages import ROOT, chapters, notebooks

HEAD = re.compile(rf"([A-Z]\d+) ({'|'.join(VERDICTS)})(?:: (.*?))?(?:; paper: .*)?")  # a line of ledger.judge
ANSWER = dict(zip(ledger.MARKS.values(), ANSWERS, strict=True))
COMMENTS = {  # of the files of the bundle, by name or kind
    "report.md": "both sides, claim by claim",
    "verify.json": "the same, with versions and digests",
    ".ipynb": "an executed notebook",
    ".json": "a record: of a claim, or of what a notebook took",
}


class Said(NamedTuple):
    """What is said of a claim: verdict, why, and limb → (answer, what was measured)."""

    verdict: str
    detail: str
    limbs: dict[str, tuple[str, str]]


def committed(notebook: Path) -> dict[str, Said]:
    """Claim → what the notebook's outputs say of it; of a stored run that is shown after the live one nothing."""
    found: dict[str, Said] = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            now = None
            for line in output.text.splitlines() if output.output_type == "stream" else ():
                if head := HEAD.fullmatch(line):
                    now = Said(head[2], head[3] or "", {})
                    found.setdefault(head[1], now)
                    rules = claims()[head[1]]["limbs"] if head[1] in claims() else {}
                elif now and line[:2] == "  " and line[2:3] in ANSWER:
                    now.limbs.update(_limb(line, rules))
                else:
                    now = None
    return found


def _limb(line: str, rules: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    for name, rule in rules.items():
        says = f"{rule['says']}{' (more than is claimed)' if rule.get('beyond') else ''}: "
        if line[4:].startswith(says):
            asked = f"; asked {bounds}" if (bounds := ledger.asked_for(rule)) else ""
            return {name: (ANSWER[line[2]], line[4 + len(says) :].removesuffix(asked))}
    return {line[4:].split(":")[0]: (ANSWER[line[2]], line)}  # a limb that the rules have no more


def recorded(row: Mapping[str, Any]) -> Said | None:
    """What this run's record says of the claim of a row of `ledger.table`; None where there is none."""
    if (record := row["live"]) is None:
        return None
    limbs = {n: (limb["answer"], ledger.measured(row["id"], limb["cases"])) for n, limb in record["limbs"].items()}
    return Said(record["verdict"], record["detail"], limbs)


def differences(old: Said | None, new: Said | None) -> dict[str, str]:
    """What is not the same: "verdict", "reason" or a limb → now and then, in words. Nothing if all is."""
    if old is None or new is None:
        return {"verdict": "not in the committed outputs" if old is None else "not judged in this run"}
    found = {}
    if old.verdict != new.verdict:
        found["verdict"] = f"{new.verdict}{f' ({new.detail})' if new.detail else ''}, committed {old.verdict}"
    elif not close(new.detail, old.detail):
        found["reason"] = f"{new.detail or 'none'}, committed {old.detail or 'none'}"
    for name in dict.fromkeys([*old.limbs, *new.limbs]):
        (was, text), (answer, measured) = (said.limbs.get(name, ("missing", "–")) for said in (old, new))
        if answer != was or not close(measured, text):
            found[name] = f"{answer}, {measured}; committed {was}, {text}"
    return found


def compare(chosen: list[Path]) -> list[dict[str, Any]]:
    """For each claim of the ledger both sides and their differences; `reproduced` is None if it was not asked for."""
    said = {id: each for path in chosen for id, each in committed(path).items()}
    asked, rows = {path.stem for path in chosen}, []
    for row in ledger.table("laptop"):
        old, new = said.get(row["id"]), recorded(row)
        differ = differences(old, new) if row["chapter"] in asked else {}
        found = {"reproduced": not differ if row["chapter"] in asked else None, "differences": differ}
        sides = {"committed": old and _plain(old), "now": new and _plain(new)}
        rows.append({name: row[name] for name in ("id", "chapter", "statement")} | found | sides)
    return rows


def _plain(said: Said) -> dict[str, Any]:
    limbs = {name: {"answer": answer, "measured": text} for name, (answer, text) in said.limbs.items()}
    return {"verdict": said.verdict, "detail": said.detail, "limbs": limbs}


def outcome(rows: list[dict[str, Any]], failed: Mapping[str, str]) -> str:
    """The result in one line, which begins with "Reproduced" only if all that was asked for is."""
    asked = [row for row in rows if row["reproduced"] is not None]
    wrong = [f"{row['id']} ({', '.join(row['differences'])})" for row in asked if not row["reproduced"]]
    wrong += [f"{name} failed" for name in failed]
    rest = f"; {len(rows) - len(asked)} more claims were not asked for" if len(asked) < len(rows) else ""
    if wrong or not asked:
        return f"Not reproduced: {', '.join(wrong) or 'no claim was asked for'}{rest}"
    return f"Reproduced: {len(asked)} of {len(rows)} claims, verdicts, answers and numbers{rest}"


def environment(root: Path) -> dict[str, Any]:
    """Versions, hardware, and in what the installed packages are not those of the lock."""
    packages = {each.name: each.version for each in importlib.metadata.distributions()}
    lock = (root / "requirements.lock").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in re.findall(r"^([\w.-]+==[^\\#\n]+)", lock, re.MULTILINE)]
    known = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in packages.items()}
    return {
        "system": platform.platform(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **provenance(),
        "packages": dict(sorted(packages.items())),
        "not_as_locked": [
            f"{each.name}: {found or 'missing'}, locked {each.specifier}"
            for each in locked
            if (each.marker is None or each.marker.evaluate())
            and not each.specifier.contains(found := known.get(each.name, ""), prereleases=True)
        ],
    }


def report(result: Mapping[str, Any]) -> str:
    """The result as a page of Markdown."""
    where, rows = result["environment"], result["claims"]
    lines = ["# The ledger, run again", "", f"**{result['outcome']}.**", ""]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines += [f"- {where['device']}; {where['memory_gib']} GiB; {where['system']}; {versions}"]
    lines += [f"- packages that are not as locked: {'; '.join(where['not_as_locked']) or 'none'}"]
    lines += [f"- commit {where['code']['commit']}, lazylib {where['code']['lazylib']}; {result['started']}"]
    lines += ["- digests: of the sources in verify.json, of all files here in ro-crate-metadata.json"]
    lines += [f"- {name} failed: {reason}" for name, reason in result["failed"].items()]
    lines += ["", "| chapter | seconds | peak memory, MiB |", "|---|---|---|"]
    lines += [f"| {name} | {cost['seconds']} | {cost['peak_mib']} |" for name, cost in result["costs"].items()]
    for row in (row for row in rows if row["reproduced"] is not None):
        old, new = (row[side] or {"verdict": "–", "limbs": {}} for side in ("committed", "now"))
        lines += ["", f"## {row['id']} {'reproduced' if row['reproduced'] else 'NOT reproduced'}", ""]
        lines += [row["statement"], "", "| | committed | now | |", "|---|---|---|---|"]
        for name in dict.fromkeys(["verdict", *old["limbs"], *new["limbs"]]):
            sides = (_cell(side, name) for side in (old, new))
            lines.append(f"| {name} | {' | '.join(sides)} | {'**differs**' if name in row['differences'] else '✓'} |")
        lines += [f"\n- {name}: {text}" for name, text in row["differences"].items()]
    rest = ", ".join(row["id"] for row in rows if row["reproduced"] is None)
    return "\n".join([*lines, "", f"Not asked for: {rest or 'none'}.", ""])


def _cell(side: Mapping[str, Any], name: str) -> str:
    limb = {"answer": side["verdict"], "measured": ""} if name == "verdict" else side["limbs"].get(name)
    return f"{limb['answer']} {limb['measured']}".strip().replace("|", "\\|") if limb else "–"


def verify(chosen: list[Path], into: Path, root: Path) -> dict[str, Any]:
    """Execute the notebooks into `into`, compare, and write the bundle; returns what verify.json holds."""
    os.environ["LAZYLIB_LEDGER"] = str(into / "ledger")
    os.environ.pop("LAZYLIB_STORE", None)  # cells of earlier sweeps would be read and not computed
    started = datetime.now(UTC).isoformat(timespec="seconds")
    # Before the run, so that these are the sources that made it.
    sources = sorted({*notebooks(root), *(path for pattern in CODE for path in root.glob(pattern))})
    digests = {path.relative_to(root).as_posix(): sha256(path) for path in sources if path.is_file()}
    done = execute_changed(chosen, into / "executed", "laptop", into / "ledger", root)
    rows = compare([path for path in chapters(root) if path in chosen])
    costs = {path.stem: cost_of(into / "executed" / path.relative_to(root)) for path in chosen}
    result = {
        "outcome": (line := outcome(rows, done.failed)),
        "reproduced": line.startswith("Reproduced"),
        "whole_ledger": all(row["reproduced"] is not None for row in rows),
        "started": started,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "failed": done.failed,
        "claims": rows,
        "costs": {name: cost for name, cost in costs.items() if cost},
        "environment": environment(root),
        "sources_sha256": digests,
    }
    (into / "verify.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (into / "report.md").write_text(report(result), encoding="utf-8")
    bundle(into, result)
    return result


def bundle(into: Path, result: Mapping[str, Any]) -> None:
    """codecheck.yml, .zenodo.json and the RO-Crate of a folder that holds a result."""
    work, summary = citation(), f"{result['outcome']}."
    title = f"{work['title']}: run again"
    files = sorted(path for path in into.rglob("*") if {path.name, path.suffix} & COMMENTS.keys())
    comments = {path.relative_to(into).as_posix(): COMMENTS.get(path.name) or COMMENTS[path.suffix] for path in files}
    codecheck(into, summary, result["ended"], comments)
    write_zenodo(into, {"upload_type": "dataset", "title": title, "description": summary})
    program = {"@id": "#book", "@type": "SoftwareApplication", "name": work["title"], "version": work["version"]}
    action = {"@id": "#run", "@type": "CreateAction", "name": "make verify", "description": summary}
    action |= {"startTime": result["started"], "endTime": result["ended"]}
    action |= {"instrument": {"@id": "#book"}, "result": {"@id": "./"}}
    crate(into, title, summary, [*files, into / "codecheck.yml", into / ".zenodo.json"], program, action)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, e.g. 02_trajectories; default: all")
    parser.add_argument("--into", type=Path, required=True, help="folder of the bundle, which must not exist yet")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of _toc.yml; default: this project")
    given = parser.parse_args()
    into, root = given.into.resolve(), given.root.resolve()
    try:
        chosen = choose(given.names, root)
    except ValueError as error:
        parser.error(str(error))
    try:
        into.mkdir(parents=True)
    except FileExistsError:
        parser.error(f"--into must be a folder that does not exist yet, so that nothing old is in it, not {into}")
    try:
        result = verify(chosen, into, root)
    except KeyboardInterrupt:
        return interrupted(f"nothing was compared; what was executed is in {into}.")
    print(f"The bundle: {into}\n{result['outcome']}")
    return 0 if result["reproduced"] else 1


if __name__ == "__main__":
    sys.exit(main())
