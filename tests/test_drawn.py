"""The table of a figure: what is drawn in each way comes out as it went in, and what does not is said."""

import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from lazylib.book import _drawn, plot

X = np.array([0.1, 1.0, 10.0])


@pytest.fixture(autouse=True)
def _plain_figures():
    """Matplotlib's own colours, whatever a chapter has set before; no figure stays."""
    with plt.rc_context():
        plt.rcdefaults()
        plt.switch_backend("agg")
        yield
        plt.close("all")


def read(figure):
    return pd.read_csv(io.StringIO(_drawn.table(figure)))


def test_lines_have_their_points_labels_colors_and_the_names_of_axes():
    figure, (left, right) = plt.subplots(1, 2, sharey=True)
    left.loglog(X, 2 * X, label="twice", color="C2")
    left.plot(X, X, "o", mec="red", mfc="none")
    left.set(xlabel="τ", ylabel="test loss", title="live:\nlaptop")
    right.plot(X, 3 * X)
    right.set_xlabel("α, in\nunits of 1")
    found = read(figure)
    assert list(found) == ["panel", "series", "color", "x: 1 τ; 2 α, in units of 1", "y: test loss"]
    assert list(found.panel) == ["1: live: laptop"] * 6 + ["2"] * 3
    assert list(found.series) == ["twice"] * 3 + ["line 2"] * 3 + ["line 1"] * 3
    assert list(found.color.unique()) == ["#2ca02c", "#ff0000", "#1f77b4"]
    np.testing.assert_allclose(found.iloc[:, 3], np.tile(X, 3))
    np.testing.assert_allclose(found["y: test loss"], np.concatenate([2 * X, X, 3 * X]))


def test_what_is_not_in_units_of_an_axis_is_empty():
    figure, ax = plt.subplots()
    ax.axhline(2)
    ax.axvline(5)
    ax.plot([0, 1], [0, 1], transform=ax.transAxes)
    assert read(figure).filter(["series", "x", "y"]).to_csv(index=False) == "series,x,y\nline 1,,2.0\nline 2,5.0,\n"


def test_a_band_is_with_its_line_and_a_diverged_run_has_a_gap():
    runs = np.array([[1.0, 3.0], [2.0, np.nan], [5.0, 9.0]])  # (x, runs)
    figure, ax = plt.subplots()
    plot.band(ax, X, runs, label="a")
    ax.fill_between(X, 0 * X, X, color="C1")
    found = read(figure)
    a, other = found[found.series == "a"], found[found.series == "band 2"]
    np.testing.assert_allclose(a.y, [2, np.nan, 7])
    np.testing.assert_allclose(a.low, [2 - 2**0.5, np.nan, 7 - 8**0.5], rtol=1e-5)
    np.testing.assert_allclose(a.high, [2 + 2**0.5, np.nan, 7 + 8**0.5], rtol=1e-5)
    np.testing.assert_allclose(other[["x", "low", "high"]], np.stack([X, 0 * X, X], 1))


def test_error_bars_are_low_and_high():
    figure, ax = plt.subplots()
    ax.errorbar(X, [1, 2, 3], yerr=[[0.5, 1, 1], [1, 1, 2]], fmt="o", capsize=2, label="a")
    found = read(figure)
    assert list(found.series) == ["a"] * 3
    assert found[["x", "y", "low", "high"]].to_numpy().tolist() == [[0.1, 1, 0.5, 2], [1, 2, 1, 3], [10, 3, 2, 5]]
    ax.errorbar([], [])
    ax.errorbar(X, X)
    assert len(read(figure)) == 6 and list(read(figure))[0] == "panel"
    ax.errorbar(X, X, xerr=1)
    assert _drawn.table(figure).startswith("panel: not in this table: some error bars,")


