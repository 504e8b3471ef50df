"""Tables as CSV: the stored results, for each file and each choice of dimensions; and the points of each figure."""

from pathlib import Path

import xarray as xr
from nbformat import NotebookNode

MOST = 20_000  # rows; what has more is left to the file itself, in results/


def write(chapter: str, results: Path, into: Path) -> list[str]:
    """Write the tables of a chapter, such as "03_tau_plateau", into a folder; returns their names.

    The first columns of a table are the dimensions, with their coordinates; the others are the variables.
    """
    names = []
    for path in sorted(results.glob(f"{chapter.partition('_')[0]}_*.nc")):
        data = xr.load_dataset(path, engine="h5netcdf")
        groups: dict[tuple, list[str]] = {}
        for name, variable in data.data_vars.items():
            groups.setdefault(variable.dims, []).append(str(name))
        for dims, variables in groups.items():
            table = (
                data[variables].to_dataframe(dim_order=list(dims)) if dims else data[variables].to_pandas().to_frame().T
            )
            if len(table) > MOST:
                continue
            names.append(f"{path.stem}{'_by_' if dims else ''}{'_'.join(map(str, dims))}.csv")
            into.mkdir(parents=True, exist_ok=True)
            table.to_csv(into / names[-1], index=bool(dims), float_format="%.8g")
    return names


def points(notebook: NotebookNode, into: Path) -> list[str]:
    """Take the points of the figures out of their outputs (in place), and write them to `into`; returns the names.

    They are there where the chapter was executed with lazylib.book.plot; a file bears the figure's name.
    """
    names = []
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for output in cell.get("outputs", []):
            table = output.get("data", {}).pop("text/csv", None)
            if table and name:
                names.append(f"{name}.csv")
                into.mkdir(parents=True, exist_ok=True)
                (into / names[-1]).write_text(table, encoding="utf-8")
    return names
