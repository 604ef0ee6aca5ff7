"""Which predictors there are: how each is written, and where it is shown. A predictor's own file registers it.

Every list of predictors and every rule about one asks here: the defaults of commands, help texts, tables and figures.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypedDict, TypeVar

from gradlog.analysis.measures.predictors.base import Predictor

Result = Literal["analyze", "report", "windows", "compare"]
"""Results that show some predictors unless others are asked for; ``windows``: the report's figures over time."""

Make = TypeVar("Make", bound=Callable[..., Predictor])

WRITTEN = re.compile(r"([\w-]+)(?:\(\s*([0-9.eE+-]+)\s*\))?")
PACKAGE = __name__.rpartition(".")[0]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of predictor: see ``register_predictor`` for what the fields mean."""

    form: str
    make: Callable[..., Predictor]
    parameter: Callable[[str], float] | None
    usual: tuple[str, ...]
    shown_in: tuple[str, ...]
    place: float
    hindsight: bool
    reference: bool
    fits_beta: bool

    @property
    def word(self) -> str:
        """The name without its parameter."""
        return self.form.partition("(")[0]


_kinds: dict[str, Kind] = {}


def register_predictor(
    form: str,
    parameter: Callable[[str], float] | None = None,
    *,
    usual: Sequence[str] = (),
    shown_in: Sequence[Result] = (),
    place: float = 100,
    hindsight: bool = False,
    reference: bool = False,
    fits_beta: bool = False,
) -> Callable[[Make], Make]:
    """Give a predictor a name, by which it can then be asked for. A decorator of what makes the predictor.

    Parameters
    ----------
    form : str
        The name, such as ``"last"``, or the name with a letter for its parameter, such as ``"ema(B)"``.
    parameter : callable, optional
        ``float`` or ``int``: what the text of the parameter becomes.
    usual : sequence of str
        Names that are shown unless others are asked for; default: the form itself, where it has no parameter.
    shown_in : sequence of {"analyze", "report", "windows", "compare"}
        Results that show them; ``"windows"`` are the figures over time of a report.
    place : float
        Position among the others in tables and figures: lower stands first.
    hindsight : bool
        Whether it is fitted to the rows that it predicts, so that tables say so.
    reference : bool
        Whether it is a line to compare with, of which figures and verdicts say nothing.
    fits_beta : bool
        Whether it fits the decay of a moving average, which results then tell.

    Returns
    -------
    callable
        Takes the class or function that makes the predictor, and gives it back.

    Raises
    ------
    ValueError
        A built-in predictor has this name.

    Examples
    --------
    >>> @register_predictor("mean(N)", int)
    ... def mean_of_last(n):
    ...     from gradlog.analysis import Linear
    ...     return Linear(f"mean({n})", (1 / n,) * n)
    >>> [p.name for p in parse("last, mean(4)")]
    ['last', 'mean(4)']
    """
    word = form.partition("(")[0]
    shown = tuple(usual) if usual or parameter else (form,)

    def registered(make: Make) -> Make:
        if word in _kinds and _is_ours(_kinds[word].make) and not _is_ours(make):
            raise ValueError(f"a built-in predictor is called {word!r}: give yours another name")
        _kinds[word] = Kind(form, make, parameter, shown, tuple(shown_in), place, hindsight, reference, fits_beta)
        return make

    return registered


def kinds() -> list[Kind]:
    """All kinds, in the order in which tables list them."""
    return sorted(_kinds.values(), key=lambda kind: kind.place)


def usual(shown_in: Result) -> tuple[str, ...]:
    """Names that a result shows unless others are asked for.

    >>> usual("compare")
    ('last', 'ema(0.9)', 'ema(0.99)', 'trend')
    """
    return tuple(name for kind in kinds() if shown_in in kind.shown_in for name in kind.usual)


def forms() -> str:
    """How predictors are written, for a help text.

    >>> forms()                                                         # doctest: +SKIP
    'zero, last, ema(B), trend, ar(P), best-ema'
    """
    return ", ".join(kind.form for kind in kinds())


def fitted_in_hindsight() -> str:
    """Words of the built-in predictors that are fitted to the rows they predict.

    >>> fitted_in_hindsight()
    'ar and best-ema'
    """
    return " and ".join(kind.word for kind in kinds() if kind.hindsight and _is_ours(kind.make))


def in_hindsight(name: str) -> bool:
    """Whether a predictor is fitted to the rows that it predicts."""
    kind = _kinds.get(name.partition("(")[0])
    return kind is not None and kind.hindsight


def is_reference(name: str) -> bool:
    """Whether a predictor is a line to compare with, such as ``zero``."""
    kind = _kinds.get(name.partition("(")[0])
    return kind is not None and kind.reference


def without_reference(names: Iterable[str]) -> list[str]:
    """Names of the predictors that figures and verdicts are about.

    >>> without_reference(["zero", "last"])
    ['last']
    """
    return [str(name) for name in names if not is_reference(str(name))]


def fits_beta(name: str) -> bool:
    """Whether a predictor's decay is a result, such as that of ``best-ema``."""
    kind = _kinds.get(name.partition("(")[0])
    return kind is not None and kind.fits_beta


def built_in(predictors: str | Predictor | Iterable[str | Predictor] | None) -> bool:
    """Whether their names alone say what they are, so that a result can be kept under them."""
    return all(isinstance(p, str) and _is_ours(_kind(p)[0].make) for p in _listed(predictors, "analyze"))


def parse(
    predictors: str | Predictor | Iterable[str | Predictor] | None, shown_in: Result = "analyze"
) -> list[Predictor]:
    """Predictors from their names; objects pass through, None is what is usually shown.

    Examples
    --------
    >>> [p.name for p in parse("last, ema(0.5)")]
    ['last', 'ema(0.5)']
    """
    parsed = [_parse(p) if isinstance(p, str) else p for p in _listed(predictors, shown_in)]
    names = [p.name for p in parsed]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"predictors must be named once each and at least one, got {names}")
    return parsed


def _listed(predictors: str | Predictor | Iterable[str | Predictor] | None, shown_in: Result) -> list[str | Predictor]:
    """Names and objects one by one."""
    if predictors is None:
        return list(usual(shown_in))
    if isinstance(predictors, str):
        return [part for part in re.split(r",\s*(?![^()]*\))", predictors) if part]
    return list(predictors) if isinstance(predictors, Iterable) else [predictors]


def _kind(name: str) -> tuple[Kind, str | None]:
    """Kind of a name, and the text of its parameter."""
    match = WRITTEN.fullmatch(name.strip())
    kind = _kinds.get(match[1]) if match else None
    if match is None or kind is None or (kind.parameter is None) != (match[2] is None):
        raise ValueError(f"unknown predictor {name!r}; known: {forms()}")
    return kind, match[2]


def _parse(name: str) -> Predictor:
    kind, text = _kind(name)
    try:
        return kind.make() if kind.parameter is None or text is None else kind.make(kind.parameter(text))
    except ValueError as error:
        raise ValueError(f"bad predictor {name!r}: {error}") from error


class Needs(TypedDict):
    """Fields of a ``Recipe``."""

    betas: tuple[float, ...]
    lags: int


def needs(predictors: Sequence[Predictor], lags: int = 0) -> Needs:
    """Betas and lags that a pass must collect for all of them."""
    betas = sorted({b for p in predictors for b in p.betas})
    return {"betas": tuple(betas), "lags": max([lags, *(p.lags for p in predictors)])}


def _is_ours(make: Callable[..., Predictor]) -> bool:
    made = getattr(make, "func", make)
    return str(made.__module__).startswith(f"{PACKAGE}.")