def test_scatters_segments_and_contours():
    figure, ax = plt.subplots()
    ax.scatter(X, X**2, c=[1, 2, 3], label="dots")
    ax.scatter(X, X, facecolors="none", edgecolors="r")
    ax.hlines([1, 2], 0, [3, 4], label="from to")
    ax.contour(X, X, np.add.outer(X, X), [2.0])
    found = read(figure)
    dots, rings, lines = (found[found.series == name] for name in ("dots", "points 2", "from to"))
    assert list(dots.z) == [1, 2, 3] and dots.color.isna().all()
    np.testing.assert_allclose(dots[["x", "y"]], np.stack([X, X**2], 1))
    assert set(rings.color) == {"#ff0000"}
    assert lines[["x", "y"]].to_numpy().tolist() == [[0, 1], [3, 1], [0, 2], [4, 2]]
    level = found[found.series.str.startswith("contour")]
    np.testing.assert_allclose(level.x + level.y, 2)
    assert set(level.z) == {2.0}


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_an_image_has_a_value_at_the_centre_of_each_pixel(origin):
    figure, (left, right) = plt.subplots(1, 2)
    values = np.arange(6.0).reshape(2, 3)
    picture = left.imshow(values, origin=origin, extent=(0, 6, 0, 2))
    right.pcolormesh(X, X[:2], np.ma.masked_equal(values, 5), shading="nearest")
    figure.colorbar(picture, label="log loss")
    found = read(figure)
    assert set(found.panel) == {1, 2} and list(found)[-1] == "z: log loss"  # the bar is no panel
    pixels = {(x, y): z for x, y, z in found[found.panel == 1].iloc[:, -3:].to_numpy().tolist()}
    first, last = (1.5, 0.5) if origin == "upper" else (0.5, 1.5)
    assert pixels == {(1, first): 0, (3, first): 1, (5, first): 2, (1, last): 3, (3, last): 4, (5, last): 5}
    mesh = found[found.panel == 2].iloc[:, -3:].to_numpy()
    np.testing.assert_allclose(mesh[:, 0], np.tile(X, 2))
    np.testing.assert_allclose(mesh[:, 1], np.repeat(X[:2], 3))
    np.testing.assert_allclose(mesh[:, 2], [0, 1, 2, 3, 4, np.nan])


def test_rows_with_names_say_them():
    figure, ax = plt.subplots()
    ax.plot([1, 2], [0, 1], "o")
    ax.set_yticks([0, 1], ["residual net\nlazy", "transformer"])
    ax.set_xticks([1, 2], ["1", "2"])
    assert list(read(figure))[-2:] == ["x", "y: 0 = residual net lazy, 1 = transformer"]


def test_what_has_no_points_or_no_color_is_no_trouble():
    figure, ax = plt.subplots()
    ax.hlines([], 0, 1)
    ax.plot([], [])
    ax.scatter([], [])
    assert _drawn.table(figure) is None
    ax.fill_between([1, 2], [2, 3], facecolor="none")
    ax.plot([3], [4], color="C0")
    assert read(figure).to_csv(index=False) == (
        "panel,series,color,x,y,low,high\n1,line 2,#1f77b4,3,4.0,,\n1,band 3,,1,,0.0,2.0\n1,band 3,,2,,0.0,3.0\n"
    )


def test_what_is_left_out_is_said_and_an_empty_figure_has_no_table():
    figure, ax = plt.subplots()
    assert _drawn.table(figure) is None
    ax.bar([1, 2], [3, 4])
    ax.contourf(np.add.outer(X, X))
    ax.imshow(np.zeros((2, 2, 3)))
    assert _drawn.table(figure) is None
    ax.plot(X, X)
    assert list(read(figure))[0] == "panel: not in this table: bars, filled contours, pictures"
    surface = figure.add_subplot(projection="3d")
    surface.plot_surface(*np.meshgrid(X, X), np.ones((3, 3)))
    assert "surfaces" in list(read(figure))[0] and len(read(figure)) == 3


def test_a_large_table_is_thinned_and_says_so():
    figure, ax = plt.subplots()
    ax.plot(np.arange(40_000) / 7, label="long")
    ax.plot([1, 2], label="short")
    text = _drawn.table(figure)
    found = read(figure)
    every = int(found.columns[1].removeprefix("series: every ").removesuffix("th point"))
    assert _drawn.MOST / 2 < len(text.encode()) <= _drawn.MOST and every > 1
    assert list(found.x[found.iloc[:, 1] == "long"][:3]) == [0, every, 2 * every]
    assert sum(found.iloc[:, 1] == "short") == 1


def test_a_notebook_keeps_it_beside_the_picture_and_nothing_else_changes():
    formatter = DisplayFormatter()
    plot._keep_points(SimpleNamespace(display_formatter=formatter))
    figure, ax = plt.subplots()
    ax.plot(X)
    data, _ = formatter.format(figure)
    assert data["text/csv"] == _drawn.table(figure) and "text/plain" in data
    for other in (1, "x", pd.DataFrame({"a": [1]}), plt.figure()):
        assert "text/csv" not in formatter.format(other)[0]
