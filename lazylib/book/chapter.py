"""What every chapter does the same way, one call each: its start, stored results, sentences with numbers, its notes.

p = chapter.start("08_width_scaling", globals(), PRESETS, claims="W1", trials=at_least(2), …)
…
stored = chapter.stored("widths", "scan")
axes = chapter.panels(runs, "widths", draw)
chapter.say(f"At m = {m} the test loss is {loss:.2g}.")
…
chapter.keep(widths=runs, scan=scanned)
chapter.notes()
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from IPython.display import Markdown, display

from ..runs.files import PACKAGE, write
from . import ledger, parameters, plot
from .provenance import provenance
from .stats import Estimate

RESULTS = PACKAGE.parent / "results"
MANIFEST = "SHA256SUMS"  # beside the results; `sha256sum *.nc > SHA256SUMS` writes it too, `sha256sum -c` checks it
SYMBOLS = {"alpha_hat": "√h·α"}  # of dimensions in tables
TITLES = {
    "paper": "published scale or near it, stored",
    "gpu": "a larger run on a GPU, stored",
    "cpu": "a larger run on a processor, stored",
}
_now: SimpleNamespace | None = None  # the chapter that runs in this process


def start(
    stem: str,
    namespace: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    *,
    claims: str,
    figures: str = "svg",
    **rules: Any,
) -> SimpleNamespace:
    """Resolve the parameters, set the style of figures, start the clock, and show the place of the verdicts.

    Args:
        stem: of the chapter's file, such as "08_width_scaling".
        namespace, presets, rules: as for `parameters.resolve`.
        claims: ids of the chapter's claims, "W1" or "K1 K2", "" if it has none. `notes` puts their verdicts where this
            shows their place.
        figures: "svg" or "png".

    Returns:
        The parameters as attributes, with `preset`, `label` and `store`: the folder LAZYLIB_STORE for the finished
        cells of sweeps, or None.

    Raises:
        ValueError: a wrong value, a damaged result or record of the chapter or a store that is no folder, in one
            sentence, before any work.
    """
    global _now
    for path in sorted(RESULTS.glob(f"{stem[:2]}_*.nc")):
        _verified(path)
    for id in claims.split():
        ledger.larger(id)  # `notes` needs the record
    p = parameters.resolve(namespace, presets, **rules)
    p.store = _store()
    plot.style(figures)  # type: ignore[arg-type]  # it refuses other words itself
    placeholder = Markdown("*The verdicts stand here when the chapter has run.*")
    verdicts = display(placeholder, display_id=True) if claims else None
    begun = time.perf_counter()
    _now = SimpleNamespace(stem=stem, p=p, claims=claims.split(), begun=begun, verdicts=verdicts, stored={})
    return p


def _store() -> str | None:
    given = os.environ.get("LAZYLIB_STORE", "").strip()
    folder = Path(given).expanduser()
    if given and folder.exists() and not folder.is_dir():
        raise ValueError(f"LAZYLIB_STORE must be a folder, but {given} is a file.")
    return str(folder) if given else None


def stored(*names: str, of: str | None = None) -> dict[str, xr.Dataset | None]:
    """The stored results of the largest runs, None for each that is not there; of the chapter's own it is said.

    `beside` and what builds on it show those of smaller ones that are stored too.

    Args:
        names: of the results, as `keep` was given them.
        of: the chapter whose results they are, such as 10_phase_diagram (None: the one that runs).

    Raises:
        ValueError: a file is not the one that results/SHA256SUMS lists.
    """
    now = _running()
    for name in names:
        now.stored[name] = []
        for path in (_path(of or now.stem, name, label) for label in ledger.LARGER):
            if path.exists():
                data = xr.load_dataset(io.BytesIO(_verified(path)), engine="h5netcdf")
                data.attrs["label"] = data.attrs.pop("scale", data.attrs.get("label"))  # of earlier versions
                now.stored[name].append(data)
    missing = [name for name in names if not now.stored[name]]
    said = f"not stored: {', '.join(missing)}." if missing else "stored: figures show them beside the live run."
    if of is None:
        print(f"Results of a larger run are {said}")
    return {name: next(iter(now.stored[name]), None) for name in names}


def beside(live: xr.Dataset, name: str) -> list[tuple[str, xr.Dataset]]:
    """The live result, and the stored ones of that name, the largest first, each with a title."""
    now = _running()
    return [(f"live: {now.p.label}", live), *((TITLES[data.attrs["label"]], data) for data in now.stored.get(name, []))]


def panels(live: xr.Dataset, name: str, draw: Callable[[Any, xr.Dataset], object], **size: Any) -> Any:
    """Draw the live result and the stored one side by side by `draw(axes, data)`; returns their axes."""
    both = beside(live, name)
    size = {"figsize": (4.1 * len(both), 3.5), "sharex": True, "sharey": True, "squeeze": False, **size}
    _, axes = plt.subplots(1, len(both), **size)
    for ax, (title, data) in zip(axes[0], both, strict=True):
        draw(ax, data)
        ax.set_title(title)
    return axes[0]


def rows(columns: int, width: float = 8.4, height: float = 3.2, **live: xr.Dataset) -> list[tuple[Any, list]]:
    """A row of axes for live results and one for the stored ones, if there are; each row with its results.

    live: name → result; all that belong in one row. The attribute n of the first stands at the row's left.
    """
    found = list(zip(*(beside(data, name) for name, data in live.items()), strict=False))
    _, axes = plt.subplots(len(found), columns, figsize=(width, height * len(found)), squeeze=False)
    for line, ((title, data), *_) in zip(axes, found, strict=True):
        line[0].set_ylabel(f"{title},\nn = {data.attrs['n']}" if "n" in data.attrs else title)
    return [(line, [data for _, data in parts]) for line, parts in zip(axes, found, strict=True)]


def table(cells: Mapping[Any, Mapping[Any, Any]] | xr.DataArray, decimals: int = 2, names: Any = None) -> None:
    """Show a table.

    Args:
        cells: row → column → a text, an estimate or a number; None and NaN leave a cell empty. A row or a column whose
            name is a tuple stands in groups. Or an array of two dimensions, the rows first; coordinates of its columns
            that are no whole numbers are shown with three digits.
        decimals: of numbers and estimates.
        names: of the levels of a row's name, a list.
    """
    if isinstance(cells, xr.DataArray):
        frame = cells.to_pandas()
        columns, dim = [f"{v:.3g}" if isinstance(v, float) else v for v in frame.columns], str(cells.dims[1])
        frame.columns = pd.Index(columns, name=SYMBOLS.get(dim, dim))
    else:
        frame = pd.DataFrame(list(cells.values()), index=_index(cells, names))
        frame.columns = _index(frame.columns)

    def text(cell: Any) -> str:
        if isinstance(cell, str):
            return cell
        number = math.nan if cell is None else cell.value if isinstance(cell, Estimate) else float(cell)
        return "" if math.isnan(number) else minus(f"{cell:.{decimals}f}")

    display(frame.map(text))


def _index(labels: Iterable, names: Any = None) -> pd.Index:
    labels = list(labels)
    if isinstance(labels[0], tuple):
        return pd.MultiIndex.from_tuples(labels, names=names)
    return pd.Index(labels, name=names and names[0])


def say(text: str) -> None:
    """Show a text with numbers in it, Markdown, as an output; a minus before a number becomes a true one.

    Raises:
        ValueError: the text has a role or a directive, which plain Jupyter would show raw.
    """
    raw = re.search(r"\{[\w:]+\}`|^(:::|```\{)", text, re.MULTILINE)
    if raw:
        raise ValueError(
            f"a sentence must be plain Markdown, without {raw[0]!r}: references go into the text around it."
        )
    parts = re.split(r"(\$[^$]*\$|`[^`]*`)", " ".join(text.split()))  # every second one is mathematics or code
    parts[::2] = map(minus, parts[::2])
    display(Markdown("".join(parts)))


def minus(text: str) -> str:
    """The text with true minus signs before its numbers."""
    return re.sub(r"(?<![\w.−–-])-(?=\.?\d)", "−", text)


def keep(*, folder: Path | None = None, seconds: float | None = None, **datasets: xr.Dataset) -> None:
    """Store results of a larger run, each with where it comes from; do nothing in any other run.

    A run is larger if its preset is paper, gpu or cpu, unchanged. Floats are rounded to single precision. A file is
    replaced whole or not at all, and only by a run of the same preset: results/NN_name.nc is the published size,
    NN_name_gpu.nc and NN_name_cpu.nc are larger runs on a GPU and on a processor. Its checksum goes to
    results/SHA256SUMS, by which it is known when it is read.

    Args:
        folder: instead of results/; by default that of the environment variable LAZYLIB_RESULTS, if it is set.
        seconds: that the run took, if it was made in pieces; by default since its start.
        datasets: name → result.
    """
    now = _running()
    if now.p.label not in ledger.LARGER:
        return
    folder = folder or (Path(given) if (given := os.environ.get("LAZYLIB_RESULTS")) else None)
    where = provenance(vars(now.p).get("device"))
    for name, data in datasets.items():
        small = data.map(lambda v: v.astype("float32") if v.dtype == float else v, keep_attrs=True)
        small.attrs = {
            **data.attrs,
            "chapter": now.stem,
            "label": now.p.label,
            "seconds": round(time.perf_counter() - now.begun if seconds is None else seconds, 1),
            "date": where["date"],
            "device": where["device"],
            "versions": str(where["versions"]),
            "code": str(where["code"]),
            "parameters": json.dumps({name: value for name, value in vars(now.p).items() if name != "store"}),
        }
        encoding = {variable: {"zlib": True} for variable in small.data_vars}
        path = _path(now.stem, name, now.p.label, folder)
        write(path, functools.partial(small.to_netcdf, engine="h5netcdf", encoding=encoding))
        sums = {**_sums(path.parent), path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        lines = "".join(f"{digest}  {file}\n" for file, digest in sorted(sums.items()))
        write(path.parent / MANIFEST, functools.partial(Path.write_text, data=lines, encoding="utf-8"))


def notes(seconds: float | None = None) -> None:
    """Say what this run and the stored ones took, and on what; put the verdicts into their place at the top.

    seconds: that this run took, if it was made in pieces; by default since its start.
    """
    now = _running()
    if now.verdicts is not None:  # there is no display to change outside of a notebook
        now.verdicts.update(Markdown(ledger.verdict_line(*now.claims)))
    where = provenance(vars(now.p).get("device"))
    seconds = time.perf_counter() - now.begun if seconds is None else seconds
    print(f"This run: preset {now.p.label}, {seconds:.0f} s on {where['device']}; {where['versions']}")
    took: dict[tuple, float] = {}  # a run has several files, written one after the other
    for data in itertools.chain(*now.stored.values()):
        run = tuple(data.attrs[name] for name in ("chapter", "label", "device", "date"))
        took[run] = max(took.get(run, 0.0), data.attrs["seconds"])
    for (stem, label, device, date), seconds in sorted(took.items()):
        of = "" if stem == now.stem else f" of {stem}"
        print(f"stored{of}: {label}, {seconds:.0f} s on {device}, {date}")


def _path(stem: str, name: str, label: str, folder: Path | None = None) -> Path:
    return (folder or RESULTS) / f"{stem[:2]}_{name}{'' if label == 'paper' else f'_{label}'}.nc"


def _verified(path: Path) -> bytes:
    """The bytes of a stored result, if they are those that the manifest lists."""
    data, listed = path.read_bytes(), _sums(path.parent).get(path.name)
    if hashlib.sha256(data).hexdigest() != listed:
        fault = "is damaged: its SHA-256 is not that of" if listed else "is not listed in"
        raise ValueError(
            f"{path} {fault} {MANIFEST} beside it; restore the file (git checkout), remove it, or, if it is meant, "
            f"list it (sha256sum *.nc > {MANIFEST})."
        )
    return data


def _sums(folder: Path) -> dict[str, str]:
    """File → SHA-256 of the results in a folder, by its manifest."""
    try:
        lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _running() -> SimpleNamespace:
    if _now is None:
        raise RuntimeError("chapter.start must be called first.")
    return _now
