"""Whether two texts say the same: equal words, and numbers as close as two kinds of processor give them.

Rounding differs from one kind of processor to another, and a run through a nonlinear network magnifies it, so that an
output that is right everywhere is not the same text everywhere. With the kernels of AVX2 in place of those of AVX-512,
differences of test errors in chapters 10 to 12 move by up to 0.9 of their interval's half width; the allowance for
intervals was widened from 5 % to half their width after that was seen.
"""

import re

NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+−]?\d+)?")
INTERVAL = re.compile(rf"({NUMBER.pattern})(?: \[|, interval )({NUMBER.pattern})(?:, | to )({NUMBER.pattern})")
ZERO = "0.00 [0.00, 0.00]", "below 1e−06"  # where one processor has exactly zero, another has its rounding
SHARE = 0.05  # of the number, or of the largest of an estimate and the ends of its interval


def close(found: str, stored: str) -> bool:
    """Whether the texts have the same words and their numbers differ by little.

    Allowed is 5 % of the stored number, of an estimate and its interval together 5 % of the largest of the three or
    half of the interval's width, and one unit in the last place of a number that has decimals or an exponent. Whole
    numbers below 20 are thus equal.
    """
    found, stored = found.replace(*ZERO), stored.replace(*ZERO)
    if NUMBER.sub("#", found) != NUMBER.sub("#", stored):
        return False
    allowed = {}  # position of a number that belongs to an estimate → how far it may lie
    for match in INTERVAL.finditer(stored):
        value, low, high = (_value(match[k]) for k in (1, 2, 3))
        far = max(SHARE * max(abs(value), abs(low), abs(high)), abs(high - low) / 2)
        allowed |= {match.start(k): far for k in (1, 2, 3)}
    pairs = zip(NUMBER.finditer(found), NUMBER.finditer(stored), strict=True)
    return all(_near(a[0], b[0], allowed.get(b.start(), 0.0)) for a, b in pairs)


def _near(found: str, stored: str, far: float) -> bool:
    a, b = _value(found), _value(stored)
    return abs(a - b) <= max(SHARE * abs(b), far, _unit(stored)) * (1 + 1e-9)


def _value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def _unit(text: str) -> float:
    """One unit in the last place; 0 for a whole number, which may be a count."""
    mantissa, _, exponent = text.replace("−", "-").partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent else 0.0
