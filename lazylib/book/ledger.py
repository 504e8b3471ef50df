"""The ledger: what the papers claim, what was measured, in which run and on what hardware, and the verdict.

``chapters/claims.toml`` holds the claims and their rules (`lazylib.book.claims`). A chapter calls `judge` once for each
of its claims; this prints the verdict with a line for each limb, and stores one JSON record,
``<root>/<label>/<claim>.json``: root is the environment variable LAZYLIB_LEDGER or else ``results/ledger``, and the
label of a run is its preset, so a run with changed parameters ("laptop, changed") has a folder of its own. A record has
the digest of lazylib that made it and one of itself, which is compared when it is read. `table` puts
claims, live records and the committed ones of larger runs side by side, weighed by the rules as they stand now;
`lazylib.book.ledger_page` shows it.
"""

import hashlib
import json
import math
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.files import write
from .claims import ANSWERS, VERDICTS, Judgement, claim, claims, file, repository, weigh
from .provenance import provenance
from .stats import Estimate

NOT_RUN = "not run yet"
EARLIER = "judged by earlier rules"  # of a record that the present rules cannot weigh
RECORDS = "results/ledger"
SYMBOLS = dict(zip([*VERDICTS, EARLIER, NOT_RUN], "✓✓≈✗?–––", strict=True))
MARKS = dict(zip(ANSWERS, "✓≈✗?", strict=True))
LARGER = ("paper", "gpu", "cpu")  # labels whose records are committed, the largest first

_run: dict[str, Any] = {"label": "no preset", "parameters": {}, "since": None}
_judged: dict[str, str] = {}


def start(label: str, parameters: dict[str, Any]) -> None:
    """Say in which run and with which parameters the following claims are judged (`parameters.resolve` does)."""
    _run.update(label=label, parameters=parameters, since=time.perf_counter())
    _judged.clear()


def judge(
    id: str,
    measures: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    reached: Any = True,
    fault: str = "diverged or stalled",
    device: str | None = None,
) -> None:
    """Print a claim's verdict by the rules of claims.toml, limb by limb, and record it.

    If any run failed, the claim does not hold, and the line says how many.

    Args:
        id: claim of claims.toml, such as "K2".
        measures: limb → what was measured, as `claims.weigh` takes it; or a function that gives it, called only if
            every run came to its end. Nothing in it may depend on time or machine.
        reached: whether each run came to its end, an array or a list of arrays.
        fault: what runs did that failed, in words.
        device: "cuda…" if a GPU computed this; by default the parameter `device` of the chapter, else the CPU.

    Raises:
        ValueError: in one sentence, for an unknown claim, other limbs than it has, or a measure that is NaN.
    """
    claim(id)
    parts = reached if isinstance(reached, (list, tuple)) else [reached]
    ok = np.concatenate([np.ravel(part) for part in parts]).astype(bool)
    if ok.all():
        found = measures() if callable(measures) else measures
        _give(id, weigh(id, found, _run["parameters"]), "", device)
    else:
        _give(id, Judgement("does not hold", {}), f"{(~ok).sum()} of {ok.size} runs {fault}", device)


def untested(id: str, why: str) -> None:
    """Record that this run could not test a claim, and print why."""
    claim(id)
    _give(id, Judgement("not tested at this scale", {}), why, None)


def lines(id: str, judgement: Judgement, why: str = "") -> str:
    """The verdict with a line for each limb: mark, what it says, what was measured, and what the rule asks."""
    paper = f"; paper: {number(claim(id)['reference'])}" if "reference" in claim(id) else ""
    rules = claim(id)["limbs"]
    told = [f"{id} {judgement.verdict}{f': {why}' if why else ''}{paper}"]
    for name, found in judgement.limbs.items():
        asked = f"; asked {words}" if (words := asked_for(rules[name])) else ""
        beyond = " (more than is claimed)" if rules[name].get("beyond") else ""
        told.append(f"  {MARKS[found.answer]} {rules[name]['says']}{beyond}: {measured(id, found.cases)}{asked}")
    return "\n".join(told)


