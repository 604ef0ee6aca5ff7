"""Results as plain arrays and back, and many results as one Dataset with a dimension ``run``; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

BY_PLACE = ("path_step", "increment_step")
"""Dimensions whose labels are steps of one run: many runs line them up by place."""


def to_arrays(ds: xr.Dataset) -> dict[str, NDArray[Any]]:
    """Arrays of a Dataset by name, and one of JSON with the rest; text as fixed-width unicode."""
    layout = {"attrs": ds.attrs, "variables": {}}
    arrays: dict[str, NDArray[Any]] = {}
    for name, variable in ds.variables.items():
        values = variable.values
        arrays[f"v.{name}"] = values.astype("U") if values.dtype.hasobject else values
        layout["variables"][str(name)] = [
            list(variable.dims),
            variable.attrs,
            name in ds.coords,
            values.dtype.hasobject,
        ]
    arrays["layout"] = np.array(json.dumps(layout))
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> xr.Dataset:
    """Dataset of ``to_arrays``."""
    layout = json.loads(str(arrays["layout"]))
    parts: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for name, (dims, attrs, coordinate, text) in layout["variables"].items():
        values = arrays[f"v.{name}"]
        parts[coordinate][name] = (dims, values.astype(object) if text else values, attrs)
    return xr.Dataset(parts[False], parts[True], layout["attrs"])


def stack(results: Sequence[xr.Dataset], labels: Sequence[str], attrs: dict[str, Any]) -> xr.Dataset:
    """One Dataset of several analyses, NaN where a run has no such group, mode or window.

    Parameters
    ----------
    results : Datasets of ``analyze``
    labels : names of the runs, the coordinate ``run``
    attrs : attributes of the whole

    Returns
    -------
    xarray.Dataset
        Every variable with a leading dimension ``run``; what each run's own attributes said, as JSON in
        ``run_attrs`` (run,).
    """
    run = xr.DataArray(np.array(labels, dtype=object), dims="run", name="run")
    if not results:
        return xr.Dataset(coords={"run": run}, attrs=attrs)
    aligned = [_by_place(ds) for ds in results]
    joined = xr.concat(
        aligned, dim=run, data_vars="all", coords="different", compat="equals", join="outer", combine_attrs="drop"
    )
    for name, variable in joined.variables.items():
        first = next(ds.variables[name] for ds in aligned if name in ds.variables) if name != "run" else variable
        variable.attrs = dict(first.attrs)
    kept = np.array([json.dumps(ds.attrs) for ds in results], dtype=object)
    joined["run_attrs"] = (("run",), kept, {"long_name": "attributes of each analysis, JSON"})
    joined.attrs = attrs
    return joined


def _by_place(ds: xr.Dataset) -> xr.Dataset:
    """Give dimensions without common labels their place as one, so that runs of any length line up."""
    for name in BY_PLACE:
        if name in ds.dims:
            ds = ds.reset_index(name).reset_coords(name).rename_dims({name: name.replace("step", "place")})
    bare = [d for d in ds.dims if d not in ds.indexes]
    return ds.assign_coords({d: np.arange(ds.sizes[d]) for d in bare})
