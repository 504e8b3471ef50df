"""Parameters of a chapter: presets, single values changed by papermill, and their validation.

A chapter's first code cell (tag ``parameters``) lists every parameter with a type and a meaning::

    preset: str = "laptop"  # smoke | laptop | paper
    taus: list = None       # initial sizes τ > 0 (None: the preset's)

and its second one resolves them, before any work starts::

    PRESETS = {"smoke": {"trials": 2}, "laptop": {"taus": [0.1, 1.0], "trials": 10}, "paper": {"trials": 100}}
    p = resolve(globals(), PRESETS, taus=positive, trials=at_least(1))
"""

import ast
import contextlib
import difflib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import ledger

RESERVED = ("preset", "label")
LARGEST = sys.float_info.max
SIZES = 1e-12, 1e12  # of numbers other than 0
TIMES = 100  # how much larger than its largest preset a run may be


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test; for a list the test is made on each entry.

    whole: of a list the test is made once, on the list itself.
    related: the test is also given all parameters, as attributes, and is made when each of them is known to be fine.
    repeats: the list may hold a value twice.
    """

    allowed: str
    test: Callable[..., bool]
    whole: bool = False
    related: bool = False
    repeats: bool = False


positive = Rule("positive", lambda v: v > 0)
even = Rule("even", lambda v: v % 2 == 0)


def at_least(low: float | str) -> Rule:
    """v ≥ low, a number or the name of another parameter."""
    if isinstance(low, str):
        return Rule(f"at least {low}", lambda v, p: v >= getattr(p, low), related=True)
    return Rule(f"at least {low}", lambda v: v >= low)


def below(name: str) -> Rule:
    """v is smaller than another parameter."""
    return Rule(f"below {name}", lambda v, p: v < getattr(p, name), related=True)


def among(name: str) -> Rule:
    """v is one of the values of another parameter, a list."""
    return Rule(f"among {name}", lambda v, p: v in getattr(p, name), related=True)


def increasing(least: int = 1, above: float | None = None) -> Rule:
    """The list is strictly increasing, with so many values, of `above` or more if that is given."""
    words = "" if above is None else f" of {above:g} or more"

    def test(v: list) -> bool:
        enough = sum(above is None or entry >= above for entry in v) >= least
        return enough and all(a < b for a, b in itertools.pairwise(v))

    return Rule(f"increasing, with {least} value{'s' * (least > 1)}{words} at least", test, whole=True)


def decreasing(least: int = 1) -> Rule:
    """The list is strictly decreasing, with so many values at least."""
    return Rule(
        f"decreasing, with {least} value{'s' * (least > 1)} at least",
        lambda v: all(a > b for a, b in itertools.pairwise(v)) and len(v) >= least,
        whole=True,
    )


def having(least: int, low: str | None = None, high: str | None = None) -> Rule:
    """The list has so many values at least from one other parameter on, up to another, or between the two."""
    words = f"from {low} to {high}" if low and high else f"from {low} on" if low else f"up to {high}"

    def test(v: list, p: SimpleNamespace) -> bool:
        start, end = getattr(p, low) if low else -LARGEST, getattr(p, high) if high else LARGEST
        return sum(start <= entry <= end for entry in v) >= least

    return Rule(f"a list with {least} value{'s' * (least > 1)} {words} at least", test, whole=True, related=True)


def starts_with(value: float) -> Rule:
    """The first entry of the list is this one."""
    return Rule(f"a list that starts with {value:g}", lambda v: v[0] == value, whole=True)


def between(low: float, high: float) -> Rule:
    """low ≤ v ≤ high."""
    return Rule(f"between {low} and {high}", lambda v: low <= v <= high)


def choice(*options: Any) -> Rule:
    """v is one of the options."""
    return Rule("one of " + ", ".join(map(str, options)), lambda v: v in options)


def _has_device(value: Any) -> bool:
    if value != "cuda":
        return value == "cpu"
    import torch  # only where it is needed: a chapter without a device checks its parameters in no time

    return torch.cuda.is_available()


device = Rule('"cpu", or "cuda" where torch sees a GPU', _has_device)


def numbers(positive: bool = False) -> Rule:
    """v is a finite number, or each entry of a list is, and positive if asked."""
    words = "a finite positive number" if positive else "a finite number"
    return Rule(words, lambda v: _is_number(v) and (v > 0 or not positive))


def resolve(
    namespace: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], **rules: Rule | Iterable[Rule]
) -> SimpleNamespace:
    """The parameters of this run: the preset's values, with those that the namespace overrides.

    Args:
        namespace: ``globals()`` of the notebook: ``preset`` and one name per parameter, None for the preset's
            value.
        presets: name → values. "laptop" holds every parameter, the others only what differs from it. The kind of
            a value follows from "laptop": True is a truth value, 3 a whole number, 3.0 a number, "a" a text,
            [1.0, 2] a non-empty list of numbers, [1, 2] of whole numbers. Numbers are 0 or from 1e-12 to 1e12 in
            size, and values of a list distinct.
        rules: name → Rule, or several, that the values pass (each entry of a list).

    Returns the values as attributes, with ``preset`` and ``label``: the preset's name, with ", changed" after
    it if any value differs from the preset's. The ledger records claims under this label.

    Raises ValueError, in one sentence, for an unknown preset, an unknown parameter injected by papermill
    (which by itself would only be logged), a value of the wrong kind, a value that breaks a rule, and whole numbers
    and lists that together make a run more than 100 times as large as the largest preset.
    """
    laptop = presets["laptop"]
    _check_tables(namespace, presets, rules)
    _check_injected(namespace, laptop)
    preset = namespace.get("preset")
    if not isinstance(preset, str) or preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, not {_show(preset)}.")

    values, changed = {}, False
    for name, default in {**laptop, **presets[preset]}.items():
        kind, own, given = _plain(laptop[name]), _plain(default), _plain(namespace[name])
        values[name] = _checked(name, own if given is None else given, kind, _rules(rules, name))
        changed |= values[name] != _converted(own, kind) and name != "device"  # the same run on another device

    for name, value in values.items():
        for rule in _rules(rules, name):
            if rule.related:
                _check(name, value, rule, SimpleNamespace(**values))
    _check_size(values, presets)

    label = f"{preset}, changed" if changed else preset
    ledger.start(label, values)
    return SimpleNamespace(preset=preset, label=label, **values)


def _rules(rules: Mapping[str, Rule | Iterable[Rule]], name: str) -> tuple[Rule, ...]:
    rule = rules.get(name, ())
    return (rule,) if isinstance(rule, Rule) else tuple(rule)


def _check_size(values: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]) -> None:
    """ValueError for a run far larger than the largest preset: by how much is estimated as if time and memory grew
    with each whole number, with the sum of a list of them, and with the length of any other list."""
    larger = {}
    for name, value in values.items():
        largest = max(_size(_plain(preset[name])) for preset in presets.values() if name in preset)
        if largest > 0 and _size(value) > largest:
            larger[name] = _size(value) / largest
    times = math.prod(larger.values())
    if times > TIMES:
        worst = sorted(larger, key=lambda name: -larger[name])[:3]
        raise ValueError(
            f"a run must be at most {TIMES} times as large as that of the largest preset, not about {times:.2g} times, "
            f"by {', '.join(f'{name} (× {larger[name]:.2g})' for name in worst)}."
        )


def _size(value: Any) -> float:
    if isinstance(value, list):
        return sum(map(abs, value)) if _all_whole(value) else len(value)
    return abs(value) if _is_whole(value) else 0


def _check_tables(namespace: Mapping, presets: Mapping, rules: Mapping) -> None:
    """Mistakes of the chapter's author: names that do not match between cell, presets and rules."""
    laptop = presets["laptop"]
    for preset, values in presets.items():
        for name in values:
            if name not in laptop:
                raise ValueError(f"the preset {preset!r} gives {name!r}, which 'laptop' lacks.")
    for name in laptop:
        if name in RESERVED:
            raise ValueError(f"a parameter cannot be called {name!r}: resolve sets this name itself.")
        if name not in namespace:
            raise ValueError(f"the parameters cell has no line for {name!r}, which the presets give.")
        if laptop[name] is None:
            raise ValueError(f"the preset 'laptop' must give a value for {name!r}, not None.")
    for name in rules:
        if name not in laptop:
            raise ValueError(f"there is a rule for {name!r}, which the preset 'laptop' lacks.")


