"""The claims of the works and the rules that judge them: what ``chapters/claims.toml`` says, applied to measures.

A claim stands or falls by its limbs. A limb names one measure and says where its true value must lie, so that it can
fail alone; its rule is data, fixed (``since``) before the run that it judges::

    [[claim]]
    id = "G4"
    statement = "…"
    source = "slopes of the figure"  # text, theorem, table, figure or code that the claim is taken from
    deviation = "…"                  # how the larger run and the live one differ from what the work did
    chapter = "11_kernel_evolution"
    since = "2026-11-25"             # when its rules were fixed; `changed` says what was changed later, and why
    planted = 9                      # errors planted in the chapter that it finds, tests/test_planted_11.py
    unit = "seed"                    # what an interval is over
    scale = { n = 10000 }            # parameters of the published run: below them a claim holds "at smaller scale"
    least = { n = 50000 }            # below these it is not tested at all

    [claim.limbs.lazy]
    says = "exponent in the lazy regime"
    within = [-1.15, -0.85]          # none for a measure that is yes or no by itself
    possible = [-3, 0]               # outside a measure is a mistake, and the answer no: a rule has two sides
    size = [-1.05, -0.95]            # where the published number lies; outside: "right direction, other size"
    beyond = true                    # says more than the claim does: shown, and not counted
    planted = 3                      # those of the errors that this limb finds

Nothing here prints or stores; `lazylib.book.ledger` does.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runs.files import PACKAGE
from .stats import Estimate

VERDICTS = (
    "holds",
    "holds at smaller scale",
    "right direction, other size",
    "does not hold",
    "undecided",
    "not tested at this scale",
)
ANSWERS = ("yes", "other size", "no", "open")  # of a limb; open: its interval holds both
FIELDS = {"says", "within", "possible", "size", "beyond", "planted"}


class Found(NamedTuple):
    """A limb's answer, and the measures behind it: case → number, truth or estimate; one case is named ""."""

    answer: str
    cases: dict[str, Any]


class Judgement(NamedTuple):
    """A claim's verdict, and what was found of each of its limbs."""

    verdict: str
    limbs: dict[str, Found]


def claims() -> dict[str, dict[str, Any]]:
    """The claims of claims.toml by id, in its order."""
    return {claim["id"]: claim for claim in file()["claim"]}


def claim(id: str) -> dict[str, Any]:
    """One of `claims`.

    Raises:
        ValueError: there is none of this id.
    """
    known = claims()
    if id not in known:
        raise ValueError(f"a claim must be one of {', '.join(known)} (chapters/claims.toml), not {id!r}.")
    return known[id]


def file() -> dict[str, Any]:
    """chapters/claims.toml of the book.

    Raises:
        ValueError: it is not there.
    """
    path = repository() / "chapters/claims.toml"
    if not path.exists():
        raise ValueError(f"chapters/claims.toml must be in or above the working directory {Path.cwd()}.")
    return _parsed(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=4)  # a chapter asks for it dozens of times
def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


@lru_cache
def repository() -> Path:
    """The book's folder: the package's, or the first from the working directory upward with the claims."""
    candidates = [PACKAGE.parent, Path.cwd(), *Path.cwd().parents]
    return next((path for path in candidates if (path / "chapters/claims.toml").exists()), Path.cwd())


def weigh(id: str, measures: Mapping[str, Any], parameters: Mapping[str, Any] | None = None) -> Judgement:
    """The verdict of a claim's rules on what was measured.

    One limb that fails is enough for "does not hold"; else one that is open leaves the claim undecided; else one of
    another size makes it "right direction, other size".

    Args:
        id: of the claim.
        measures: limb → its measure: a `stats.Estimate`, decided by its whole interval; a number, decided by itself;
            True or False for a limb without bounds; None where nothing could be measured, which leaves it open; or a
            dict of these, case → measure, all of which must be as the limb asks.
        parameters: of the run, against the claim's `least` and `scale`; of a list the largest counts.

    Raises:
        ValueError: measures of other limbs than the claim has, or one that the limb's rule cannot judge, as NaN.

    Example:
        >>> from lazylib.book import claims
        >>> from lazylib.book.stats import Estimate
        >>> claims.weigh("K2", {"fall": Estimate(-1.0, -1.01, -0.99, 4), "constant": 1.3}).verdict
        'does not hold'
    """
    rules = claim(id)["limbs"]
    if measures.keys() != rules.keys():
        raise ValueError(
            f"{id}: the limbs must be {', '.join(rules)} (chapters/claims.toml), not {', '.join(measures)}."
        )
    limbs = {name: _found(f"{id}, {name}", rules[name], measures[name]) for name in rules}
    counted = {limbs[name].answer for name in rules if not rules[name].get("beyond")}
    return Judgement(_verdict(id, counted, parameters or {}), limbs)


def _verdict(id: str, answers: set[str], parameters: Mapping[str, Any]) -> str:
    if _smaller(parameters, claim(id).get("least", {})):
        return "not tested at this scale"
    for answer, verdict in (("no", "does not hold"), ("open", "undecided"), ("other size", VERDICTS[2])):
        if answer in answers:
            return verdict
    return "holds at smaller scale" if _smaller(parameters, claim(id).get("scale", {})) else "holds"


def _smaller(parameters: Mapping[str, Any], asked: Mapping[str, float]) -> bool:
    """Whether a run was smaller in any of the parameters; one that it has not says nothing."""
    return any(name in parameters and np.max(parameters[name]) < least for name, least in asked.items())


def _found(name: str, rule: Mapping[str, Any], measure: Any) -> Found:
    cases = dict(measure) if isinstance(measure, Mapping) else {"": measure}
    if not cases:
        raise ValueError(f"{name}: there must be at least one measure.")
    cases = {case: _plain(name, value, "within" in rule) for case, value in cases.items()}
    answers = {_answer(rule, value) for value in cases.values()}
    return Found(next(answer for answer in ("no", "open", "other size", "yes") if answer in answers), cases)


def _plain(name: str, value: Any, bounded: bool) -> Any:
    """The measure as a Python object of one of the kinds that its rule can judge."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value  # numpy, xarray, torch
    if bounded and isinstance(value, Estimate) and math.isfinite(value.value):
        return Estimate(float(value.value), float(value.low), float(value.high), int(value.n))
    if bounded and isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    if value is None or (not bounded and isinstance(value, bool)):
        return value
    kinds = "a number, an estimate or None" if bounded else "True, False or None"
    raise ValueError(f"{name}: the measure must be {kinds}, not {' '.join(repr(value).split())[:60]}.")


def _answer(rule: Mapping[str, Any], value: Any) -> str:
    if value is None:
        return "open"
    if "within" not in rule:
        return "yes" if value else "no"
    low, high = rule.get("possible", (-math.inf, math.inf))
    if not low <= (value.value if isinstance(value, Estimate) else value) <= high:
        return "no"
    inside = [_inside(value, *rule[name]) for name in ("within", "size") if name in rule]
    if inside[0] is False:
        return "no"
    if None in inside:
        return "open"
    return "yes" if all(inside) else "other size"


def _inside(value: float | Estimate, low: float, high: float) -> bool | None:
    return value.within(low, high) if isinstance(value, Estimate) else low < value < high
