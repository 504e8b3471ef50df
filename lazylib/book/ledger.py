"""The ledger: what the papers claim, what was measured, in which run and on what hardware, and the verdict.

``chapters/claims.toml`` holds the claims. A chapter calls `check` once for each of its claims; this prints
one line and stores one JSON record, ``<root>/<label>/<claim>.json``: root is the environment variable
LAZYLIB_LEDGER or else ``results/ledger``, and the label of a run is its preset, so a run with changed parameters
("laptop, changed") has a folder of its own. `table` and `html` put claims, live records and the committed ones of
larger runs side by side.
"""

import html as _html
import json
import math
import os
import re
import time
import tomllib
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.files import PACKAGE, write
from .provenance import provenance
from .stats import Estimate

VERDICTS = {
    True: "holds",
    False: "does not hold",
    "caveat": "holds with a caveat",
    "undecided": "undecided",
    "not run": "not run at this scale",
}
NOT_RUN = "not run yet"
RECORDS = "results/ledger"
SYMBOLS = dict(zip([*VERDICTS.values(), NOT_RUN], "✓✗≈?––", strict=True))
COLORS = {"holds": "#cdebd8", "holds with a caveat": "#fbe7b2", "does not hold": "#f6cfc4"}
COLUMNS = ("Paper", "Live here", "Larger run")
LARGER = ("paper", "cpu")  # labels whose records are committed, the largest first
# Shows the claims of the chosen work and verdict; a table of which none is left goes too.
FILTER = """<script>
(() => {
  const ledger = document.currentScript.previousElementSibling;
  const [work, verdict] = ledger.querySelectorAll("select");
  const claims = [...ledger.querySelectorAll("tbody")];
  const update = () => {
    for (const claim of claims) {
      const { work: works, verdict: given } = claim.dataset;
      claim.hidden = (work.value && !works.split(" ").includes(work.value))
        || (verdict.value && given !== verdict.value);
    }
    for (const table of ledger.querySelectorAll("table")) {
      table.hidden = [...table.tBodies].every((claim) => claim.hidden);
    }
    const shown = claims.filter((claim) => !claim.hidden).length;
    ledger.querySelector("output").value = `${shown} of ${claims.length} claims`;
  };
  work.addEventListener("change", update);
  verdict.addEventListener("change", update);
})();
</script>"""

_run: dict[str, Any] = {"label": "no preset", "parameters": {}, "since": None}
_checked: dict[str, str] = {}


def start(label: str, parameters: dict[str, Any]) -> None:
    """Say in which run and with which parameters the following checks are made (`parameters.resolve` does)."""
    _run.update(label=label, parameters=parameters, since=time.perf_counter())
    _checked.clear()


def check(
    id: str,
    holds: bool | str,
    value: Any = None,
    ci: Sequence[float] | None = None,
    seeds: int | None = None,
    detail: str = "",
    device: str | None = None,
) -> None:
    """Print a claim's verdict with the measured value, and record it.

    id: claim of claims.toml, such as "K2".
    holds: True, False, "caveat" (holds with a caveat), "undecided" (the interval allows both) or "not run" (not run at
        this scale; needs no value).
    value: number; or a `stats.Estimate`, which brings ci and seeds along; or a short text.
    ci: (low, high) confidence interval; seeds: number of independent runs behind the value.
    detail: a short text, printed after the value. Nothing printed may depend on time or machine.
    device: "cuda…" if a GPU computed this; by default the parameter `device` of the chapter, else the CPU.

    Raises ValueError, in one sentence, for an unknown claim, a verdict that is not among the five and a value
    or interval that is missing or not finite: a claim cannot be judged on NaN.
    """
    claim = _claim(id)
    verdict = _verdict(id, holds)
    if isinstance(value, Estimate):
        value, ci, seeds = value.value, value.ci if ci is None else ci, value.n if seeds is None else seeds
    value, ci = _value(id, value, verdict), _interval(id, ci)
    since = _run["since"]
    record = {
        "id": id,
        "verdict": verdict,
        "value": value,
        "ci": ci,
        "seeds": seeds and int(seeds),
        "detail": detail,
        "label": _run["label"],
        "parameters": _run["parameters"],
        "seconds": since and round(time.perf_counter() - since, 1),
        **provenance(device or _run["parameters"].get("device")),
    }
    _checked[id] = verdict
    paper = f"; paper: {_number(claim['reference'])}" if "reference" in claim else ""
    shown = f": {_measured(record)}" if value is not None else ""
    print(f"{id} {verdict}{shown}{paper}" + (f" ({detail})" if detail else ""))
    _store(record)


