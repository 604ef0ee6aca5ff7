"""Rows of a run as dask arrays, and a run as an xarray Dataset with a lazy sketch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradlog.analysis.common.text import portable_names, writable
from gradlog.analysis.reading.rows import RowSource, block_rows, increment_rows
from gradlog.analysis.reading.run import Run

if TYPE_CHECKING:
    import dask.array

Variable = tuple[tuple[str, ...], object, dict[str, str]]
"""Dimensions, values and attributes."""


def sketch_array(source: RowSource) -> dask.array.Array:
    """Rows as a dask array (step, group, k)."""
    import dask.array as da
    from dask import delayed

    rows = block_rows(source)
    parts = []
    for start in range(0, len(source), rows):
        stop = min(start + rows, len(source))
        read = delayed(_read_cube, pure=True)(source, start, stop)
        parts.append(da.from_delayed(read, (stop - start, source.n_groups, source.k), np.float32))
    return da.concatenate(parts)


def increments_array(source: RowSource, chains: NDArray[np.int64]) -> dask.array.Array:
    """Increments within chains as a dask array (rows, n)."""
    import dask.array as da
    from dask import delayed

    follows = np.zeros(len(source), bool)
    follows[increment_rows(chains)] = True
    rows = block_rows(source)
    parts = []
    for start in range(0, len(source), rows):
        mask = follows[start : start + rows]
        count = int(np.count_nonzero(mask))
        if count:
            read = delayed(_read_increments, pure=True)(source, start, mask)
            parts.append(da.from_delayed(read, (count, source.n), np.float32))
    return da.concatenate(parts) if parts else da.zeros((0, source.n), dtype=np.float32)


def _read_cube(source: RowSource, start: int, stop: int) -> NDArray[np.float32]:
    return source.read(start, stop).reshape(stop - start, source.n_groups, source.k)


def _read_increments(source: RowSource, start: int, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    low = max(start - 1, 0)  # the halo row
    rows = np.diff(source.read(low, start + len(mask)), axis=0)
    return rows[mask if start else mask[1:]]


def scalars_dataset(run: Run) -> xr.Dataset:
    """Label the logged scalars by step."""
    return xr.Dataset(_scalars(run, {"step"}), {"step": ("step", run.steps)})


def run_dataset(run: Run) -> xr.Dataset:
    """Dataset of the run: lazy sketch, squared norms, flags, scalars by name."""
    about = "squared norm of the gradient" + ("" if run.has_exact_norms else ", estimated from the sketch")
    data: dict[str, Variable] = {
        "sketch": (("step", "group", "k"), sketch_array(run.rows), _attrs("gradient", "sketch of the gradient")),
        "group_norm2": (("step", "group"), run.group_norm2, _attrs("gradient^2", about)),
        "flags": (("step",), run.flags, _attrs("1", "bits: 1 non-finite, 2 skipped, 4 partial")),
    }
    coords = {"step": run.steps, "group": np.array(list(run.header.groups), dtype=object)}
    attrs = {"title": "gradlog run", "run": json.dumps(run.info)}
    return xr.Dataset(data | _scalars(run, {*data, *coords, "k"}), coords, attrs)


def _scalars(run: Run, taken: set[str]) -> dict[str, Variable]:
    """Scalars as variables under names that every format takes; a name that had to change is kept beside."""
    names = portable_names(run.scalar_columns, taken)
    return {
        label: (("step",), run.scalar_columns[name], {} if label == name else {"original_name": writable(name)})
        for name, label in names.items()
    }


def _attrs(units: str, text: str) -> dict[str, str]:
    return {"units": units, "long_name": text}