def _check_injected(namespace: Mapping, laptop: Mapping) -> None:
    """Names that papermill assigns in its own cell but that no parameter has."""
    cells = [cell for cell in namespace.get("In", ()) if cell.lstrip().startswith("# Parameters")]
    if not cells:
        return
    allowed = ["preset", *laptop]
    for statement in ast.parse(cells[-1]).body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id not in allowed:
                close = difflib.get_close_matches(target.id[:60], allowed, n=1, cutoff=0.5)
                hint = f" (closest: {close[0]})" if close else ""
                raise ValueError(
                    f"{_short(target.id)} is not a parameter of this chapter: allowed are "
                    f"{_short(', '.join(allowed), 160)}{hint}."
                )


def _plain(value: Any) -> Any:
    """Arrays, tuples, ranges and numpy scalars as plain lists and numbers."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, range)) else value


def _checked(name: str, value: Any, kind: Any, rules: tuple[Rule, ...]) -> Any:
    """The value, numbers made float where the kind is float; ValueError if kind or rules forbid it."""
    allowed, ok = _kind(kind)
    if not ok(value):
        raise ValueError(f"{name} must be {allowed}, not {_show(value)}{_hint(name, value, kind)}.")
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if isinstance(entry, (int, float)) and entry != 0 and not SIZES[0] <= abs(entry) <= SIZES[1]:
            raise ValueError(f"{name} must be 0 or from {SIZES[0]:g} to {SIZES[1]:g} in size, not {_show(entry)}.")
    for rule in rules:
        if not rule.related:
            _check(name, value, rule)
    if len(set(entries)) < len(entries) and not any(rule.repeats for rule in rules):
        twice = next(entry for k, entry in enumerate(entries) if entry in entries[:k])
        raise ValueError(f"{name} must be a list of distinct values, not with {_show(twice)} twice.")
    return _converted(value, kind)


def _converted(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return [_as(kind[0] if _all_whole(kind) else 0.0, v) if _is_number(v) else v for v in value]
    return _as(kind, value)


def _hint(name: str, value: Any, kind: Any) -> str:
    """What to write instead of a text: YAML takes 1e-1 for one, and papermill's -p whatever is no number."""
    for entry in value if isinstance(value, list) else [value]:
        with contextlib.suppress(TypeError, ValueError):
            if isinstance(entry, str) and math.isfinite(number := float(entry)):
                mantissa, exponent, power = repr(number).partition("e")
                point = "" if "." in mantissa else ".0"
                return f" (YAML takes {_show(entry)} for a text: write {mantissa}{point}{exponent}{power})"
    return f" (with papermill: -y '{{{name}: ...}}')" if isinstance(value, str) else ""


