"""Rows of a run as dask arrays, and a run as an xarray Dataset with a lazy sketch."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gradlog.analysis.common.text import portable_names, writable
from gradlog.analysis.common.types import Float32
from gradlog.analysis.reading.rows import RowSource, block_rows, increment_rows
from gradlog.analysis.reading.run import Run

if TYPE_CHECKING:
    import dask.array

Variable = tuple[tuple[str, ...], object, dict[str, str]]
"""Dimensions, values and attributes."""


def sketch_array(source: RowSource) -> dask.array.Array:
    """Rows as a dask array (step, group, k)."""
    return _blocks(source, np.ones(len(source), bool), _read_cube, (source.n_groups, source.k))


def increments_array(source: RowSource, chains: NDArray[np.int64]) -> dask.array.Array:
    """Increments within chains as a dask array (rows, n)."""
    follows = np.zeros(len(source), bool)
    follows[increment_rows(chains)] = True
    return _blocks(source, follows, _read_increments, (source.n,))


def _blocks(
    source: RowSource, mask: NDArray[np.bool_], read: Callable[..., Float32], shape: tuple[int, ...]
) -> dask.array.Array:
    """Join ``read(source, start, mask of a block)``, with a row of this shape for each that is masked."""
    import dask.array as da
    from dask import delayed

    rows = block_rows(source)
    wanted = [(start, mask[start : start + rows]) for start in range(0, len(source), rows)]
    parts = [
        da.from_delayed(delayed(read, pure=True)(source, start, own), (int(own.sum()), *shape), np.float32)
        for start, own in wanted
        if own.any()
    ]
    return da.concatenate(parts) if parts else da.zeros((0, *shape), dtype=np.float32)


def _read_cube(source: RowSource, start: int, mask: NDArray[np.bool_]) -> Float32:
    return source.read(start, start + len(mask)).reshape(len(mask), source.n_groups, source.k)


def _read_increments(source: RowSource, start: int, mask: NDArray[np.bool_]) -> Float32:
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
    if run.updates is not None and run.updates is not run.rows:
        about = "sketch of what the step did to the parameters"
        data["update"] = (("step", "group", "k"), sketch_array(run.updates), _attrs("parameter", about))
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
