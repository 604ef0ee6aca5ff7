"""The one table of every number of a result: from it are made the Dataset, the JSON document and the reference page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from gradlog.analysis.common.jackknife import ENDS
from gradlog.analysis.directions.weights_path import SOURCES
from gradlog.analysis.events.words import KINDS
from gradlog.analysis.measures.fluctuation import REASONS
from gradlog.analysis.spectrum.shuffled_rank import METHODS

ERRORS = ("_run", "_total")
"""Endings of the half-widths of a fluctuation within the run, and of both errors together."""
WHY_WITHHELD = "_run_withheld"
"""Ending of the reason why the first of them is withheld."""


class Variable(NamedTuple):
    """What a variable of the Dataset says of itself."""

    dims: tuple[str, ...]
    units: str
    text: str


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of a result, or one for each label of its dimensions.

    Attributes
    ----------
    name : str
        Of the variable in the Dataset; a scope puts its own name in front, such as ``group_kappa``.
    dims : tuple of str
    units, text : str
        Attributes ``units`` and ``long_name``.
    place : str
        Keys of the JSON document; ``*`` stands for a label of a dimension. Empty: the Dataset alone has it.
    interval : str
        What its ends ``_low`` and ``_high`` are, with ``{}`` for the words lower and upper. Empty: it has none.
    errors : tuple of str
        What its half-widths ``_run`` and ``_total`` are, and the code ``_run_withheld``. Empty: it has none.
    withheld : str
        What it means that there is no number although nothing is wrong. Empty: JSON counts it as undefined.
    beside : str
        Place of its ends and half-widths, where that is not beside the value.
    whole : bool
        Whether JSON writes whole numbers without a fraction.
    everywhere : bool
        Whether JSON has a null in scopes in which it was not measured.

    Examples
    --------
    >>> gain = Quantity("gain", ("predictor",), "1", "1 - kappa / kappa_null", "kappa/*/gain", "{} end of the gain")
    >>> gain.variables()["gain_low"].text, gain.place_of("_low")
    ('lower end of the gain', 'kappa/*/gain_low')
    """

    name: str
    dims: tuple[str, ...]
    units: str
    text: str
    place: str = ""
    interval: str = ""
    errors: tuple[str, ...] = ()
    withheld: str = ""
    beside: str = ""
    whole: bool = False
    everywhere: bool = False

    @property
    def endings(self) -> dict[str, str]:
        """Texts of the variables that belong to it, by what their names add to its own."""
        ends = {ending: self.interval.format(word) for ending, word in zip(ENDS[1:], ("lower", "upper"), strict=True)}
        errors = dict(zip((*ERRORS, WHY_WITHHELD), self.errors, strict=False))
        return {"": self.text} | (ends if self.interval else {}) | errors

    def variables(self) -> dict[str, Variable]:
        """Variables of the Dataset by name."""
        return {self.name + ending: Variable(self.dims, self.units, text) for ending, text in self.endings.items()}

    def place_of(self, ending: str) -> str:
        """Place of the variable of this ending: a key ``value`` becomes its name, any other key gets it added."""
        if not ending:
            return self.place
        keys = (self.beside or self.place).split("/")
        at = max(i for i, key in enumerate(keys) if key != "*")
        ending += "_half" if ending in ERRORS else ""
        keys[at] = ending[1:] if keys[at] == "value" else keys[at] + ending
        return "/".join(keys)


def _errors(of: str, note: str = "") -> tuple[str, str]:
    run = f"half-width of the 95 % fluctuation of {of} within the run{note}"
    return run, f"half-width of both errors of {of} together"


P, PAIR, E, LAG, G2 = ("predictor",), ("predictor", "other"), ("eps",), ("lag",), "gradient^2"
SKETCH = "{} end of the sketch 95 % interval of "
ITS_SKETCH = "{} end of its sketch 95 % interval"
MINIBATCHES = "{} end of its 95 % interval: what other minibatches would give; from lags the sketch 95 %"
ITS_RUN = "half-width of its 95 % fluctuation within the run"
RANK = "r*(eps) of the logged increments"
WHY = "why it is withheld: " + ", ".join(f"{code} {reason or 'it is not'}" for code, reason in REASONS.items())
UNKNOWN_RANK = "not identifiable from this sketch, or measured of the run and its groups alone"
UNKNOWN_SIGNAL = "not told apart: the field noise.withheld says why"