def judge(id: str, reached: Any, verdict: Callable[[], dict[str, Any]], fault: str = "diverged or stalled") -> None:
    """Check a claim by `verdict()`, the arguments of `check`; if any run failed it does not hold, and says how many.

    reached: whether each run came to its end, an array or a list of arrays.
    fault: what runs did that failed, in words.
    """
    parts = reached if isinstance(reached, (list, tuple)) else [reached]
    ok = np.concatenate([np.ravel(part) for part in parts]).astype(bool)
    if ok.all():
        check(id, **verdict())
    else:
        check(id, False, f"{(~ok).sum()} of {ok.size} runs {fault}")


def together(answers: Sequence[bool | None], beyond: Sequence[bool | None] = ()) -> bool | str:
    """What several answers say of one claim, as `check` takes it: one no is enough, None (undecided) leaves it open.

    beyond: answers to what goes beyond the claim as it stands; the claim has a caveat unless they are all yes.
    """
    if not answers:
        raise ValueError("a claim needs at least one answer.")
    if any(answer is not None and not answer for answer in answers):
        return False
    if any(answer is None for answer in answers):
        return "undecided"
    return True if all(beyond) else "caveat"


def verdict_line(*ids: str) -> str:
    """Markdown with the verdicts of this run's checks, for a chapter's top; claims not checked say so.

    Verdicts of larger runs (see `table`) follow where they are other ones.
    """
    verdicts = {_claim(id)["id"]: _checked.get(id, NOT_RUN) for id in ids}
    text = f"{_badges(verdicts)} (preset: {_run['label']}; [ledger](ledger.ipynb))"
    kept = {id: record for id in ids if (record := _larger(id))}
    undecided = VERDICTS["not run"]
    others = {id: r["verdict"] for id, r in kept.items() if r["verdict"] not in (verdicts[id], undecided)}
    if not others or _run["label"] in LARGER:
        return text
    return f"{text}. In a larger run ({', '.join(sorted({kept[id]['label'] for id in others}))}): {_badges(others)}"


def _badges(verdicts: dict[str, str]) -> str:
    return " · ".join(f"**{id}** {SYMBOLS[verdict]} {verdict}" for id, verdict in verdicts.items())


def _larger(id: str) -> dict | None:
    """The committed record of the largest run."""
    found = (_read(_repository() / RECORDS / _path(label, id), label, id) for label in LARGER)
    return next(filter(None, found), None)


