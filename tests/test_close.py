"""Numbers as close as two kinds of processor give them are the same; others, and other words, are not."""

import pytest

from tools.close import close


@pytest.mark.parametrize(
    ("found", "stored"),
    [
        ("W1 holds: 5.7 [4.5, 7.4], 3 seeds", "W1 holds: 5.7 [4.6, 7.4], 3 seeds"),
        ("G14 holds: 1.3 [0.013, 3.5], 5 seeds", "G14 holds: 1.4 [0.1, 3.5], 5 seeds"),  # 5 % of the estimate
        ("−0.46, interval −0.61 to −0.31", "−0.46, interval −0.60 to −0.30"),
        ("changes by 0.2 %", "changes by 0.1 %"),  # one unit in the last place
        ("below 7e-04", "below 8e-04"),
        ("1,020 steps", "1,000 steps"),
        ("5.7 [4.6, 7.4]", "6.5 [4.6, 7.4]"),  # not told apart by their intervals
        ("−0.002 [−0.061, 0.057], 4 seeds", "−0.003 [−0.039, 0.032], 4 seeds"),
        ("nothing but words", "nothing but words"),
        ("q less 2: 0.00 [0.00, 0.00], 3 seeds", "q less 2: below 1e−06, 3 seeds"),  # zero, and the rounding of it
    ],
)
def test_close(found, stored):
    assert close(found, stored) and close(stored, found)


@pytest.mark.parametrize(
    ("found", "stored"),
    [
        ("W1 does not hold: 5.7", "W1 holds: 5.7"),
        ("3 seeds", "4 seeds"),  # a count is exact
        ("5.7 [4.6, 7.4]", "7.4 [6.3, 9.1]"),
        ("5.7 [1.2, 7.4]", "5.7 [4.6, 7.4]"),
        ("changes by 0.4 %", "changes by 0.1 %"),
        ("3e-04", "8e-04"),
        ("error 11.0 %", "error 12.0 %"),
        ("−0.5", "0.5"),
        ("1.0 and 2.0", "1.0"),
        ("nan", "1.0"),
        ("0.00 [0.00, 0.02]", "below 1e−06"),
    ],
)
def test_not_close(found, stored):
    assert not close(found, stored) and not close(stored, found)
