"""The ledger's page: one table a chapter, a claim with its verdict, and under it its limbs, one a line."""

import html as _html
import re
from collections.abc import Mapping
from typing import Any

from .ledger import MARKS, NOT_RUN, SYMBOLS, asked_for, bounds, measured, number
from .stats import Estimate

COLORS = {
    "holds": "#cdebd8",
    "holds at smaller scale": "#cdebd8",
    "right direction, other size": "#fbe7b2",
    "does not hold": "#f6cfc4",
}
NO, NONE = "–", ' class="ledger-none"'  # a cell without a run, which a phone leaves out
COLUMNS = ("What is asked", "Live here", "Larger run")
TELLS = (
    "“tells 0.1”: the smallest difference from a bound that so many units tell in 80 % of the cases, by Student's t "
    "from the width of the interval; of several cases the largest. “possible”: the other side of a rule that has one; "
    "outside of it a measure is a mistake, and the answer no. These sides were set on 28 November 2026, with the "
    "measures known, and changed no verdict. “finds 3”: three of the errors that tests plant in the chapter turn this "
    "answer."
)
# With the page and not in a file of the book's, so that a notebook shows the table as the page does.
STYLE = """<style>
.ledger table { text-align: left; margin-bottom: 2em; border-collapse: collapse; }
.ledger caption { caption-side: top; text-align: left; font-weight: bold; }
.ledger th, .ledger td { overflow-wrap: anywhere; padding: 0.15em 1em 0.15em 0; text-align: left; vertical-align: top; }
.ledger tbody { border-top: 1px solid #8888; }
.ledger tbody th { font-weight: normal; padding-top: 0.6em; }
.ledger-rules td { padding-bottom: 0.8em; }
.ledger-verdict { color: #1a1a1a; border-radius: 0.4em; padding: 0.1em 0.5em; white-space: nowrap; }
</style>"""
ORDERS = {"": "of the book", "verdict": "by verdict", "since": "newest rules first"}
# Shows the claims of the chosen work and verdict, in their chapters' tables or, in another order, in one table; a table
# of which none is left goes.
FILTER = """<script>
(() => {
  const ledger = document.currentScript.previousElementSibling;
  const [work, verdict, order] = ledger.querySelectorAll("select");
  const claims = [...ledger.querySelectorAll("tbody")];
  const [table] = ledger.querySelectorAll("table");
  const homes = claims.map((claim) => claim.parentElement);
  const title = table.caption.innerHTML;
  const verdicts = [...verdict.options].map((option) => option.value);
  const before = {
    verdict: (a, b) => verdicts.indexOf(a.dataset.verdict) - verdicts.indexOf(b.dataset.verdict),
    since: (a, b) => b.dataset.since.localeCompare(a.dataset.since),
  };
  const arrange = () => {
    const by = before[order.value];
    (by ? [...claims].sort(by) : claims).forEach((claim) => (by ? table : homes[claims.indexOf(claim)]).append(claim));
    table.caption.innerHTML = by ? "All chapters" : title;
    update();
  };
  const update = () => {
    for (const claim of claims) {
      const { work: works, verdict: given } = claim.dataset;
      claim.hidden = (work.value && !works.split(" ").includes(work.value))
        || (verdict.value && given !== verdict.value);
    }
    for (const each of ledger.querySelectorAll("table")) {
      each.hidden = [...each.tBodies].every((claim) => claim.hidden);
    }
    const shown = claims.filter((claim) => !claim.hidden).length;
    ledger.querySelector("output").value = `${shown} of ${claims.length} claims`;
  };
  work.addEventListener("change", update);
  verdict.addEventListener("change", update);
  order.addEventListener("change", arrange);
})();
</script>"""


def html(rows: list[dict[str, Any]]) -> str:
    """The rows of `ledger.table` as HTML, with filters by work and verdict, and the choice of their order.

    A claim's row has the anchor ``claim-<id>`` and leads to the anchor of the same name in its chapter.
    """
    chapters = dict.fromkeys(row["chapter"] for row in rows)
    parts = [_chapter([row for row in rows if row["chapter"] == chapter]) for chapter in chapters]
    return f'{STYLE}<div class="ledger">{_filters(rows)}<p><small>{TELLS}</small></p>{"".join(parts)}</div>{FILTER}'


def _filters(rows: list[dict]) -> str:
    """Drop-down lists for work, verdict and order, and how many claims are shown."""
    works = dict.fromkeys(work for row in rows for work in _works(row))
    verdicts = [verdict for verdict in SYMBOLS if any(row["verdict"] == verdict for row in rows)]
    lists = {"Work": {"": "all"} | {work: work for work in works}, "Verdict": {"": "all"} | {v: v for v in verdicts}}
    options = "".join(
        f'<label>{label} <select name="{label.lower()}">'
        + "".join(f'<option value="{_html.escape(value)}">{_html.escape(text)}</option>' for value, text in of.items())
        + "</select></label> "
        for label, of in {**lists, "Order": ORDERS}.items()
    )
    return f'<p class="ledger-filter">{options}<output>{len(rows)} of {len(rows)} claims</output></p>'


def _works(row: dict) -> list[str]:
    return [work.strip() for work in row["work"].split(",")]