KAPPA = (
    Quantity("kappa", P, "1", "predictability index, path length over energy; NaN without energy", "kappa/*/value",
             SKETCH + "kappa",
             ("half-width of the 95 % fluctuation of kappa within the run; NaN where withheld",
              "half-width of both errors of kappa together, the sketch's and the fluctuation", WHY)),
    Quantity("kappa_null", P, "1", "kappa expected of the same rows in random order", "kappa/*/null"),
    Quantity("gain", P, "1", "1 - kappa / kappa_null", "kappa/*/gain", SKETCH + "the gain",
             _errors("the gain", ", its baseline taken as known")),
    Quantity("gain_chance", P, "1",
             "gain up or down that about 19 of 20 random orders of the same rows stay below", "kappa/*/gain_chance",
             withheld="the pass kept no Gram of these rows"),
    Quantity("gain_floor", P, "1",
             "gain up or down that is too small to matter: of a correlation of 2 % with the prediction",
             "kappa/*/gain_floor", withheld="no energy"),
    Quantity("gain_epochs", P, "1",
             "gain that epochs of 4 steps would show with frozen parameters; NaN where epochs are known",
             "kappa/*/gain_epochs", withheld="the length of an epoch is known"),
    Quantity("beta", P, "1", "decay in use, for exponential moving averages", "kappa/*/beta"),
)  # fmt: skip

RANKS = (
    Quantity("rank", E, "1", f"{RANK}; its certified upper bound where it is not closed", "rank/*/value",
             f"certified {{}} bound of {RANK}", whole=True),
    Quantity("rank_null", E, "1", "r*(eps) of the same rows in random order, mean", "rank/*/null",
             "{} end of the range of r*(eps) in 9 of 10 random orders", whole=True),
    Quantity("rank_estimate", E, "1", "r*(eps) of the gradients themselves, NaN where not identifiable",
             "rank/*/estimate", "{} end of its range: spread over sub-sketches and usual error",
             withheld=UNKNOWN_RANK, whole=True, everywhere=True),
    Quantity("rank_null_method", (), "1", "how the random orders were drawn", "rank_null_method"),
    Quantity("stable_rank", (), "1", "E / sigma_1^2", "rank_measures/stable"),
    Quantity("participation_rank", (), "1", "(sum sigma^2)^2 / sum sigma^4", "rank_measures/participation"),
    Quantity("entropy_rank", (), "1", "exp(-sum p log p), p = sigma^2 / E", "rank_measures/entropy"),
    Quantity("participation_estimate", (), "1",
             "participation ratio of the gradients themselves, sketch bias removed",
             "rank_measures/participation_estimate", SKETCH + "participation_estimate", withheld=UNKNOWN_RANK),
)  # fmt: skip

NOISE = (
    Quantity("signal", (), G2,
             "mean squared norm of the gradient free of minibatch noise; see the attribute signal_source",
             "noise/signal", MINIBATCHES, withheld=UNKNOWN_SIGNAL),
    Quantity("signal_share", (), "1", "signal over the mean squared norm", "noise/signal_share", MINIBATCHES,
             _errors("a signal share from lags"), UNKNOWN_SIGNAL),
    Quantity("noise", (), G2, "trace of the minibatch noise covariance", "noise/noise", MINIBATCHES,
             withheld=UNKNOWN_SIGNAL),
    Quantity("noise_scale", (), "samples",
             "batch size times noise over signal, which estimates the critical batch size", "noise/noise_scale",
             MINIBATCHES, withheld=f"{UNKNOWN_SIGNAL}, or no batch size was logged"),
    Quantity("lag_coherence", LAG, "1", "mean product of rows so many apart over the mean squared norm",
             "lag_coherence/*/value", ITS_SKETCH, (ITS_RUN, "half-width of both errors together"),
             "no rows so far apart, or no energy"),
)  # fmt: skip

NOT_SGD = "the update is no combination of the gradient and the update before"


def _of_update(name: str, units: str, text: str, withheld: str = "no step has both neighbours") -> Quantity:
    return Quantity(f"update_{name}", (), units, text, f"update/{name}/value", INTERVAL_OF_UPDATES, withheld=withheld)