def asked_for(rule: Mapping[str, Any]) -> str:
    """A limb's bounds in words; nothing for a measure that is yes or no by itself."""
    parts = [bounds(*rule[name]) for name in ("within", "size") if name in rule]
    return f"{parts[0]}, in the size claimed {parts[1]}" if len(parts) > 1 else "".join(parts)


def bounds(low: float, high: float) -> str:
    """A range in words, of which one end may be infinite."""
    if math.isinf(low):
        return f"below {number(high)}"
    return f"above {number(low)}" if math.isinf(high) else f"{number(low)} to {number(high)}"


def measured(id: str, cases: Mapping[str, Any]) -> str:
    """What was measured of one limb, case by case, with the number of independent units if all have the same."""
    told = [f"{case} {_case(value)}".strip() for case, value in cases.items()]
    units = {value.n for value in cases.values() if isinstance(value, Estimate)}
    unit = claim(id).get("unit", "seed")
    n = next(iter(units)) if len(units) == 1 else None
    return ", ".join(told) + (f"; {n} {unit}{'s' * (n > 1)}" if n else "")


def _case(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "open"}[value]
    numbers = [value.value, *(value.ci or ())] if isinstance(value, Estimate) else [value]
    if 0 < max(map(abs, numbers)) < 1e-6:
        return "below 1e−06"  # a machine's rounding is no number
    return value.text(most=4).replace("-", "−") if isinstance(value, Estimate) else number(value)


def number(value: Any) -> str:
    """A number to three digits, or a text as it is, with a true minus."""
    return (f"{value:.3g}" if isinstance(value, float) else str(value)).replace("-", "−")


def _give(id: str, judgement: Judgement, why: str, device: str | None) -> None:
    since, rules = _run["since"], claim(id)["limbs"]
    limbs = {
        name: {
            "answer": found.answer,
            "asked": _plain({key: value for key, value in rules[name].items() if key != "planted"}),
            "cases": {k: _entry(v) for k, v in found.cases.items()},
        }
        for name, found in judgement.limbs.items()
    }
    record = {
        "id": id,
        "verdict": judgement.verdict,
        "limbs": limbs,
        "detail": why,
        "label": _run["label"],
        "parameters": _run["parameters"],
        "seconds": since and round(time.perf_counter() - since, 1),
        **provenance(device or _run["parameters"].get("device")),
    }
    _judged[id] = judgement.verdict
    print(lines(id, judgement, why))
    _store(record)


def _entry(value: Any) -> Any:
    """A measure as JSON: an interval that is not known, or has no end, is null there, and inf a text."""
    if not isinstance(value, Estimate):
        return str(value) if isinstance(value, float) and math.isinf(value) else value
    low, high, detects = (end if math.isfinite(end) else None for end in (value.low, value.high, value.detects()))
    return {"value": value.value, "low": low, "high": high, "n": value.n, "detects": detects}


def _measure(entry: Any) -> Any:
    """The reverse of `_entry`; ValueError for what it does not give."""
    if isinstance(entry, dict):
        numbers = entry.keys() - {"detects"}  # which follows from the others, and which older records have not
        if numbers != {"value", "low", "high", "n"} or type(entry["n"]) is not int or entry["n"] < 1:
            raise ValueError("it is no estimate")
        ends = [math.nan if entry[name] is None else entry[name] for name in ("value", "low", "high")]
        if any(type(end) not in (int, float) for end in ends) or ends[1] > ends[2]:
            raise ValueError("it is no estimate")
        return Estimate(ends[0], ends[1], ends[2], entry["n"])
    return float(entry) if entry in ("inf", "-inf") else entry


