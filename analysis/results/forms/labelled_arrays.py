"""The result of an analysis: arrays with named dimensions, units and attributes, without xarray.

What prints a result, keeps it or compares it needs no more. ``dataset`` makes the Dataset, for which xarray and
pandas have to be loaded; they take longer than the analysis of a short run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.measures.gradient_noise import LAGS
from gradlog.analysis.measures.spec import AnalysisSpec, Values
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.plan import Range
from gradlog.analysis.results.quantities import FLAGS, VARIABLES

SCOPES = {
    "": ((), ""),
    "group": (("group",), ", by parameter group"),
    "window": (("window",), ", by window of rows"),
    "prefix": (("prefix",), ", by growing prefix"),
    "window_group": (("window", "group"), ", by window and group"),
    "prefix_group": (("prefix", "group"), ", by growing prefix and group"),
}
BY_PLACE = ("increment_step", "path_step")
"""Dimensions whose labels are steps of one run: many runs line them up by place."""
LENGTHS = {"mode": "{}_mode", "tail_rank": "{}_tail_rank"}


class LabelledArray(NamedTuple):
    """An array, the names of its dimensions, and what it says of itself."""

    dims: tuple[str, ...]
    values: NDArray[Any]  # numbers or text
    attrs: dict[str, object]


@dataclasses.dataclass(frozen=True)
class LabelledArrays:
    """All numbers of an analysis; ``variables`` and ``attrs`` are named as a Dataset names them.

    Attributes
    ----------
    variables : dict of LabelledArray
        Labels of dimensions among them.
    coordinates : tuple of str
        Which of them are labels.
    attrs : dict
    """

    variables: dict[str, LabelledArray]
    coordinates: tuple[str, ...]
    attrs: dict[str, Any]  # numbers and text, as in a Dataset

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays by name, and one of JSON with the rest; text as fixed-width unicode."""
        layout = {name: (one.dims, one.values.dtype.str, one.attrs) for name, one in self.variables.items()}
        plain = {
            f"v.{name}": one.values.astype("U") if one.values.dtype.hasobject else one.values
            for name, one in self.variables.items()
        }
        return {"layout": np.array(json.dumps([layout, self.coordinates, self.attrs])), **plain}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> LabelledArrays:
        """Return what ``to_arrays`` was called on."""
        layout, coordinates, attrs = json.loads(str(arrays["layout"]))
        variables = {
            name: LabelledArray(tuple(dims), arrays[f"v.{name}"].astype(dtype), about)
            for name, (dims, dtype, about) in layout.items()
        }
        return cls(variables, tuple(coordinates), attrs)


def labelled(
    run: Run, spec: AnalysisSpec, values: dict[str, list[Values]], ranges: dict[str, list[Range]],
    attrs: Mapping[str, object],
) -> LabelledArrays:  # fmt: skip
    """Label the values of every scope, which are in order."""
    groups = list(run.header.groups)
    sizes = {"group": len(groups), "window": len(ranges["window"]), "prefix": len(ranges["prefix"])}
    predictors = _text([p.name for p in spec.predictors])
    labels: dict[str, NDArray[Any]] = {"predictor": predictors, "eps": np.array(spec.eps), "group": _text(groups)}
    labels |= {"other": predictors, "lag": np.arange(1, LAGS + 1)}
    coordinates = {name: LabelledArray((name,), array, {}) for name, array in labels.items()}
    for kind, own in ((kind, ranges[kind]) for kind in ("window", "prefix") if ranges[kind]):
        for end, rows in (("first", [r.start for r in own]), ("last", [r.stop - 1 for r in own])):
            about: dict[str, object] = {"long_name": f"{end} step of the {kind}", "units": "step"}
            coordinates[f"{kind}_{end}_step"] = LabelledArray((kind,), run.steps[np.array(rows, int)], about)
    steps = {name: np.asarray(values[""][0][name]) for name in BY_PLACE if name in values[""][0]}
    coordinates |= {name: LabelledArray((name,), array, {}) for name, array in steps.items()}
    variables: dict[str, LabelledArray] = {}
    for scope, found in values.items():
        if found:
            variables |= _scope(scope, found, sizes, spec.scale)
    return LabelledArrays(variables | coordinates, tuple(coordinates), _attrs(run, attrs))


def _scope(scope: str, found: list[Values], sizes: dict[str, int], scale: float) -> dict[str, LabelledArray]:
    outer, about = SCOPES[scope]
    variables: dict[str, LabelledArray] = {}
    for name in dict.fromkeys(name for v in found for name in v):
        if name not in VARIABLES:
            continue
        dims, units, text = VARIABLES[name]
        # a signal share may be known of some groups and not of others
        rows = [np.asarray(v.get(name, np.nan), np.float64) / (scale if units == "gradient" else 1.0) for v in found]
        dims = tuple(LENGTHS[d].format(scope) if scope and d in LENGTHS else d for d in dims)
        stacked = _stacked(rows)
        data = stacked.reshape((*(sizes[d] for d in outer), *stacked.shape[1:]))
        label = f"{scope}_{name}" if scope else name
        variables[label] = LabelledArray(outer + dims, data, {"units": units, "long_name": text + about} | _flags(name))
    return variables


def _flags(name: str) -> dict[str, object]:
    """Meanings of the values 0, 1, ... of a flag, as the CF conventions name them."""
    if name not in FLAGS:
        return {}
    words = " ".join(meaning.replace(" ", "_") for meaning in FLAGS[name])
    return {"flag_values": list(range(len(FLAGS[name]))), "flag_meanings": words}


def _stacked(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Stack, filling shorter spectra with NaN."""
    longest = np.max([r.shape for r in rows], axis=0)
    padded = [np.pad(r, [(0, n) for n in longest - r.shape], constant_values=np.nan) if r.ndim else r for r in rows]
    return np.stack(padded)


def _attrs(run: Run, attrs: Mapping[str, object]) -> dict[str, object]:
    plain = {k: v if isinstance(v, int | float | str) else json.dumps(v, allow_nan=True) for k, v in attrs.items()}
    try:
        library = version("gradlog-zarr")
    except PackageNotFoundError:
        library = "source tree"
    return {
        "title": "gradlog analysis",
        "Conventions": "CF-1.10",
        "references": "arXiv:2601.04270",
        "gradlog_version": library,
        "run": json.dumps(run.info),
        **plain,
    }


def _text(labels: list[str]) -> NDArray[np.object_]:
    """Labels of variable length: the form in which zarr and netCDF give strings back."""
    return np.array(labels, dtype=object)
