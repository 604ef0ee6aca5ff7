"""The directions of training among the numbers of a result, and read out of it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.directions.autocorrelation import Autocorrelation, autocorrelation_of
from gradlog.analysis.directions.direction_map import DirectionMap, map_of
from gradlog.analysis.directions.stretches import Stretches
from gradlog.analysis.directions.turns import Turn, usual_and_turns
from gradlog.analysis.directions.weights_path import SOURCES, weights_path
from gradlog.analysis.measures.spec import Values
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    import xarray

    from gradlog.analysis.reading.run import Run

OF_TURNS = ("step", "cosine", "low", "high")


def quantities(run: Run, found: Stretches | None) -> Values:
    """Numbers by the names of ``results.quantities``; of a run without stretches only those of its weights."""
    return _weights(run) | ({} if found is None else _map(found) | _turns(found) | _autocorrelation(found))


def _map(found: Stretches) -> Values:
    own = map_of(found)
    ends: Values = {"direction_cosine": own.cosine, "direction_cosine_low": own.low, "direction_cosine_high": own.high}
    return ends | {
        f"direction_{end}_step": steps.astype(float) for end, steps in (("first", own.first), ("last", own.last))
    }


def map_in(result: xarray.Dataset) -> DirectionMap | None:
    """Return the map of directions of a result; None where it has none."""
    if "direction_cosine" not in result:
        return None
    first, last = (result[f"direction_{end}_step"].values.astype(np.int64) for end in ("first", "last"))
    cosine, low, high = (result[f"direction_cosine{end}"].values for end in ("", "_low", "_high"))
    return DirectionMap(first, last, cosine, low, high, first, last)


def _turns(found: Stretches) -> Values:
    usual, turned = usual_and_turns(found)
    step, *ends = np.array([[getattr(turn, name) for name in OF_TURNS] for turn in turned]).reshape(-1, 4).T
    names = ("turn_cosine", "turn_cosine_low", "turn_cosine_high")
    found_at: Values = {"turn_usual": usual, "turn_step": step}
    return found_at | dict(zip(names, ends, strict=True))


def turns_in(result: xarray.Dataset) -> list[Turn]:
    """Return the turns of a result."""
    if "turn_step" not in result:
        return []
    usual = float(result["turn_usual"])
    columns = (result[f"turn_{name}"].values.tolist() for name in ("step", "cosine", "cosine_low", "cosine_high"))
    return [Turn(int(step), cosine, low, high, usual) for step, cosine, low, high in zip(*columns, strict=True)]


def _autocorrelation(found: Stretches) -> Values:
    own = autocorrelation_of(found)
    ends: Values = {"autocorrelation": own.value, "autocorrelation_low": own.low, "autocorrelation_high": own.high}
    numbers: Values = {"autocorrelation_lag": own.lag, "autocorrelation_single": own.single}
    return ends | numbers | {"autocorrelation_floor": own.floor}


def autocorrelation_in(result: xarray.Dataset) -> Autocorrelation | None:
    """Return the autocorrelation of a result; None where it has none."""
    if "autocorrelation" not in result:
        return None
    lag, value, low, high, floor = (
        result[f"autocorrelation{name}"].values for name in ("_lag", "", "_low", "_high", "_floor")
    )
    return Autocorrelation(lag, int(result["autocorrelation_single"]), value, low, high, floor)


def _weights(run: Run) -> Values:
    try:
        found = weights_path(run)
    except TooFewStepsError:  # nothing of them was recorded
        return {}
    ends: Values = {
        "weights_distance": found.distance,
        "weights_distance_low": found.low,
        "weights_distance_high": found.high,
    }
    numbers: Values = {
        "weights_step": found.steps.astype(float),
        "weights_length": found.length,
        "weights_efficiency": found.efficiency,
    }
    return ends | numbers | {"weights_source": SOURCES.index(found.source)}
