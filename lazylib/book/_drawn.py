"""What a figure shows, as a table: the points of its lines, bands, scatters and images, one a row.

In a notebook the table is another form of the figure's own output, "text/csv" beside the picture, from which the pages
offer it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import AxLine
from matplotlib.ticker import FixedFormatter, FuncFormatter

MOST = 200_000  # bytes; what would be longer is thinned
COLUMNS = ("panel", "series", "color", "x", "y", "low", "high", "z")


def table(figure: Figure) -> str | None:
    """The figure as CSV; None if it has nothing that is read here.

    The columns are ``panel``, its number and title; ``series``, the label in the legend, or what it is and its number;
    ``color``, which tells series without a label apart; ``x`` and ``y``; ``low`` and ``high``, the ends of a band or of
    an error bar; ``z``, the value behind a colour. What is nowhere used is left out. A coordinate that is not in the
    axes' units, such as x of a horizontal line, is empty. The first row has the names of the axes too, and says what
    the figure shows and the table does not have, and whether only every k-th point of each series is there.
    """
    panels = [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
    parts, missing = [], set[str]()
    for number, ax in enumerate(panels, start=1):
        title = " ".join(ax.get_title().split())
        for name, points in _series(ax, missing):
            panel = f"{number}: {title}" if title else str(number)
            parts.append(pd.DataFrame({"panel": panel, "series": name, **points}))
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    kept = [name for name in COLUMNS if any(name in part and part[name].notna().any() for part in parts)]
    names = {axis: _names([_label(ax, axis) for ax in panels]) for axis in "xy"}
    bars = [bar for ax in panels for artist in [*ax.collections, *ax.images] if (bar := artist.colorbar)]
    names["z"] = "; ".join(dict.fromkeys(filter(None, (bar.ax.get_ylabel() for bar in bars))))
    names["panel"] = f"not in this table: {', '.join(sorted(missing))}" if missing else ""
    text, every = "", 1
    while not text or len(text.encode()) > MOST:
        every = max(every + 1, math.ceil(every * len(text.encode()) / MOST)) if text else 1
        names["series"] = f"every {every}th point" if every > 1 else ""
        whole = pd.concat([part[::every] for part in parts]).reindex(columns=kept)
        header = [f"{name}: {names[name]}" if names.get(name) else name for name in kept]
        text = whole.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")
    return text


def _series(ax: Axes, missing: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and columns of each series of one panel; adds to `missing` what it has of other kinds."""
    if ax.name == "3d":
        missing.add("surfaces")
        return
    missing |= {"bars" for container in ax.containers if isinstance(container, BarContainer)}
    done: set[Any] = set()
    for number, container in enumerate(ax.containers, start=1):
        if isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            points, caps, bars = container.lines
            done |= {points, *caps, *bars}
            columns = _points(points)
            paths = bars[-1].get_paths() if container.has_yerr else []
            if paths and len(paths) == len(columns["x"]):
                columns["low"], columns["high"] = np.array([path.vertices for path in paths])[..., 1].T  # of (k, 2, 2)
            if bars and (container.has_xerr or "low" not in columns):
                missing.add("some error bars")
            yield _name(container, "points", number), columns
    fills = [c for c in ax.collections if isinstance(c, PolyCollection) and len(c.get_paths())]
    bands = {fill: _band(fill) for fill in fills}  # x → low, high
    for number, line in enumerate(ax.lines, start=1):
        if line in done or not line.get_visible():
            continue
        if isinstance(line, AxLine):
            missing.add("lines without ends")
            continue
        columns = _points(line)
        for fill, band in bands.items():
            own = _color(fill.get_facecolor()) == columns["color"] and set(band) <= set(columns["x"])
            if own and fill not in done:
                done.add(fill)
                both = [band.get(x, (math.nan, math.nan)) for x in columns["x"]]
                columns["low"], columns["high"] = np.array(both).T
                break
        if np.isfinite(columns["x"]).any() or np.isfinite(columns["y"]).any():
            yield _name(line, "line", number), columns
    artists: list[Any] = [*ax.collections, *ax.images]
    for number, artist in enumerate(artists, start=1):
        if artist in done or not artist.get_visible():
            continue
        if artist in bands:
            low, high = np.array(list(bands[artist].values())).T
            columns = {"color": _color(artist.get_facecolor()), "x": list(bands[artist]), "low": low, "high": high}
            yield _name(artist, "band", number), columns
        elif isinstance(artist, PathCollection):
            yield _name(artist, "points", number), _scatter(artist)
        elif isinstance(artist, ContourSet) and not artist.filled:
            yield from ((f"{_name(artist, 'contour', number)} {k}", part) for k, part in enumerate(_contours(artist)))
        elif isinstance(artist, LineCollection) and not isinstance(artist, ContourSet):
            x, y = np.concatenate([np.empty((0, 2)), *(path.vertices for path in artist.get_paths())]).T
            yield _name(artist, "segments", number), {"color": _color(artist.get_colors()), "x": x, "y": y}
        elif isinstance(artist, QuadMesh | AxesImage) and getattr(artist.get_array(), "ndim", 0) == 2:
            yield _name(artist, "image", number), _image(artist)
        else:
            missing.add("filled contours" if isinstance(artist, ContourSet) else _kind(artist))


