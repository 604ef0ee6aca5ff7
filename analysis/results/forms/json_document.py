"""The result as one JSON object, schema ``gradlog.analysis/1``: fields may be added, never renamed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradlog.analysis.common.jackknife import ENDS
from gradlog.analysis.common.plain import plain
from gradlog.analysis.common.text import enumerate_some
from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.events import Events
from gradlog.analysis.measures.bounds import about
from gradlog.analysis.measures.interpretation import looked_at, verdict
from gradlog.analysis.measures.predictors.registry import fits_beta, is_reference
from gradlog.analysis.results.quantities import (
    CODES,
    DIRECTIONS,
    ERRORS,
    OF_EVERY_SCOPE,
    OF_THE_RUN,
    PAIR,
    PATH_SHARE,
    SPECTRUM,
    WHY_WITHHELD,
    Quantity,
)  # fmt: skip

if TYPE_CHECKING:
    import xarray

    from gradlog.analysis.results.forms.labelled_arrays import LabelledArrays

Document = dict[str, Any]
"""A JSON object, or one inside it. Any: a value is a number, text, None, a list or such an object; which,
``results.quantities`` and docs/quantities.md say."""

SCHEMA = "gradlog.analysis/1"
RUN_FIELDS = (
    "path", "steps", "first_step", "last_step", "every", "groups", "k", "seed", "kind", "stage", "what", "status",
    "dimension", "view", "gaps", "nonfinite", "abandoned", "norms", "created", "uuid", "sampled_of",
)  # fmt: skip
UNDEFINED = "undefined values written as null"
NO_BOUNDS = "no bounds: they need the logged loss and learning rate"
LABELLED = ("predictor", "other", "eps", "lag", "group")
VALUES_FIRST, ERRORS_FIRST = (ENDS, ERRORS, (WHY_WITHHELD,)), (ENDS[:1], ERRORS, ENDS[1:])
"""Orders of fields."""


def to_json(ds: xarray.Dataset | LabelledArrays) -> Document:
    """Plain object of an analysis, ready for ``json.dumps(..., allow_nan=False)``.

    Parameters
    ----------
    ds : xarray.Dataset
        From ``analyze``, or read back from netCDF or zarr. Or arrays that a Dataset can be made of.

    Returns
    -------
    dict
        NaN and inf are None, with a warning that names their fields.
    """
    run, inputs = json.loads(ds.attrs["run"]), json.loads(ds.attrs["bound_inputs"])
    numbers, attrs = _Numbers(ds), ds.attrs
    own: Document = {"path_shares": {"steps": numbers.largest_steps()}, "differences": {}}
    numbers.fill(own, OF_THE_RUN)
    own["path_shares"]["by_group"] = {}
    for i, name in enumerate(numbers.labels["group"]):
        numbers.fill(own, [PATH_SHARE], "group_", (i,), (name,), ERRORS_FIRST)
    result: Document = {"schema": SCHEMA, "run": {f: run[f] for f in RUN_FIELDS if f in run}}
    numbers.fill(result, OF_EVERY_SCOPE)
    result["noise"] |= {"source": attrs["signal_source"] or None, "withheld": attrs["signal_withheld"]}
    result |= {q.place: own[q.place] for q in SPECTRUM} | _passes(attrs)
    result |= {"path_shares": own["path_shares"], "differences": own["differences"], "burn_in": int(attrs["burn_in"])}
    result["bounds"] = {"inputs": inputs, "about": about(inputs.get("optimizer", ""))} | own["bounds"]
    if "events" in attrs:  # a result that an earlier version wrote has none
        result["events"] = Events.of(json.loads(attrs["events"]), "").summary()
    result["windows"], result["prefixes"] = numbers.ranges("window"), numbers.ranges("prefix")
    result |= {key: own[key] for key in ("clipping", "subspace") if key in own}
    if "directions_withheld" in attrs:
        result["directions"] = {"withheld": attrs["directions_withheld"]}
        result["directions"] |= numbers.fill({}, DIRECTIONS).get("directions", {})
    result["by_group"] = numbers.by_group("group_")
    for i, found in enumerate(result["by_group"].values()):
        found["singular_values"] = [x for x in numbers.values["group_singular_value"][i].tolist() if not math.isnan(x)]
    return _judged(result, json.loads(attrs["warnings"]))


def _passes(attrs: Document) -> Document:
    """How the numbers came about."""
    svd = {name: attrs[f"svd_{name}"] for name in ("method", "reason")}
    svd |= {"passes": int(attrs["svd_passes"]), "certificate": float(attrs["svd_certificate"])}
    svd |= {"seed": int(attrs["svd_seed"])} | {name: int(attrs[name]) for name in ("bytes_read", "predicted_memory")}
    epochs = {"steps": int(attrs["steps_per_epoch"]) or None, "source": attrs["epoch_source"] or None}
    return {
        "svd": svd,
        "epochs": epochs | {"unknown": attrs["epoch_unknown"]},
        "kernel": attrs["kernel"],
        "exact_groups": json.loads(attrs.get("exact_groups", "[]")),
    }


def _judged(result: Document, warnings: list[str]) -> Document:
    """Document without NaN, with a verdict on each predictor, and warnings that name what is undefined."""
    lost: list[str] = []
    document: Document = plain(result, lost)
    document["verdicts"] = {"looked_at": _judge(document)}
    none = "missing" in result["bounds"]["inputs"]["sources"].values()
    undefined = [f"{UNDEFINED}: {enumerate_some(lost)}"] if lost else []
    return document | {"warnings": [*warnings, *([NO_BOUNDS] if none else []), *undefined]}


def of_lags(document: Document) -> str:
    """Say of a signal from lags what its interval covers, and that short epochs, if there are any, would lower it."""
    if document["noise"]["source"] != "lags":
        return ""
    covers = "" if document["run"]["kind"] == "exact/1" else ", within the sketch's error only"
    return covers + (", if epochs are long" if document["epochs"]["unknown"] else "")


class _Numbers:
    """Variables of a result, and the labels of their dimensions."""

    def __init__(self, ds: xarray.Dataset | LabelledArrays) -> None:
        self.values = {str(name): variable.values for name, variable in ds.variables.items()}
        self.labels = {d: [f"{x:g}" if d == "eps" else str(x) for x in self.values[d]] for d in LABELLED}

    def fill(
        self,
        tree: Document,
        quantities: Iterable[Quantity],
        scope: str = "",
        at: tuple[int, ...] = (),
        inside: tuple[str, ...] = (),
        order: Iterable[Sequence[str]] = VALUES_FIRST,
    ) -> Document:
        """Put quantities into a tree, each at its place.

        Parameters
        ----------
        tree : dict
        quantities : iterable of Quantity
        scope : str
            What the names of the scope's variables begin with.
        at : tuple of int
            Positions in the dimensions of the scope.
        inside : tuple of str
            Labels of the scope, for places that have a ``*`` for them.
        order : iterable of sequences of str
            Endings in the order of the document.
        """
        for endings in order:
            for quantity, ending in itertools.product(quantities, endings):
                values = self.values.get(f"{scope}{quantity.name}{ending}")
                if values is None and quantity.everywhere and ending in quantity.endings:
                    values = np.full([len(self.labels[d]) for d in quantity.dims], np.nan)
                elif values is not None:
                    values = values[at]
                if values is not None and quantity.place:
                    self._put(tree, quantity, ending, values, inside)
        return tree

    def _put(self, tree: Document, quantity: Quantity, ending: str, values: Float64, inside: tuple[str, ...]) -> None:
        keys = quantity.place_of(ending).split("/")
        if quantity.dims and "*" not in keys:
            _set(tree, keys, _listed(quantity, values))
            return
        for index in np.ndindex(values.shape):
            names = [self.labels[d][i] for d, i in zip(quantity.dims, index, strict=True)]
            # of two predictors the difference is told once, and only a fitted decay is news
            if not (quantity.dims == PAIR and index[0] >= index[1]) and (quantity.name != "beta" or fits_beta(*names)):
                labels = iter((*inside, *names))
                place = [next(labels) if key == "*" else key for key in keys]
                _set(tree, place, _entry(quantity, ending, values[index]))

    def largest_steps(self) -> list[Document]:
        """Give the ten steps with the largest shares in the path length."""
        shares, steps = self.values["step_path_share"], self.values["path_step"]
        return [{"step": int(steps[i]), "share": float(shares[i])} for i in shares.argsort(kind="stable")[::-1][:10]]

    def by_group(self, scope: str, at: tuple[int, ...] = ()) -> Document:
        """Numbers of each group by its name; empty where groups were not measured."""
        names = self.labels["group"] if f"{scope}kappa" in self.values else []
        return {name: self.fill({}, OF_EVERY_SCOPE, scope, (*at, i)) for i, name in enumerate(names)}

    def ranges(self, kind: str) -> list[Document]:
        """Numbers of each window or prefix, between its steps."""
        found = []
        for i in range(len(self.values.get(f"{kind}_kappa", ()))):
            steps = {f"{end}_step": int(self.values[f"{kind}_{end}_step"][i]) for end in ("first", "last")}
            groups = self.by_group(f"{kind}_group_", (i,))
            found.append(self.fill(steps, OF_EVERY_SCOPE, f"{kind}_", (i,)) | ({"by_group": groups} if groups else {}))
        return found


def _set(tree: Document, keys: Sequence[str], value: object) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _listed(quantity: Quantity, values: Float64) -> object:
    """Nested lists, with None for what is withheld; NaN stays where a number is undefined."""
    if quantity.whole:
        return values.astype(np.int64).tolist()
    shown = values.astype(object)
    if quantity.withheld:
        shown[np.isnan(values)] = None
    return shown.tolist()


def _entry(quantity: Quantity, ending: str, number: float | Float64) -> str | float | None:
    """Write a word for a code, None for what is withheld; NaN stays where a number is undefined."""
    codes = CODES.get(quantity.name + ending)
    if codes:
        return codes[int(number)] or None
    if not math.isfinite(number):
        return None if quantity.withheld or ending in ERRORS else float(number)
    return int(number) if quantity.whole and number == int(number) else float(number)


def _judge(scope: Document) -> int:
    """Add the verdict on each predictor of a scope and of those inside it; return how many there are."""
    said = []
    for name, kappa in scope["kappa"].items():
        kappa["verdict"] = "reference" if is_reference(name) else verdict(kappa)
        said.append(kappa["verdict"])
    inside = [*scope.get("windows", []), *scope.get("prefixes", []), *scope.get("by_group", {}).values()]
    return looked_at(said) + sum(map(_judge, inside))