def _check(name: str, value: Any, rule: Rule, *parameters: SimpleNamespace) -> None:
    """ValueError if the value, or an entry of it, breaks the rule."""
    for entry in value if isinstance(value, list) and not rule.whole else [value]:
        if not rule.test(entry, *parameters):
            raise ValueError(f"{name} must be {_short(rule.allowed, 190)}, not {_show(entry)}.")


def _as(kind: Any, value: Any) -> Any:
    return float(value) if isinstance(kind, float) else value


def _kind(example: Any) -> tuple[str, Callable[[Any], bool]]:
    """In words and as a test: what is allowed where the preset "laptop" has this example."""
    if isinstance(example, bool):
        return "true or false", lambda v: isinstance(v, bool)
    if isinstance(example, int):
        return "a whole number", _is_whole
    if isinstance(example, float):
        return "a finite number", _is_number
    if isinstance(example, str):
        return "a text", lambda v: isinstance(v, str)
    if isinstance(example, list) and example:
        entry: Callable[[Any], bool]
        if _all_whole(example):
            words, entry = "a non-empty list of whole numbers", _is_whole
        elif all(map(_is_number, example)):
            words, entry = "a non-empty list of finite numbers", _is_number
        elif all(isinstance(e, str) for e in example):
            words, entry = "a non-empty list of texts", lambda v: isinstance(v, str)
        else:
            raise ValueError(f"a preset's list must hold numbers or texts only, not {_show(example)}.")
        return words, lambda v: isinstance(v, list) and len(v) > 0 and all(map(entry, v))
    raise ValueError(f"a preset must give truth values, numbers, texts or lists, not {_show(example)}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def _all_whole(values: list) -> bool:
    return all(map(_is_whole, values))


def _show(value: Any) -> str:
    try:
        return _short(" ".join(repr(value).split()))
    except ValueError:  # Python does not write out whole numbers of thousands of digits
        return "a number of thousands of digits"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
