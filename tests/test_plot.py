"""Figures: style, bands that show diverged runs, reference slopes."""

import matplotlib

matplotlib.use("Agg")

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from lazylib.book import plot
from lazylib.book.stats import Estimate

X = np.array([0.1, 1.0, 10.0])


@pytest.fixture
def ax():
    with matplotlib.rc_context():
        plot.style()
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


def shade(ax):
    """Lower and upper edge of the band by x, from its polygon."""
    points = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
    heights = {x: points[points[:, 0] == x, 1] for x in set(points[:, 0])}
    return {x: (y.min(), y.max()) for x, y in heights.items()}


def test_band_is_mean_and_standard_deviation_over_runs(ax):
    runs = np.array([[1.0, 3.0], [2.0, 2.0], [5.0, 9.0]])  # (x, runs)
    line = plot.band(ax, X, runs, color="C1", label="a")
    np.testing.assert_allclose(line.get_ydata(), [2, 2, 7])
    np.testing.assert_allclose(shade(ax)[10.0], (7 - 8**0.5, 7 + 8**0.5))  # std of 5 and 9 with n − 1 is √8
    assert line.get_label() == "a" and len(ax.lines) == 1


def test_band_takes_the_axis_of_the_runs_and_quantiles(ax):
    runs = xr.DataArray(np.arange(33.0).reshape(11, 3), dims=("seed", "tau"))
    line = plot.band(ax, X, runs, axis=0, spread="quantiles")
    np.testing.assert_allclose(line.get_ydata(), [15, 16, 17])
    np.testing.assert_allclose(shade(ax)[0.1], (3, 27))


def test_curve_finds_x_and_the_runs_by_name(ax):
    runs = xr.DataArray(np.arange(33.0).reshape(11, 3), dims=("seed", "tau"), coords={"tau": X})
    line = plot.curve(ax, runs, spread="quantiles", color="C2")
    np.testing.assert_allclose(line.get_xdata(), X)
    np.testing.assert_allclose(line.get_ydata(), [15, 16, 17])
    assert line.get_color() == "C2"


def test_interval_draws_low_and_high(ax):
    plot.interval(ax, [1, 2], Estimate(np.array([3.0, 5.0]), np.array([2.0, 4.5]), np.array([7.0, 5.0]), 3))
    ((low, high),) = [zip(*(part[:, 1] for part in ax.collections[0].get_segments()), strict=True)]
    assert list(low) == [2, 4.5] and list(high) == [7, 5]
    plot.interval(ax, 1, Estimate(3.0, 2.0, 4.0, 3))  # one number


@pytest.mark.parametrize("spread", ["std", "quantiles"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_diverged_runs_are_marked_not_averaged(ax, spread, bad):
    runs = np.ones((3, 4))
    runs[1, 2] = bad
    line = plot.band(ax, X, runs, spread=spread)
    assert list(np.isnan(line.get_ydata())) == [False, True, False]
    (mark,) = [other for other in ax.lines if other is not line]
    assert list(mark.get_xdata()) == [1.0] and mark.get_marker() == "x"
    assert [text.get_text() for text in ax.texts] == ["1/4 diverged"]
    assert np.isfinite(np.concatenate([p.vertices for p in ax.collections[0].get_paths()])).all()


def test_band_where_every_run_diverged(ax):
    plot.band(ax, X, np.full((3, 2), np.nan), spread="quantiles")
    assert len(ax.texts) == 3


def test_bad_bands(ax):
    with pytest.raises(ValueError, match=r"shape \(3, runs\).*not \(2, 3\)"):
        plot.band(ax, X, np.ones((2, 3)))
    with pytest.raises(ValueError, match="not 'sem'"):
        plot.band(ax, X, np.ones((3, 2)), spread="sem")
    assert not ax.lines


def test_reference_slope(ax):
    line = plot.reference_slope(ax, -0.5, x=(1.0, 100.0), y=3.0)
    np.testing.assert_allclose(line.get_ydata(), [3.0, 0.3])
    assert ax.texts[0].get_text() == "slope −0.5"
    with pytest.raises(ValueError, match="positive x and y"):
        plot.reference_slope(ax, 1, x=(0.0, 1.0), y=1.0)


def picture():
    fig, ax = plt.subplots()
    plot.band(ax, X, np.array([[1.0, 2.0]] * 3))
    file = io.BytesIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    plt.close(fig)
    return file.getvalue()


def test_pictures_are_reproducible_and_small():
    with matplotlib.rc_context():
        plot.style()
        assert picture() == picture() and len(picture()) < 150_000
        matplotlib.rcParams["svg.hashsalt"] = None
        assert picture() != picture()  # the comparison notices ids that differ from run to run


def test_style_rejects_other_formats():
    with pytest.raises(ValueError, match="'svg' or 'png', not 'jpg'"):
        plot.style("jpg")
