"""The collapse of curves that are known functions of x·h^q."""

import numpy as np
import pytest

from lazylib.measures import collapse, unshared

X, H = np.geomspace(1e-3, 1e3, 41), np.array([30, 100, 300])


def curves(q, levels=(0.0, 0.0, 0.0)):
    """Steps that are functions of x·(h/h₀)^q."""
    return np.stack([np.tanh(np.log(X * (h / H[0]) ** q)) + level for h, level in zip(H, levels, strict=True)])


@pytest.mark.parametrize("q", [-0.5, 0.0, 0.5, 1.0])
def test_the_curves_share_most_over_the_axis_that_they_are_functions_of(q):
    tried = np.linspace(-1, 1.5, 26)
    found = unshared(curves(q), X, H, tried)
    assert tried[found.argmin()] == pytest.approx(q, abs=0.01) and found.min() < 1e-3
    planted = unshared(curves(q + 0.5), X, H, tried)
    assert tried[planted.argmin()] != pytest.approx(q, abs=0.3) and unshared(curves(q + 0.5), X, H, q) > 0.02


def test_levels_alone_are_not_shared():
    assert unshared([[1, 1, 1], [3, 3, 3]], [1, 2, 3], [1, 2], 0.0) == pytest.approx(1)
    assert unshared(curves(0.0, (0, 1, 2)), X, H, 0.0) > 0.3


def test_units_do_not_count():
    here = unshared(curves(1.0), X, H, [0.0, 0.5])
    assert unshared(7 * curves(1.0) - 3, 10 * X, H / 5, [0.0, 0.5]) == pytest.approx(here, rel=1e-9)


def test_by_hand():
    """Lines from 0 to 1 and from 1 to 2: Var_h is 1/4, and the points between have nearly a variance of 1/12."""
    t = np.linspace(0, 1, collapse.POINTS).var()
    assert unshared([[0, 1], [1, 2]], [1, 10], [1, 2], 0.0) == pytest.approx(0.25 / (0.25 + t))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (dict(x=X[::-1]), "x must be"),
        (dict(x=[0.0, *X[1:]]), "x must be"),
        (dict(x=X[1:]), "h must be"),
        (dict(h=H[1:]), "h must be"),
        (dict(h=[0, 1, 2]), "h must be"),
        (dict(exponents=[0.0, 9.0]), r"over x·h\^9 .* in common"),
    ],
)
def test_what_does_not_fit_is_refused(given, word):
    with pytest.raises(ValueError, match=rf"^[^\n]*{word}[^\n]*\.$"):
        unshared(**{"curves": curves(0.5), "x": X, "h": H, "exponents": [0.0, 0.5], **given})
