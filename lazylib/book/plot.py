"""Figures: one style for all chapters and the few drawings that recur.

A figure's caption, name and alternative text are metadata of its cell, not code:
``{"mystnb": {"figure": {"caption": …, "name": …}, "image": {"alt": …}}}``.
"""

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._drawn import table
from .stats import Estimate

# Okabe and Ito's palette: distinct also without red–green vision; its yellow is too pale for lines
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def style(format: Literal["svg", "png"] = "svg") -> None:
    """Set matplotlib's defaults, and in a notebook the format of its figures, with their points as CSV beside it.

    format: "svg", or "png" for pictures with so many points that an SVG would be heavy. The same figure gives
        the same bytes on each run.
    """
    if format not in ("svg", "png"):
        raise ValueError(f"format must be 'svg' or 'png', not {format!r}.")
    plt.rcParams.update(
        {
            "figure.figsize": (5.6, 3.5),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 110,
            "svg.hashsalt": "lazylib",
            "svg.fonttype": "path",
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 4,
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
        }
    )
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # plain Python: nothing is displayed
        return
    if (shell := get_ipython()) is not None:
        if plt.get_backend().lower() == "agg":  # an inherited MPLBACKEND=agg, with which a page has no figures
            shell.enable_matplotlib("inline")
        set_matplotlib_formats(format, metadata={"Date": None} if format == "svg" else {"Software": None})
        _keep_points(shell)


def _keep_points(shell: Any) -> None:
    """Let what a notebook shows of a figure hold its points too."""
    from IPython.core.formatters import BaseFormatter

    class Points(BaseFormatter):
        format_type = "text/csv"
        print_method = "_repr_csv_"  # no class has it: figures alone are shown so

    points = Points(parent=shell.display_formatter)
    points.for_type(Figure, table)
    shell.display_formatter.formatters[points.format_type] = points


def band(
    ax: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    axis: int = -1,
    spread: Literal["std", "quantiles"] = "std",
    **line: Any,
) -> Line2D:
    """Draw the mean of runs over x with a shaded band, and mark where runs diverged.

    x: (k,); values: k values along one axis and runs along `axis`, so (k, runs) by default; also a DataArray.
    spread: "std" draws mean ± one standard deviation of the runs, "quantiles" the median with the band from
    the 10 % to the 90 % quantile. line: options of ``ax.plot``.

    Where any run is not finite the curve has a gap, and a × at the top of the axes stands for it, with the
    number of such runs beside it: a diverged run is neither dropped nor averaged in.
    Raises ValueError if the shapes do not match or spread is unknown.
    """
    x = np.asarray(x, dtype=float)  # (k,)
    runs = np.moveaxis(np.asarray(values, dtype=float), axis, -1)  # (k, runs)
    if runs.shape[:-1] != x.shape or runs.shape[-1] == 0:
        raise ValueError(f"values must be of shape ({x.size}, runs) with one run at least, not {runs.shape}.")
    if spread not in ("std", "quantiles"):
        raise ValueError(f"spread must be 'std' or 'quantiles', not {spread!r}.")
    diverged = (~np.isfinite(runs)).sum(-1)  # (k,)
    low, middle, high = np.full((3, x.size), np.nan)
    whole = diverged == 0
    if spread == "std":
        middle[whole] = runs[whole].mean(-1)
        deviation = runs[whole].std(-1, ddof=1) if runs.shape[-1] > 1 else np.zeros(whole.sum())
        low[whole], high[whole] = middle[whole] - deviation, middle[whole] + deviation
    elif whole.any():
        low[whole], middle[whole], high[whole] = np.quantile(runs[whole], [0.1, 0.5, 0.9], axis=-1)

    (curve,) = ax.plot(x, middle, **line)
    ax.fill_between(x, low, high, color=curve.get_color(), alpha=0.2, linewidth=0)
    top = ax.get_xaxis_transform()  # x in data, y in parts of the axes' height
    for at, count in zip(x[~whole], diverged[~whole], strict=True):
        ax.plot([at], [0.97], "x", color=curve.get_color(), transform=top, clip_on=False)
        ax.annotate(
            f"{count}/{runs.shape[-1]} diverged",
            (at, 0.95),
            xycoords=top,
            rotation=90,
            fontsize=7,
            ha="center",
            va="top",
            color=curve.get_color(),
        )
    return curve


def curve(ax: Axes, array: xr.DataArray, over: str = "seed", **options: Any) -> Line2D:
    """`band` of an array with two dimensions: its runs, the dimension `over`, and x, the coordinate of the other."""
    (x,) = (name for name in array.dims if name != over)
    return band(ax, array[x].values, array.transpose(x, over).values, **options)


def interval(ax: Axes, x: Any, estimate: Estimate, **options: Any) -> None:
    """Points with their confidence intervals over x, as ``ax.errorbar`` draws them; options are its own."""
    value, low, high = (np.atleast_1d(np.asarray(part, dtype=float)) for part in estimate[:3])
    ax.errorbar(np.atleast_1d(x), value, yerr=[value - low, high - value], **{"capsize": 2, "fmt": "o", **options})


def reference_slope(ax: Axes, slope: float, x: tuple[float, float], y: float, label: str | None = None) -> Line2D:
    """Draw y·(x/x₀)^slope between x = (x₀, x₁), a straight dashed line on logarithmic axes, with its slope.

    y: height at x₀. label: text at its middle, by default "slope …".
    Raises ValueError unless x₀, x₁ and y are positive.
    """
    if not (min(x) > 0 and y > 0):
        raise ValueError(f"a reference slope needs positive x and y, not x = {tuple(x)}, y = {y}.")
    ends = np.array(x, dtype=float)
    (line,) = ax.plot(ends, y * (ends / ends[0]) ** slope, "--", color="0.4", linewidth=1.1)
    middle = np.sqrt(ends[0] * ends[1])
    text = label if label is not None else f"slope {slope:g}".replace("-", "−")
    ax.annotate(
        text,
        (middle, y * (middle / ends[0]) ** slope),
        xytext=(5, 5),
        textcoords="offset points",
        color="0.3",
        fontsize=9,
    )
    return line
