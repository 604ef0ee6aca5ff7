"""Rows and results in the formats of other tools: netCDF, zarr, Parquet, CSV, npz.

Rows stream: no more than a block of the sketch is in memory, whatever the format. Results are small; in the flat
formats (CSV, Parquet) they become one long table of variable, coordinates and value.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np

from gradlog.analysis.common.text import no_formula, portable_names, writable
from gradlog.analysis.reading.rows import RowSource, buffer_rows
from gradlog.analysis.reading.run import Run
from gradlog.errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas
    import xarray
    from numpy.typing import NDArray

Form = Literal["netcdf", "zarr", "parquet", "csv", "npz"]
SUFFIX: dict[str, str] = {"netcdf": ".nc", "zarr": ".zarr", "parquet": ".parquet", "csv": ".csv", "npz": ".npz"}


def export_rows(run: Run, target: Path, form: Form, sketch: bool = True) -> None:
    """Write the rows of a run: step, flags, scalars, squared norms, and sketch and recorded update of each group.

    Parameters
    ----------
    run : Run
    target : Path
        Replaced if it exists, a folder excepted.
    form : {"netcdf", "zarr", "parquet", "csv", "npz"}
        In the flat formats a group's columns are ``norm2:GROUP`` and ``sketch:GROUP`` (Parquet: a list of k floats) or
        ``sketch:GROUP:0``, ``:1``, ... (CSV). Updates beside gradients are ``update:GROUP`` likewise. The others take
        no slash in a name: the scalar ``lr/1`` becomes ``lr_1``, and its attribute ``original_name`` (npz: the JSON
        ``original_names``) keeps what it was.
    sketch : bool
        Whether to write the sketch too, and that of the update.

    Raises
    ------
    MissingDependencyError
        Parquet without pyarrow.
    ValueError
        Unknown form.

    Examples
    --------
    >>> export_rows(open_run("run.zarr"), Path("run.parquet"), "parquet")        # doctest: +SKIP
    """
    _known(form)
    run.require(1)
    if form in ("netcdf", "zarr"):
        ds = run.to_xarray()
        _write_dataset(ds if sketch else ds.drop_vars(["sketch", "update"], errors="ignore"), target, form)
    elif form == "npz":
        _rows_npz(run, target, sketch)
    elif form == "csv":
        _rows_csv(run, target, sketch)
    else:
        _rows_parquet(run, target, sketch)


def export_result(ds: xarray.Dataset, target: Path, form: Form) -> None:
    """Write a result of ``analyze``.

    Parameters
    ----------
    ds : xarray.Dataset
    target : Path
    form : {"netcdf", "zarr", "parquet", "csv", "npz"}
        CSV and Parquet: one line a number, columns ``variable``, one for each dimension, ``value``. npz: an array for
        each variable and coordinate, and ``attrs`` as JSON.

    Raises
    ------
    MissingDependencyError
        Parquet without pyarrow.
    ValueError
        Unknown form.
    """
    _known(form)
    if form in ("netcdf", "zarr"):
        _write_dataset(ds, target, form)
    elif form == "npz":
        arrays = {str(name): variable.values for name, variable in ds.variables.items()}
        _write_npz(target, {"attrs": np.array(json.dumps(dict(ds.attrs))), **arrays})
    elif form == "csv":
        table = _long(ds)
        for name in table.columns.intersection([d for d in ds.dims if ds[d].dtype == object]):
            table[name] = table[name].map(no_formula)
        table["value"] = table["value"].map(repr)  # unlike a label that is not there, NaN is written
        table.to_csv(target, index=False, lineterminator="\n")
    else:
        pa, pq = _pyarrow()
        numbers = {name: pa.array(c.to_numpy(), from_pandas=name != "value") for name, c in _long(ds).items()}
        pq.write_table(pa.table(numbers, metadata={"gradlog": json.dumps(dict(ds.attrs))}), target)


def columns(run: Run) -> dict[str, NDArray[np.generic]]:
    """Per-row columns of the flat formats, the sketches apart: step, flags, scalars, ``norm2:GROUP``.

    A scalar that is called like a column of a group, or like one of the others, is ``scalar:NAME``.
    """
    found: dict[str, NDArray[np.generic]] = {"step": run.steps, "flags": run.flags}
    of_groups = tuple(f"{kind}:" for kind in ("norm2", *sketches(run)))
    for name, column in run.scalar_columns.items():
        label = writable(name)
        taken = label in found or label.startswith(of_groups) or not label
        found[f"scalar:{label}" if taken else label] = column
    return found | {f"norm2:{writable(g)}": run.group_norm2[:, i] for i, g in enumerate(run.header.groups)}


def sketches(run: Run) -> dict[str, RowSource]:
    """Name what a run holds of each row as a sketch: the row itself, and an update beside a gradient."""
    beside = None if run.header.what == "update" else run.updates
    return {"sketch": run.rows} | ({} if beside is None else {"update": beside})


def blocks_of(run: Run, *sources: RowSource) -> Iterator[tuple[int, int, list[NDArray[np.float32]]]]:
    """Ranges of rows with what the sources hold of them, float32 (rows, groups, k) each."""
    size = buffer_rows(run.rows)
    for start in range(0, run.n_steps, size):
        stop = min(start + size, run.n_steps)
        shape = stop - start, run.n_groups, run.k
        yield start, stop, [source.read(start, stop).reshape(shape) for source in sources]


def _known(form: str) -> None:
    if form not in SUFFIX:
        raise ValueError(f"form must be one of {', '.join(SUFFIX)}, got {form!r}")


def _write_dataset(ds: xarray.Dataset, target: Path, form: str) -> None:
    if form == "netcdf":
        ds.to_netcdf(target, engine="h5netcdf")
        return
    with warnings.catch_warnings():
        # xarray looks for consolidated metadata and warns where it is missing, zarr warns that it is an extension
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        ds.to_zarr(target, consolidated=True, zarr_format=3)


def _rows_npz(run: Run, target: Path, sketch: bool) -> None:
    arrays: dict[str, NDArray[np.generic]] = {"step": run.steps, "flags": run.flags, "group_norm2": run.group_norm2}
    arrays |= {"group": np.array([writable(g) for g in run.header.groups]), "info": np.array(json.dumps(run.info))}
    names = portable_names(run.scalar_columns, {*arrays, *sketches(run), "original_names"})
    arrays |= {label: run.scalar_columns[name] for name, label in names.items()}
    renamed = {label: writable(name) for name, label in names.items() if label != name}
    arrays["original_names"] = np.array(json.dumps(renamed))
    _write_npz(target, arrays)
    header = {"descr": "<f4", "fortran_order": False, "shape": (run.n_steps, run.n_groups, run.k)}
    for name, source in sketches(run).items() if sketch else ():
        with zipfile.ZipFile(target, "a") as archive, archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for _, _, (cube,) in blocks_of(run, source):
                member.write(np.ascontiguousarray(cube, "<f4").tobytes())


def _write_npz(target: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays, as ``numpy.savez`` does; strings of fixed length instead of objects, which would be pickled."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                plain = array.astype(str) if array.dtype == object else array
                np.lib.format.write_array(member, plain, allow_pickle=False)


def _rows_csv(run: Run, target: Path, sketch: bool) -> None:
    import pandas

    found, sources = columns(run), sketches(run) if sketch else {}
    coordinates = [f"{name}:{writable(g)}:{i}" for name in sources for g in run.header.groups for i in range(run.k)]
    with target.open("w", encoding="utf-8", newline="") as file:
        for start, stop, cubes in blocks_of(run, *sources.values()):
            table = pandas.DataFrame({name: column[start:stop] for name, column in found.items()})
            cells = [np.empty((stop - start, 0), np.float32), *(cube.reshape(stop - start, -1) for cube in cubes)]
            values = pandas.DataFrame(np.concatenate(cells, axis=1), columns=coordinates)
            table = pandas.concat([table, values], axis=1).rename(columns=no_formula)
            table.to_csv(file, index=False, header=start == 0, lineterminator="\n", na_rep="nan")


def _rows_parquet(run: Run, target: Path, sketch: bool) -> None:
    pa, pq = _pyarrow()
    found, sources = columns(run), sketches(run) if sketch else {}
    fields = [(name, pa.from_numpy_dtype(column.dtype)) for name, column in found.items()]
    rows = pa.list_(pa.float32(), run.k)
    fields += [(f"{name}:{writable(g)}", rows) for name in sources for g in run.header.groups]
    schema = pa.schema(fields, metadata={"gradlog": json.dumps(run.info)})
    with pq.ParquetWriter(target, schema) as writer:
        for start, stop, cubes in blocks_of(run, *sources.values()):
            arrays = [pa.array(np.asarray(column[start:stop])) for column in found.values()]
            for cube, g in product(cubes, range(run.n_groups)):
                flat = pa.array(np.ascontiguousarray(cube[:, g]).ravel())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, run.k))
            writer.write_table(pa.table(arrays, schema=schema))


def _long(ds: xarray.Dataset) -> pandas.DataFrame:
    """Make a row for each number: variable, label or place in every dimension (none where it has no such), value."""
    import pandas

    parts = []
    for name, variable in ds.data_vars.items():
        places = np.indices(variable.shape).reshape(variable.ndim, variable.size)
        labels = {d: variable[d].values[at].astype(object) for d, at in zip(variable.dims, places, strict=True)}
        parts.append(pandas.DataFrame({"variable": name, **labels, "value": variable.values.astype(float).ravel()}))
    dims = [d for d in ds.sizes if any(d in variable.dims for variable in ds.data_vars.values())]
    return pandas.concat(parts, ignore_index=True)[["variable", *dims, "value"]]


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = "Parquet needs pyarrow; install it with: pip install 'gradlog-zarr[parquet]'"
        raise MissingDependencyError(message) from error
    return pyarrow, pyarrow.parquet
