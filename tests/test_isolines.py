"""Iso-lines against tables whose values are a known function of y·x^q."""

import numpy as np
import pytest

from lazylib.measures import grid_mismatch, isoline_exponent, level_points

X, Y = np.geomspace(0.5, 2, 9), np.geomspace(0.1, 100, 7)


def table(q, function=lambda b: b / (1 + b), x=X, y=Y):
    return function(y * x[:, None] ** q)


@pytest.mark.parametrize("q", [-1.0, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("turned", [False, True], ids=["more x", "more y"])
def test_the_exponent_is_found_and_not_another_one(q, turned):
    x, y = (X, np.geomspace(0.1, 100, 25)) if turned else (X, Y)
    assert isoline_exponent(x, y, table(q, x=x, y=y)) == pytest.approx(q, abs=0.03)
    assert isoline_exponent(x, y, table(q + 1, x=x, y=y)) != pytest.approx(q, abs=0.5)


def test_the_points_lie_on_their_level():
    values = table(2)
    points = level_points(X, Y, values, levels=3)
    levels = np.exp(np.linspace(np.log(values.min()), np.log(values.max()), 5)[1:-1])
    for (x, y), level in ((point, level) for group, level in zip(points, levels, strict=True) for point in group):
        assert y * x**2 / (1 + y * x**2) == pytest.approx(level, rel=0.02)
    assert all(len(group) for group in points)


def test_exchanging_the_axes_inverts_the_exponent():
    square = np.geomspace(1, 10, 8)
    values = table(2, x=square, y=square)
    assert isoline_exponent(square, square, values.T) == pytest.approx(
        1 / isoline_exponent(square, square, values), rel=0.01
    )


def test_what_depends_on_one_axis_alone():
    few = X[::2]
    rows = np.broadcast_to(Y, (len(few), len(Y)))
    assert isoline_exponent(few, Y, rows) == pytest.approx(0, abs=1e-6)
    assert abs(isoline_exponent(X, Y, np.broadcast_to(X[:, None], (len(X), len(Y))))) >= 1e6
    assert abs(isoline_exponent(few, Y, np.ones_like(rows))) >= 1e6  # no level is crossed


def test_the_mismatch_is_one_where_the_rows_agree_and_the_planted_factor_where_they_do_not():
    values = table(2, lambda b: b**0.7)  # a straight line in logarithms: no error of interpolation
    assert grid_mismatch(X, Y, values, 2) == pytest.approx(1, abs=1e-12)
    step = (X[1] / X[0]) ** 0.7
    assert grid_mismatch(X, Y, values, 1) == pytest.approx(step, rel=1e-9)
    assert grid_mismatch(X, Y, values * np.where(np.arange(len(X)) % 2, 3.0, 1.0)[:, None], 2) == (
        pytest.approx(3, rel=1e-9)
    )


def test_rows_that_share_nothing_say_nothing():
    assert np.isnan(grid_mismatch([1, 100], Y, table(2)[:2], 4))


@pytest.mark.parametrize(
    ("x", "y", "values", "words"),
    [
        ([1, 0.5], [1, 2], np.ones((2, 2)), "x must be at least two positive increasing numbers"),
        ([1], [1, 2], np.ones((1, 2)), "x must be at least two"),
        ([1, 2], [0, 2], np.ones((2, 2)), "y must be"),
        ([1, 2], [1, 2, 3], np.ones((3, 2)), r"values must be \(2, 3\), a row for each x, got \(3, 2\)"),
        ([1, 2], [1, 2], [[1, 2], [3, -1]], "values must be positive and finite"),
        ([1, 2], [1, 2], [[1, 2], [3, np.nan]], "values must be positive and finite"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(x, y, values, words):
    for measure in (level_points, isoline_exponent, lambda *given: grid_mismatch(*given, 2.0)):
        with pytest.raises(ValueError, match=words):
            measure(x, y, values)