INTERVAL_OF_UPDATES = "{} end of its 95 % interval: the sketch's, and for curvatures also the noise of the steps"
UPDATES = (
    _of_update("cosine", "1", "cosine of the update and the negative gradient"),
    _of_update("previous", "1", "cosine of the update and the one before"),
    _of_update("explained", "1", "share of the update in a combination of the gradient and the update before"),
    _of_update("rate", "1", "the gradient's coefficient in it, with the sign changed"),
    _of_update("momentum", "1", "coefficient in it of the update before"),
    _of_update("relative", "1", "norm of the update over that of the weights", "no snapshot of the weights is near"),
    _of_update("curvature", "1", "directional curvature along the steps; minibatch noise makes it too large"),
    _of_update("corrected", "1", "the same without the noise, from half batches", f"no half batches, or {NOT_SGD}"),
    _of_update(
        "shared",
        "1",
        "curvature between successive steps, free of the noise of independent batches",
        "these have too small a cosine",
    ),
    _of_update("edge", "1", "curvature at which such steps are unstable, 2 (1 + momentum) / rate", NOT_SGD),
)
"""From at most 3,072 steps, of runs that record updates beside gradients, whole and by group."""

OF_EVERY_SCOPE = (
    Quantity("rows", (), "1", "finite rows counted", "rows", whole=True),
    Quantity("energy", (), G2, "sum of squared gradient norms", "energy", SKETCH + "energy"),
    Quantity("path_length", P, G2, "kappa times energy", "path_length/*", SKETCH + "path_length"),
    *KAPPA,
    Quantity("increment_energy", (), G2, "squared Frobenius norm of the logged increments", "increment_energy"),
    Quantity("coherence", (), "1", "mean inner product of different rows over the mean squared norm", "coherence"),
    *RANKS,
    *NOISE,
    *UPDATES,
)
"""In the order of the JSON document."""

SPECTRUM = (
    Quantity("singular_value", ("mode",), "gradient", "singular values of the logged increments", "singular_values"),
    Quantity("tail_energy", ("tail_rank",), "1", "relative energy beyond the leading singular values", "tail_energy"),
)
"""The Dataset has them of every scope, JSON of the run, and the first of each group."""

PATH_SHARE = Quantity(
    "path_share", P, "1", "path length over that of all", "path_shares/by_group/*/*", SKETCH + "the share",
    _errors("the share"), beside="path_shares/by_group_errors/*/*/value",
)  # fmt: skip
"""Of groups and windows, in JSON of the run's groups."""


def _side(kind: str, name: str, units: str, text: str, withheld: str = "") -> Quantity:
    full = f"{kind}_{name}"
    return Quantity(full, P, units, text, f"bounds/{kind}/*/{name}", SKETCH + full, withheld=withheld)


BOUNDS = (
    _side("stationarity", "left", G2, "mean squared gradient norm"),
    _side("stationarity", "right", G2, "2 (F_0 - F_*) / (eta T) + P / T"),
    _side("stationarity", "ratio", "1", "right side over left side; the bound holds from 1 on"),
    _side("stationarity", "left_noise_free", G2, "mean squared gradient norm free of minibatch noise", UNKNOWN_SIGNAL),
    _side("stationarity", "ratio_noise_free", "1", "right side over the noise-free left side", UNKNOWN_SIGNAL),
    _side("regret", "left", "loss", "sum of logged losses above F_*"),
    _side("regret", "right", "loss", "D^2 / eta + eta P / 2"),
    _side("regret", "ratio", "1", "right side over left side"),
    _side("regret", "best_eta", "step size", "D sqrt(2 / P), the eta that minimises the right side"),
    _side("regret", "best", "loss", "D sqrt(2 P), the right side at the best eta"),
)
"""Of the run; what comes from a sketch has an interval."""

