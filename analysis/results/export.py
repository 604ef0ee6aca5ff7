"""Rows and results in the formats of other tools: netCDF, zarr, Parquet, CSV, npz.

Rows stream: no more than a block of the sketch is in memory, whatever the format. Results are small; in the flat
formats (CSV, Parquet) they become one long table of variable, coordinates and value.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradlog.analysis.common.text import no_formula, portable_names, writable
from gradlog.analysis.reading.rows import buffer_rows
from gradlog.analysis.reading.run import Run
from gradlog.errors import MissingDependencyError

if TYPE_CHECKING:
    import xarray

Form = Literal["netcdf", "zarr", "parquet", "csv", "npz"]
SUFFIX: dict[str, str] = {"netcdf": ".nc", "zarr": ".zarr", "parquet": ".parquet", "csv": ".csv", "npz": ".npz"}


def export_rows(run: Run, target: Path, form: Form, sketch: bool = True) -> None:
    """Write the rows of a run: step, flags, scalars, squared norms and sketch of each group.

    Parameters
    ----------
    run : Run
    target : Path
        Replaced if it exists, a folder excepted.
    form : {"netcdf", "zarr", "parquet", "csv", "npz"}
        In the flat formats a group's columns are ``norm2:GROUP`` and ``sketch:GROUP`` (Parquet: a list of k floats) or
        ``sketch:GROUP:0``, ``:1``, ... (CSV). The others take no slash in a name: the scalar ``lr/1`` becomes
        ``lr_1``, and its attribute ``original_name`` (npz: the JSON ``original_names``) keeps what it was.
    sketch : bool
        Whether to write the sketch too.

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
        _write_dataset(ds if sketch else ds.drop_vars("sketch"), target, form)
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
        arrays = {str(name): _plain_array(ds[name].values) for name in ds.variables}
        with target.open("wb") as file:  # given a name, savez would append a suffix
            np.savez(file, attrs=np.array(json.dumps(dict(ds.attrs))), **arrays)
    elif form == "csv":
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            dims = _dims(ds)
            writer.writerow(["variable", *dims, "value"])
            for name, at, v in _long(ds, dims):
                writer.writerow([name, *("" if c is None else no_formula(c) for c in at), repr(v)])
    else:
        _result_parquet(ds, target)


def columns(run: Run) -> dict[str, Any]:
    """Per-row columns of the flat formats, the sketch apart: step, flags, scalars, ``norm2:GROUP``."""
    found: dict[str, Any] = {"step": run.steps, "flags": run.flags}
    norms = {f"norm2:{writable(g)}": run.group_norm2[:, i] for i, g in enumerate(run.header.groups)}
    for name, column in run.scalar_columns.items():
        label = writable(name)
        found[f"scalar:{label}" if label in found or label in norms or not label else label] = column
    return found | norms


def blocks_of(run: Run) -> Iterator[tuple[int, int, Any]]:
    """Ranges of rows with their sketch, float32 (rows, groups, k)."""
    size = buffer_rows(run.rows)
    for start in range(0, run.n_steps, size):
        stop = min(start + size, run.n_steps)
        yield start, stop, run.rows.read(start, stop).reshape(stop - start, run.n_groups, run.k)


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
    arrays: dict[str, Any] = {"step": run.steps, "flags": run.flags, "group_norm2": run.group_norm2}
    arrays |= {"group": np.array([writable(g) for g in run.header.groups]), "info": np.array(json.dumps(run.info))}
    names = portable_names(run.scalar_columns, {*arrays, "sketch", "original_names"})
    arrays |= {label: run.scalar_columns[name] for name, label in names.items()}
    renamed = {label: writable(name) for name, label in names.items() if label != name}
    arrays["original_names"] = np.array(json.dumps(renamed))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
        if sketch:
            shape = (run.n_steps, run.n_groups, run.k)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            with archive.open("sketch.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for _, _, cube in blocks_of(run):
                    member.write(np.ascontiguousarray(cube, "<f4").tobytes())


def _rows_csv(run: Run, target: Path, sketch: bool) -> None:
    found = columns(run)
    coordinates = [f"sketch:{writable(g)}:{i}" for g in run.header.groups for i in range(run.k)] if sketch else []
    texts: list[Callable[[Any], str]] = [repr if np.issubdtype(c.dtype, np.floating) else str for c in found.values()]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([no_formula(name) for name in (*found, *coordinates)])
        for start, stop, cube in blocks_of(run):
            parts = [map(text, column[start:stop].tolist()) for text, column in zip(texts, found.values(), strict=True)]
            for row, values in zip(zip(*parts, strict=True), cube.reshape(stop - start, -1), strict=True):
                writer.writerow([*row, *(f"{x:.9g}" for x in values)] if sketch else row)


def _rows_parquet(run: Run, target: Path, sketch: bool) -> None:
    pa, pq = _pyarrow()
    found = columns(run)
    fields = [(name, pa.from_numpy_dtype(column.dtype)) for name, column in found.items()]
    if sketch:
        fields += [(f"sketch:{writable(g)}", pa.list_(pa.float32(), run.k)) for g in run.header.groups]
    schema = pa.schema(fields, metadata={"gradlog": json.dumps(run.info)})
    with pq.ParquetWriter(target, schema) as writer:
        for start, stop, cube in blocks_of(run):
            arrays = [pa.array(np.asarray(column[start:stop])) for column in found.values()]
            for g in range(run.n_groups if sketch else 0):
                flat = pa.array(np.ascontiguousarray(cube[:, g]).ravel())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, run.k))
            writer.write_table(pa.table(arrays, schema=schema))


def _result_parquet(ds: xarray.Dataset, target: Path) -> None:
    pa, pq = _pyarrow()
    dims = _dims(ds)
    rows = list(_long(ds, dims))
    arrays = [pa.array([name for name, _, _ in rows])]
    arrays += [pa.array([at[i] for _, at, _ in rows]) for i in range(len(dims))]
    arrays.append(pa.array([v for _, _, v in rows], pa.float64()))
    table = pa.table(arrays, names=["variable", *dims, "value"])
    pq.write_table(table.replace_schema_metadata({"gradlog": json.dumps(dict(ds.attrs))}), target)


def _dims(ds: xarray.Dataset) -> list[str]:
    return [str(d) for d in ds.sizes if any(d in ds[v].dims for v in ds.data_vars)]


def _long(ds: xarray.Dataset, dims: list[str]) -> Iterator[tuple[str, list[Any], float]]:
    """(variable, label of every dimension or None, value) of each number; positions where a dimension has no labels."""
    for name in map(str, ds.data_vars):
        variable = ds[name]
        own = [str(d) for d in variable.dims]
        marks = {d: variable[d].values.tolist() if d in ds.coords else list(range(ds.sizes[d])) for d in own}
        values = np.asarray(variable.values, np.float64)
        for index in np.ndindex(values.shape):
            at = {d: marks[d][i] for d, i in zip(own, index, strict=True)}
            yield name, [at.get(d) for d in dims], float(values[index])


def _plain_array(values: Any) -> Any:
    """Strings of fixed length instead of objects, which npz could only pickle."""
    return values.astype(str) if values.dtype == object else values


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        message = "Parquet needs pyarrow; install it with: pip install 'gradlog-zarr[parquet]'"
        raise MissingDependencyError(message) from error
    return pyarrow, pyarrow.parquet