def verdict_line(*ids: str) -> str:
    """Markdown with the verdicts of this run, for a chapter's top; claims that were not judged say so.

    Verdicts of larger runs (see `table`) follow where they are other ones.
    """
    verdicts = {id: _judged.get(claim(id)["id"], NOT_RUN) for id in ids}
    text = f"{_badges(verdicts)} (preset: {_run['label']}; [ledger](ledger.ipynb))"
    kept = {id: record for id in ids if (record := larger(id, _run["parameters"]))}
    others = {id: r["verdict"] for id, r in kept.items() if _decided(r) and r["verdict"] != verdicts[id]}
    if not others or _run["label"] in LARGER:
        return text
    return f"{text}. In a larger run ({', '.join(sorted({kept[id]['label'] for id in others}))}): {_badges(others)}"


def _badges(verdicts: dict[str, str]) -> str:
    return " · ".join(f"**{id}** {SYMBOLS[verdict]} {verdict}" for id, verdict in verdicts.items())


def _decided(record: dict) -> bool:
    return record["verdict"] not in ("not tested at this scale", EARLIER)


def larger(id: str, parameters: Mapping[str, Any] | None = None) -> dict | None:
    """The committed record of a claim's largest run, or None.

    parameters: of another run; it must be larger than that in something that the claim's `scale` names, if any, or be
        of the published setting.

    Raises:
        ValueError: in one sentence, if one is not as it was written: a page without it would be wrong.
    """
    found = [_read(repository() / RECORDS / _path(label, id), label, id) for label in LARGER]
    return next((record for record in found if record and _exceeds(record, parameters or {})), None)


def _exceeds(record: dict, other: Mapping[str, Any]) -> bool:
    """Whether a run is larger than another, as `larger` asks; if they share nothing of the scale, it is."""
    own = record["parameters"]
    names = claim(record["id"]).get("scale", {}).keys() & own.keys() & other.keys()
    exceeds = (np.max(own[name]) > np.max(other[name]) for name in names)
    return record["label"] == "paper" or not names or any(exceeds)


def _live(label: str, id: str) -> dict | None:
    """The record of a run that can be made again; one that is not as it was written is warned about, and none."""
    try:
        return _read(_root() / _path(label, id), label, id)
    except ValueError as error:
        warnings.warn(f"{id} counts as not run: {error}", stacklevel=3)
        return None