def _kind(artist: Any) -> str:
    return "areas" if isinstance(artist, Collection) else "pictures"


def _name(artist: Any, kind: str, number: int) -> str:
    """The label, or what it is with its number in the panel."""
    label = str(artist.get_label())
    return label if label and not label.startswith("_") else f"{kind} {number}"


def _color(colors: Any) -> str:
    """The first of them, without its opacity."""
    return to_hex(colors[0]) if len(colors) else ""


def _points(line: Any) -> dict[str, Any]:
    """The points of a Line2D; what is not in the axes' units is NaN, and a line along an axis then has one point."""
    points = np.array(line.get_xydata(), dtype=float)  # (k, 2)
    inside = line.get_transform().contains_branch_seperately(line.axes.transData)
    points[:, ~np.array(inside)] = math.nan
    if not all(inside):
        points = pd.DataFrame(points).drop_duplicates().to_numpy()
    drawn = line.get_linestyle() not in ("None", "none", " ", "")
    color = to_hex(line.get_color() if drawn else line.get_markeredgecolor())
    return {"color": color, "x": points[:, 0], "y": points[:, 1]}


def _band(fill: Any) -> dict[float, tuple[float, float]]:
    """The lowest and highest point of a filled area at each x of its corners."""
    corners = np.concatenate([path.vertices for path in fill.get_paths()])  # (k, 2)
    found: dict[float, tuple[float, float]] = {}
    for x, y in corners.tolist():
        low, high = found.get(x, (y, y))
        found[x] = min(low, y), max(high, y)
    return dict(sorted(found.items()))


def _scatter(points: Any) -> dict[str, Any]:
    places: np.ndarray = np.ma.filled(np.ma.asarray(points.get_offsets(), dtype=float), math.nan)  # (k, 2)
    found: dict[str, Any] = {"x": places[:, 0], "y": places[:, 1]}
    if (values := points.get_array()) is not None:
        return found | {"z": np.asarray(values)}
    colors = points.get_facecolor() if len(points.get_facecolor()) else points.get_edgecolor()
    return found | {"color": [to_hex(c) for c in colors] if len(colors) == len(places) else _color(colors)}


def _contours(lines: Any) -> Iterator[dict[str, Any]]:
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        for part in path.to_polygons(closed_only=False):
            yield {"x": part[:, 0], "y": part[:, 1], "z": level}


def _image(image: Any) -> dict[str, Any]:
    """A value for each pixel of a QuadMesh or an AxesImage, at its centre."""
    values: np.ndarray = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), math.nan)  # (rows, columns)
    rows, columns = values.shape
    if isinstance(image, QuadMesh):
        edges: Any = image.get_coordinates()  # (rows + 1, columns + 1, 2)
        x, y = (_centres(edge, count) for edge, count in ((edges[0, :, 0], columns), (edges[:, 0, 1], rows)))
    else:
        left, right, bottom, top = image.get_extent()
        first, last = (top, bottom) if image.origin == "upper" else (bottom, top)
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        y = first + (np.arange(rows) + 0.5) * (last - first) / rows
    return {"x": np.tile(x, rows), "y": np.repeat(y, columns), "z": values.ravel()}


def _centres(edges: np.ndarray, count: int) -> np.ndarray:
    """The points that ``pcolormesh(shading="nearest")`` was given, whose edges lie in the middle between them."""
    if len(edges) == count:  # shading="gouraud"
        return edges
    points = [(edges[0] + edges[1]) / 2]
    for edge in edges[1:-1]:
        points.append(2 * edge - points[-1])
    return np.array(points)


def _label(ax: Axes, axis: str) -> str:
    """The name of an axis; where it has none, that of the panels it is shared with, of the figure, or of its places."""
    shared = getattr(ax, f"get_shared_{axis}_axes")().get_siblings(ax)
    labels = [getattr(each, f"get_{axis}label")() for each in [ax, *shared]]
    label = next(filter(None, labels), "") or getattr(ax.figure, f"get_sup{axis}label")()
    ticks = getattr(ax, f"{axis}axis")
    write = ticks.get_major_formatter()
    if not label and isinstance(write, FuncFormatter | FixedFormatter):  # rows with names
        names = {place: write(place, k) for k, place in enumerate(ticks.get_majorticklocs())}
        if not all(re.fullmatch(r"[-−.\d]*", name) for name in names.values()):
            label = ", ".join(f"{place:g} = {name}" for place, name in names.items())
    return " ".join(label.split())


def _names(labels: Sequence[str]) -> str:
    """One name for all panels that have one, or the number of each before its own."""
    if len(set(filter(None, labels))) == 1:
        return next(filter(None, labels))
    return "; ".join(f"{number} {label}" for number, label in enumerate(labels, start=1) if label)