def _chapter(rows: list[dict]) -> str:
    title = f"{rows[0]['chapter'].split('_')[0].lstrip('0')} · {_html.escape(rows[0]['title'])}"
    if rows[0]["link"]:
        title = f'<a href="{_html.escape(rows[0]["link"])}.html">{title}</a>'
    # widths in the elements themselves: a theme's style of tables counts for more than the page's own
    widths = zip(COLUMNS, ("36%", "32%", "32%"), strict=True)
    head = "".join(f'<th scope="col" style="width: {width}">{name}</th>' for name, width in widths)
    return (
        f'<table style="table-layout: fixed; width: 100%"><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead>{''.join(_claim(row) for row in rows)}</table>"
    )


def _claim(row: dict) -> str:
    """The claim with its verdict, a line for each limb, the runs, how they deviate, and what changed in its rules."""
    source = "; ".join(filter(None, [", ".join(filter(None, [row["work"], row["place"]])), row["source"]]))
    name = f"<b>{row['id']}</b>"
    if row["link"]:
        name = f'<a href="{_html.escape(row["link"])}.html#claim-{row["id"]}">{name}</a>'
    reference = "" if row["reference"] is None else f" Paper: {_typeset(number(row['reference']))}."
    claim = f"{name} {_badge(row['verdict'])} {_typeset(row['statement'])} <i>({_html.escape(source)})</i>{reference}"
    lines = [f'<tr id="claim-{row["id"]}"><th colspan="3" scope="row">{claim}</th></tr>']
    lines += [_limb(row, limb, rule) for limb, rule in row["limbs"].items()]
    history = f"Deviation from the work: {_html.escape(row['deviation'])} " if row["deviation"] else ""
    history += f"Rules of {row['since']}."
    history += f" Changed {_html.escape(row['changed'])}" if "changed" in row else ""
    planted = row.get("planted", 0)
    history += f" Planted errors that it finds: {planted}; on each line, those that the limb finds." if planted else ""
    live, larger = (_run(row[name], row) for name in ("live", "larger"))
    lines.append(_line("<small>measured in</small>", live, larger))
    lines.append(f'<tr class="ledger-rules"><td colspan="3"><small>{history}</small></td></tr>')
    data = {"work": _html.escape(" ".join(_works(row))), "verdict": row["verdict"], "since": _latest(row)}
    attributes = " ".join(f'data-{key}="{value}"' for key, value in data.items())
    return f"<tbody {attributes}>{''.join(lines)}</tbody>"


def _latest(row: dict) -> str:
    """The day on which the claim's rules last changed."""
    return max(re.findall(r"\d{4}-\d\d-\d\d", f"{row['since']} {row.get('changed', '')}"))


def _typeset(text: str) -> str:
    """HTML with ^q, ^(−1/2) and t_{1/2} raised and lowered."""
    raised = re.sub(r"\^(?:\(([^()]+)\)|(\w+))", r"<sup>\1\2</sup>", _html.escape(text))
    return re.sub(r"_\{([^{}]+)\}", r"<sub>\1</sub>", raised)


def _limb(row: dict, name: str, rule: Mapping[str, Any]) -> str:
    asked = ": ".join(filter(None, [rule["says"], asked_for(rule)]))
    beyond = " <i>(more than is claimed)</i>" if rule.get("beyond") else ""
    found = [_found(row["id"], row[run], name) for run in ("live", "larger")]
    notes = [f"possible: {bounds(*rule['possible'])}"] if "possible" in rule else []
    notes += [f"finds {rule['planted']}"] if rule.get("planted") else []
    small = f' <small class="ledger-notes">{"; ".join(notes)}</small>' if notes else ""
    return _line(_html.escape(asked) + beyond + small, *found)


def _found(id: str, record: dict | None, name: str) -> str:
    limb = record["limbs"].get(name) if record else None
    if limb is None:
        return NO
    sizes = [case.detects() for case in limb["cases"].values() if isinstance(case, Estimate)]
    largest = max((size for size in sizes if size > 1e-6), default=0.0)  # neither NaN nor a machine's rounding
    told = f' <small class="ledger-tells">tells {number(float(f"{largest:.2g}"))}</small>' if largest else ""
    return _html.escape(f"{MARKS[limb['answer']]} {measured(id, limb['cases'])}") + told


def _line(asked: str, live: str, larger: str) -> str:
    cells = zip(COLUMNS, (asked, live, larger), strict=True)  # the names for where the page is too narrow for a head
    parts = (f'<td data-label="{label}"{NONE * (cell == NO)}>{cell}</td>' for label, cell in cells)
    return f"<tr>{''.join(parts)}</tr>"


def _run(record: dict | None, row: dict) -> str:
    """Preset, device, date and time; the record's verdict where it is not the row's; what came after the record."""
    if record is None:
        return NOT_RUN
    took = "" if record["seconds"] is None else f"; {record['seconds']:.0f} s"
    text = f"{record['label']}; {record['device']}; {record['date']}{took}"
    parts = [_html.escape(record["detail"]), f"<small>{_html.escape(text)}</small>"]
    parts += [_badge(record["verdict"])] if record["verdict"] != row["verdict"] else []
    parts += [f"<small>as first judged: {record['first']}</small>"] if record["first"] != record["verdict"] else []
    parts += ["<small>run before the rules last changed</small>"] if record["date"] < _latest(row) else []
    return "<br>".join(filter(None, parts))


def _badge(verdict: str) -> str:
    color = COLORS.get(verdict, "#e4e4e4")
    return f'<span class="ledger-verdict" style="background: {color}">{SYMBOLS[verdict]} {verdict}</span>'