OF_THE_RUN = (
    *SPECTRUM,
    Quantity("step_path_share", ("path_step",), "1",
             "share in the path length of the predictor last, of the steps where it is largest"),
    Quantity("clipped_share", (), "1", "share of the steps whose clip_coef is below 1, among those that logged one",
             "clipping/share", withheld="no finite clip_coef was logged"),
    Quantity("clip_factor", (), "1", "mean of clip_coef", "clipping/factor",
             withheld="no finite clip_coef was logged"),
    Quantity("half_path_steps", (), "1", "fewest steps that hold half of the path length of the predictor last",
             "path_shares/half_steps", whole=True),
    Quantity("kappa_difference", PAIR, "1", "kappa less that of another predictor", "differences/*/*/value",
             ITS_SKETCH, (ITS_RUN, "half-width of both errors of the difference together")),
    *BOUNDS,
    Quantity("event_first_step", ("event",), "step", "first step of each event; JSON has all of it under events"),
    Quantity("event_last_step", ("event",), "step", "its last step"),
    Quantity("event_score", ("event",), "1", "largest number of usual deviations; NaN for one of NaN or inf"),
    Quantity("event_kind", ("event",), "1", "what it is like"),
    Quantity("window_overlap", ("window", "other_window"), "1",
             "mean squared cosine between leading increment subspaces", "subspace/overlap"),
    Quantity("window_overlap_random", (), "1", "overlap expected of random subspaces", "subspace/random"),
    Quantity("components", ("component", "group", "k"), "1", "right singular vectors of the increments"),
    Quantity("scores", ("increment_step", "component"), "gradient", "increments projected on the components"),
    Quantity("explained_variance", ("component",), G2, "energy of the increments along each component"),
    Quantity("explained_variance_ratio", ("component",), "1", "its share in the energy of the increments"),
)  # fmt: skip

MAP, TURN, DISTANCE, POINT = ("stretch", "other_stretch"), ("turn",), ("distance",), ("point",)
ITS_NOISE = "{} end of its 95 % interval: the sketch's error, and the noise of the steps"
DIRECTIONS = (
    Quantity("direction_first_step", MAP[:1], "step", "first step of each of up to 24 stretches",
             "directions/map/first_step", whole=True),
    Quantity("direction_last_step", MAP[:1], "step", "its last step", "directions/map/last_step", whole=True),
    Quantity("direction_cosine", MAP, "1", "cosine of the mean gradients of two stretches, without noise",
             "directions/map/cosine", ITS_NOISE, withheld="one of both means cannot be told from zero"),
    Quantity("turn_step", TURN, "step", "first step after each turn of the direction", "directions/turns/step",
             whole=True),
    Quantity("turn_cosine", TURN, "1", "cosine of the mean gradients before and after it", "directions/turns/cosine",
             ITS_NOISE),
    Quantity("turn_usual", (), "1", "median of that cosine over all boundaries of parts", "directions/turns/usual",
             withheld="it is known at fewer than 8 boundaries: turns cannot be told"),
    Quantity("autocorrelation_lag", DISTANCE, "step", "steps between two gradients", "directions/autocorrelation/lag",
             whole=True),
    Quantity("autocorrelation", DISTANCE, "1", "mean product of two gradients so far apart over the mean squared norm",
             "directions/autocorrelation/value", "{} end of its 95 % interval: sketch, and fluctuation within the run",
             withheld="too few steps for an interval"),
    Quantity("autocorrelation_floor", DISTANCE, "1",
             "what 19 of 20 runs of unrelated gradients stay below, up or down", "directions/autocorrelation/floor"),
    Quantity("autocorrelation_single", (), "1", "lags with a value each, the first ones; others are means over lags",
             "directions/autocorrelation/single", whole=True),
    Quantity("weights_source", (), "1", "what was recorded of the weights", "directions/weights/source"),
    Quantity("weights_step", POINT, "step", "steps before which the weights were at these points",
             "directions/weights/step", whole=True),
    Quantity("weights_distance", POINT, "parameter", "distance of the weights from the first of them",
             "directions/weights/distance", ITS_SKETCH, withheld="a sketch of one coordinate shows no spread"),
    Quantity("weights_length", POINT, "parameter", "length of their path so far; from snapshots a lower bound",
             "directions/weights/length"),
    Quantity("weights_efficiency", (), "1", "distance at the end over the length", "directions/weights/efficiency",
             withheld="the weights did not move"),
)  # fmt: skip
"""Of the run, where they are asked for; lists in JSON."""

QUANTITIES = (*OF_EVERY_SCOPE, PATH_SHARE, *OF_THE_RUN, *DIRECTIONS)
VARIABLES = {name: variable for quantity in QUANTITIES for name, variable in quantity.variables().items()}
FLAGS: dict[str, Sequence[str]] = {
    "rank_null_method": METHODS,
    "event_kind": [kind or "no known pattern" for kind in KINDS],
    "weights_source": SOURCES,
}
"""Meanings of the values 0, 1, ... of a variable."""
CODES = {
    "rank_null_method": dict(enumerate(METHODS)),
    "kappa_run_withheld": REASONS,
    "weights_source": dict(enumerate(SOURCES)),
}
"""Words for which numbers stand in the Dataset; JSON has the words."""