def table(label: str = "laptop") -> list[dict[str, Any]]:
    """One row per claim, in the order of claims.toml.

    Keys: those of claims.toml (id, work, place, statement, reference, chapter), title (of the chapter), link
    (the chapter's file stem if its notebook exists, else None), live, paper and larger (records, or None; larger
    is paper, or else that of the largest run on a processor) and verdict: of the larger run, or of the live one
    where that decided nothing; else "not run yet".

    label: of the run whose records are "live", such as "smoke" or "laptop, changed". They are
    read where `check` writes them, those of larger runs always from ``results/ledger``.
    """
    rows = []
    for claim in claims().values():
        stem = claim["chapter"]
        live = _read(_root() / _path(label, claim["id"]), label, claim["id"])
        larger = _larger(claim["id"])
        found = [record["verdict"] for record in (larger, live) if record] or [NOT_RUN]
        rows.append(
            {
                "place": "",
                "reference": None,
                **claim,
                "title": _claims_file()["chapters"][stem],
                "link": stem if (_repository() / f"chapters/{stem}.ipynb").exists() else None,
                "live": live,
                "larger": larger,
                "paper": larger if larger and larger["label"] == "paper" else None,
                "verdict": next((verdict for verdict in found if verdict != VERDICTS["not run"]), found[0]),
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    """The table in one sentence: how many claims got each verdict."""
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in SYMBOLS}
    parts = ", ".join(f"{n} × {verdict}" for verdict, n in counts.items() if n)
    return f"{len(rows)} claims: {parts}"


def html(rows: list[dict[str, Any]]) -> str:
    """The rows of `table` as HTML, one table per chapter, with filters by work and verdict.

    A claim's row has the anchor ``claim-<id>`` and leads to the anchor of the same name in its chapter.
    """
    chapters = dict.fromkeys(row["chapter"] for row in rows)
    parts = [_chapter_html([row for row in rows if row["chapter"] == chapter]) for chapter in chapters]
    return f'<div class="ledger">{_filter_html(rows)}{"".join(parts)}</div>{FILTER}'


def _filter_html(rows: list[dict]) -> str:
    """One drop-down list for the works, one for the verdicts, and how many claims are shown."""
    works = dict.fromkeys(work for row in rows for work in _works(row))
    verdicts = [verdict for verdict in SYMBOLS if any(row["verdict"] == verdict for row in rows)]
    lists = (("work", "Work", works), ("verdict", "Verdict", verdicts))
    options = "".join(
        f'<label>{label} <select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{_html.escape(value)}</option>" for value in values)
        + "</select></label> "
        for name, label, values in lists
    )
    return f'<p class="ledger-filter">{options}<output>{len(rows)} of {len(rows)} claims</output></p>'


def _works(row: dict) -> list[str]:
    return [work.strip() for work in row["work"].split(",")]


def _chapter_html(rows: list[dict]) -> str:
    number = rows[0]["chapter"].split("_")[0].lstrip("0")
    title = f"{number} · {_html.escape(rows[0]['title'])}"
    if rows[0]["link"]:
        title = f'<a href="{_html.escape(rows[0]["link"])}.html">{title}</a>'
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(_claim_html(row) for row in rows)
    return (
        '<table style="width: 100%; table-layout: fixed; text-align: left; margin-bottom: 2em">'
        f'<caption style="caption-side: top; text-align: left; font-weight: bold">{title}</caption>'
        f"<thead><tr>{head}</tr></thead>{body}</table>"
    )


def _claim_html(row: dict) -> str:
    """Two rows of the table: the claim with its verdict, and under it what was found."""
    source = _html.escape(", ".join(filter(None, [row["work"], row["place"]])))
    reference = "–" if row["reference"] is None else _html.escape(_number(row["reference"]))
    cells = [reference, _record_html(row["live"], row["verdict"]), _record_html(row["larger"], row["verdict"])]
    style = "overflow-wrap: anywhere; padding: 0.2em 1em 0.8em 0"
    labelled = zip(COLUMNS, cells, strict=True)  # where the page is too narrow for a head
    found = "".join(f'<td data-label="{label}" style="{style}">{cell}</td>' for label, cell in labelled)
    badge = _badge_html(row["verdict"])
    name = f"<b>{row['id']}</b>"
    if row["link"]:
        name = f'<a href="{_html.escape(row["link"])}.html#claim-{row["id"]}">{name}</a>'
    claim = f"{name} {badge} {_html.escape(row['statement'])} <i>({source})</i>"
    return (
        f'<tbody data-work="{_html.escape(" ".join(_works(row)))}" data-verdict="{row["verdict"]}">'
        f'<tr id="claim-{row["id"]}" style="border-top: 1px solid #8888">'
        f'<th colspan="3" scope="row" style="font-weight: normal; padding-top: 0.6em">{claim}</th></tr>'
        f'<tr style="vertical-align: top">{found}</tr></tbody>'
    )


def _record_html(record: dict | None, verdict: str) -> str:
    """Value, interval, seeds; device and date; and the record's verdict where it is not the row's."""
    if record is None:
        return NOT_RUN
    where = f"{record['label']}; {record['device']}; {record['date']}"
    lines = [_measured(record) if record["value"] is not None else record["verdict"], record["detail"]]
    other = f" {_badge_html(record['verdict'])}" if record["verdict"] != verdict else ""
    text = "<br>".join(_html.escape(line) for line in lines if line)
    return f"{text}<br><small>{_html.escape(where)}</small>{other}"


def _badge_html(verdict: str) -> str:
    color = COLORS.get(verdict, "#e4e4e4")
    return (
        f'<span style="background: {color}; color: #1a1a1a; border-radius: 0.4em; padding: 0.1em 0.5em; '
        f'white-space: nowrap">{SYMBOLS[verdict]} {verdict}</span>'
    )


def claims() -> dict[str, dict[str, Any]]:
    """The claims of claims.toml by id."""
    return {claim["id"]: claim for claim in _claims_file()["claim"]}


def _claims_file() -> dict[str, Any]:
    path = _repository() / "chapters/claims.toml"
    if not path.exists():
        raise ValueError(f"chapters/claims.toml must be in or above the working directory {Path.cwd()}.")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _claim(id: str) -> dict[str, Any]:
    known = claims()
    if id not in known:
        raise ValueError(f"a claim must be one of {', '.join(known)} (chapters/claims.toml), not {id!r}.")
    return known[id]


def _verdict(id: str, holds: Any) -> str:
    holds = holds.item() if hasattr(holds, "item") else holds
    if not isinstance(holds, (bool, str)) or holds not in VERDICTS:
        raise ValueError(f'{id}: holds must be True, False, "caveat", "undecided" or "not run", not {holds!r}.')
    return VERDICTS[holds]


def _value(id: str, value: Any, verdict: str) -> float | int | str | None:
    if value is None and verdict == VERDICTS["not run"]:
        return None
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # numpy and torch scalars
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number and not (isinstance(value, str) and value.strip()):
        given = " ".join(repr(value).split())[:60]
        raise ValueError(f"{id}: the value must be a finite number, an estimate or a text, not {given}.")
    return value


def _interval(id: str, ci: Sequence[float] | None) -> list[float] | None:
    if ci is None:
        return None
    low, high = map(float, ci)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{id}: the interval must be two finite numbers, low ≤ high, not ({low}, {high}).")
    return [low, high]


def _number(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return str(value)
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("-", "−")


def _measured(record: dict) -> str:
    text = _number(record["value"])
    if record["ci"] is not None:
        text += f" [{_number(record['ci'][0])}, {_number(record['ci'][1])}]"
    return text if record["seeds"] is None else f"{text}, {record['seeds']} seed{'s' * (record['seeds'] > 1)}"


@lru_cache
def _repository() -> Path:
    """The book's folder: the package's, or the first from the working directory upward with the claims."""
    candidates = [PACKAGE.parent, Path.cwd(), *Path.cwd().parents]
    return next((path for path in candidates if (path / "chapters/claims.toml").exists()), Path.cwd())


def _root() -> Path:
    return Path(os.environ.get("LAZYLIB_LEDGER") or _repository() / RECORDS).expanduser()


def _path(label: str, id: str) -> Path:
    return Path(re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-"), f"{id}.json")


def _store(record: dict) -> None:
    """Write the record whole or not at all."""
    path = _root() / _path(record["label"], record["id"])
    text = json.dumps(record, indent=1, ensure_ascii=False, default=_jsonable, allow_nan=False)
    try:
        write(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))
    except OSError as error:
        warnings.warn(
            f"{record['id']} is not recorded: {path.parent} cannot be written ({error.strerror}).", stacklevel=3
        )


def _jsonable(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _read(path: Path, label: str, id: str) -> dict | None:
    """The record, or None where there is none of this label; one that is not as `check` writes it is warned about."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=float)
        problem = _fault(record, id)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__})"
    if problem:
        warnings.warn(f"{id} counts as not run: the record {path} {problem}.", stacklevel=3)
        return None
    return record if record["label"] == label else None


def _fault(record: Any, id: str) -> str:
    """What is wrong with a record; nothing if it is one that `check` may have written of this claim."""
    texts = {"verdict", "detail", "label", "device", "date"}
    if not isinstance(record, dict) or not record.keys() >= {"id", "value", "ci", "seeds", "seconds", *texts}:
        return "lacks entries"
    if record["id"] != id:
        return f"is one of {str(record['id'])[:20]}"
    seeds, seconds, ci = record["seeds"], record["seconds"], record["ci"]
    try:
        _value(id, record["value"], record["verdict"])
        _interval(id, ci)
        fine = (ci is None or isinstance(ci, list)) and all(isinstance(record[name], str) for name in texts)
        fine &= seeds is None or (type(seeds) is int and seeds > 0)
        fine &= seconds is None or (type(seconds) in (int, float) and 0 <= seconds < math.inf)
        return "" if fine and record["verdict"] in VERDICTS.values() else "has an entry of the wrong kind"
    except (ValueError, TypeError, OverflowError):
        return "has a value or an interval that is none"