def table(label: str = "laptop") -> list[dict[str, Any]]:
    """One row per claim, in the order of claims.toml.

    Keys: those of claims.toml (id, work, place, statement, reference, source, deviation, chapter, limbs, …), title (of
    the chapter), link (the chapter's file stem if its notebook exists, else None), live, paper and larger (records, or
    None; larger is paper, or else the largest that is larger than the live one) and verdict: of the larger run, or of
    the live one where that decided nothing; else "not run yet".

    A record has the verdict that the present rules give to its measures, and as `first` the one it was stored with.

    label: of the run whose records are "live", such as "smoke" or "laptop, changed". They are
    read where `judge` writes them, those of larger runs always from ``results/ledger``.

    Raises:
        ValueError: a record of a larger run is damaged; a live one that is counts as not run, with a warning.
    """
    rows = []
    for row in claims().values():
        stem = row["chapter"]
        live = _live(label, row["id"])
        most = larger(row["id"], live["parameters"] if live and label not in LARGER else None)
        found = [record for record in (most, live) if record]
        rows.append(
            {
                "place": "",
                "reference": None,
                "source": "",
                "deviation": "",
                **row,
                "title": file()["chapters"][stem],
                "link": stem if (repository() / f"chapters/{stem}.ipynb").exists() else None,
                "live": live,
                "larger": most,
                "paper": most if most and most["label"] == "paper" else None,
                "verdict": next((r["verdict"] for r in found if _decided(r)), live["verdict"] if live else NOT_RUN),
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """The table in one sentence: how many claims got each verdict."""
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in SYMBOLS}
    parts = ", ".join(f"{n} × {verdict}" for verdict, n in counts.items() if n)
    return f"{len(rows)} claims: {parts}"


def exported(rows: list[dict[str, Any]]) -> str:
    """The rows of `table` as JSON, as `chapters/claims.toml` and the records have them: no NaN, no infinity."""
    return json.dumps(_plain(rows), indent=1, ensure_ascii=False, allow_nan=False, default=_jsonable) + "\n"


def _plain(value: Any) -> Any:
    """As in a record: estimates are dicts, and a bound that is none is null."""
    if isinstance(value, Estimate):
        return _entry(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _root() -> Path:
    return Path(os.environ.get("LAZYLIB_LEDGER") or repository() / RECORDS).expanduser()


def _path(label: str, id: str) -> Path:
    return Path(re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-"), f"{id}.json")


def _store(record: dict) -> None:
    """Write the record, with its digest, whole or not at all."""
    path = _root() / _path(record["label"], record["id"])
    text = _text({**record, "sha256": _digest(record)})
    try:
        write(path, lambda file: file.write_text(text, encoding="utf-8"))
    except OSError as error:
        warnings.warn(
            f"{record['id']} is not recorded: {path.parent} cannot be written ({error.strerror}).", stacklevel=4
        )


def _text(record: dict) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False, default=_jsonable, allow_nan=False) + "\n"


def _digest(record: dict) -> str:
    """SHA-256 of a record's text without this entry."""
    return hashlib.sha256(_text({k: v for k, v in record.items() if k != "sha256"}).encode()).hexdigest()


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _read(path: Path, label: str, id: str) -> dict | None:
    """The record, or None where there is none.

    Raises:
        ValueError: in one sentence, if it is not as `judge` wrote it of this claim in this run.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        problem = _fault(record, label, id) or _weigh_again(record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__})"
    if problem:
        raise ValueError(f"the record {path} {problem}; restore it (git checkout) or remove it.")
    return record


def _weigh_again(record: dict) -> str:
    """Give the record the verdict of the present rules, in place; what is wrong with its measures, or nothing.

    It may lack limbs beyond the claim, on which no verdict depends: they were added later.
    """
    record["first"] = record["verdict"]
    try:
        for limb in record["limbs"].values():
            limb["cases"] = {case: _measure(entry) for case, entry in limb["cases"].items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return "has a measure that is none"
    if not record["limbs"]:
        return ""
    rules, limbs = claim(record["id"])["limbs"], record["limbs"]
    missing = rules.keys() - limbs.keys()
    if limbs.keys() - rules.keys() or not all(rules[name].get("beyond") for name in missing):
        record["verdict"] = EARLIER
        return ""
    measures = dict.fromkeys(missing) | {name: limb["cases"] for name, limb in limbs.items()}
    try:
        judgement = weigh(record["id"], measures, record["parameters"])
    except (TypeError, ValueError):
        return "has a measure that its rule cannot judge"
    record["verdict"] = judgement.verdict
    for name, limb in limbs.items():
        limb["answer"] = judgement.limbs[name].answer
    return ""


def _fault(record: Any, label: str, id: str) -> str:
    """What is wrong with a record; nothing if it is the one that `judge` wrote of this claim in this run."""
    texts = {"verdict", "detail", "label", "device", "date", "sha256"}
    if not isinstance(record, dict) or not record.keys() >= {"id", "limbs", "parameters", "seconds", *texts}:
        return "lacks entries"
    for name, asked in (("id", id), ("label", label)):
        if record[name] != asked:
            return f"is one of {str(record[name])[:20]!r}"
    seconds = record["seconds"]
    fine = all(isinstance(record[name], str) for name in texts)
    fine = fine and isinstance(record["limbs"], dict) and isinstance(record["parameters"], dict)
    fine = fine and (seconds is None or (type(seconds) in (int, float) and 0 <= seconds < math.inf))
    if not fine or record["verdict"] not in (*VERDICTS, EARLIER):
        return "has an entry of the wrong kind"
    return "" if record["sha256"] == _digest(record) else "is not as it was written: its SHA-256 is another"
