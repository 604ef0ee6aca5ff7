"""What can be chosen of a recording: each option is declared, documented and checked here, and nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, SupportsIndex, TypedDict, TypeVar, Unpack, cast

from gradlog.format.header import CODECS, FULL_BITS, MOST_EVERY, MOST_RANK, STAGES
from gradlog.format.layout import MOST_ROWS
from gradlog.sketching.fold_hash import RANDOM_MAPS
from gradlog.sketching.groups import Groups
from gradlog.storage.settings import Storage

Mode = Literal["w-", "new", "a", "w"]
BOTH = ("gradient", "update")
MODES: tuple[Mode, ...] = ("w-", "new", "a", "w")
Function = TypeVar("Function", bound=Callable[..., object])
Leaf = TypeVar("Leaf")


class HookKeywords(TypedDict, total=False):
    """The fields of :class:`RecordingOptions` as keywords of integrations, which know the optimizer themselves."""

    k: int | Literal["exact"]
    seed: int
    sketch: Literal["fold-hash/1", "fold-hash/2"]
    groups: Groups
    include: str | Sequence[str] | None
    exclude: str | Sequence[str] | None
    every: int
    mode: Mode | None
    stage: Literal["consumed", "preclip", "local"]
    what: str | Sequence[str]
    theta_every: int
    norms_every: int
    on_error: Literal["warn", "raise"]
    chunk: int | None
    codec: Literal["raw", "bitshuffle-zstd"] | None
    sketch_bits: int
    rank: int
    first_step: int | None
    journal: bool
    durable: bool
    hostname: bool
    argv: bool
    notes: Mapping[str, object] | None
    storage: Storage | None


class OptionKeywords(HookKeywords, total=False):
    """The fields of :class:`RecordingOptions` as keywords, which type checkers and editors take from here."""

    optimizer: Mapping[str, object] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """How a run is recorded. :func:`gradlog.open`, :func:`gradlog.attach` and the callbacks take these as keywords.

    One object serves many runs: hand it over as ``options=``. Keywords beside it count more.

    Parameters
    ----------
    k : int or "exact"
        Numbers stored per group and step; ``"exact"`` stores the gradient itself.
    seed : int
        Seed of the random map.
    sketch : {"fold-hash/1", "fold-hash/2"}
        Kind of the random map. ``"fold-hash/2"`` keeps groups of at most ``k`` parameters without any error, for which
        ``groups="tensors"`` is worth it; its rows compare with those of its own kind only. A run that is continued
        keeps its kind.
    groups : "blocks", "all", "tensors", mapping or callable
        Which parameters share a sketch: those of a module (at most 16 groups), all, each tensor alone,
        ``{group: regex}``, or a function from parameter name to group name. None leaves one out.
    include, exclude : str or sequence of str, optional
        Regular expressions that choose which parameters are recorded: those in whose name one of ``include`` is found
        and none of ``exclude``. Default: all.
    every : int
        Record only steps divisible by this.
    mode : {"w-", "new", "a", "w"}, optional
        What to do if a run is there. ``"w-"`` refuses. ``"new"`` records beside it, to the first of ``run-2.zarr``,
        ``run-3.zarr``, ... that is free. ``"a"`` continues it in a new segment, unless another process of this machine
        is recording it. ``"w"`` replaces it; a process that still records it is told. Only ``"w"`` touches what is
        stored. Default: ``"w-"``; callbacks of frameworks name their own.
    stage : {"consumed", "preclip", "local"}
        Which gradient this is: what the optimizer was handed, before clipping, or one rank's own.
    what : str or sequence of str
        The recorded quantity: ``"gradient"``, ``"update"``, the change of the parameters in a step, or both,
        ``("gradient", "update")``. Then each row has two sketches by one map.
    theta_every : int
        Keep a sketch of the parameters before every step divisible by this, too; 0: at the start, at checkpoints and at
        the end alone. Only integrations that know the parameters do, those of torch; elsewhere call
        :meth:`gradlog.Logger.parameters`. It costs as much as the sketch of one gradient, and a file.
    norms_every : int
        Record ``weight_norm/GROUP`` before, and ``update_norm/GROUP`` over, every step divisible by this; 0: never.
        They are exact, and known to the integration of torch alone. Such a step needs memory for another copy of the
        parameters, and the time of two or three sketches: with 250 that is about 1 % of recording.
    on_error : {"warn", "raise"}
        What a failure of the recorder does to the training job. Wrong arguments always raise, here and at once.
    chunk : int, optional
        Rows per chunk; a chunk takes at most 256 MiB. Default: a power of two that makes about 4 MiB.
    codec : {"raw", "bitshuffle-zstd"}, optional
        How sketches are encoded. Default: raw, and compressed when they are rounded.
    sketch_bits : int
        Mantissa bits to keep of a sketch, 1 to 23. The rounding to 12 bits is far below the error of the sketch.
    rank : int
        This writer's rank, where several processes record one run.
    first_step : int, optional
        Number of the first step. Default: 0, or after the last step of the run that is continued.
    journal : bool
        Write each row to a local file before ``step`` returns. Then no row is lost if the process is killed or an
        object store does not answer for a while.
    durable : bool
        Also flush chunks to the device, in case the power fails.
    hostname : bool
        Record the host's name.
    argv : bool
        Record the command line. Tokens and passwords in it are masked, by their names and their forms.
    optimizer : mapping, optional
        Class and settings of the optimizer, such as ``{"class": "Adam", "settings": {"lr": 0.1}}``. The integrations
        fill it in themselves.
    notes : mapping, optional
        Facts to keep with the run: batch size, data set, checkpoint. They are stored as JSON: numpy numbers as numbers,
        paths and other objects as text. Tokens and passwords are masked.
    storage : Storage, optional
        How the store is opened, and how long a step, a request and the close wait for it.

    Raises
    ------
    ValueError, TypeError
        An option is out of its range.

    Examples
    --------
    >>> options = RecordingOptions(k="64", notes={"batch": 128})
    >>> options.k, options.filled(mode="new", k=8).mode, options.filled(mode="new", k=8).k
    (64, 'new', 64)
    """

    k: int | Literal["exact"] = 256
    seed: int = 0
    sketch: Literal["fold-hash/1", "fold-hash/2"] = "fold-hash/1"
    groups: Groups = "blocks"
    include: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    every: int = 1
    mode: Mode | None = None
    stage: Literal["consumed", "preclip", "local"] = "consumed"
    what: str | Sequence[str] = "gradient"
    theta_every: int = 0
    norms_every: int = 0
    on_error: Literal["warn", "raise"] = "warn"
    chunk: int | None = None
    codec: Literal["raw", "bitshuffle-zstd"] | None = None
    sketch_bits: int = FULL_BITS
    rank: int = 0
    first_step: int | None = None
    journal: bool = True
    durable: bool = False
    hostname: bool = True
    argv: bool = True
    optimizer: Mapping[str, object] | None = None
    notes: Mapping[str, object] | None = None
    storage: Storage | None = None

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, (None, *MODES))
        _one_of("sketch", self.sketch, RANDOM_MAPS)
        _one_of("stage", self.stage, STAGES)
        _one_of("on_error", self.on_error, ("warn", "raise"))
        _one_of("codec", self.codec, (None, *CODECS))
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not (value is None and name in ("chunk", "first_step")) and not (name == "k" and value == "exact"):
                object.__setattr__(self, name, _whole(name, value, least, most))
        for name in ("include", "exclude"):
            object.__setattr__(self, name, _patterns(name, getattr(self, name)))
        object.__setattr__(self, "what", _quantities(self.what))
        if self.updates and self.stage == "local":
            raise ValueError("stage='local' takes one quantity: every rank has its own gradient, and all one update")
        for name in ("optimizer", "notes"):
            facts = getattr(self, name)
            if facts is not None and not isinstance(facts, Mapping):
                raise TypeError(f"{name} must be a mapping, got {type(facts).__name__}")
            object.__setattr__(self, name, facts if facts is None else dict(facts))  # they stay as they are now
        if self.mode in ("w", "new") and self.rank > 0:
            raise ValueError(
                f'mode="{self.mode}" begins a new run: open it so on rank 0 first, and its log.path with mode="a" on '
                f"rank {self.rank}"
            )

    @property
    def updates(self) -> bool:
        """Whether updates are recorded beside the gradients."""
        return self.what == BOTH

    def chooses(self, name: str) -> bool:
        """Whether the parameter of this name is recorded.

        >>> RecordingOptions(include="attn", exclude=["bias", "norm"]).chooses("h.0.attn.weight")
        True
        """
        wanted = self.include is None or any(re.search(p, name) for p in self.include)
        unwanted = any(re.search(p, name) for p in self.exclude or ())
        return wanted and not unwanted and not (callable(self.groups) and self.groups(name) is None)

    def chosen(self, pairs: Sequence[tuple[str, Leaf]]) -> list[tuple[str, Leaf]]:
        """Named parameters that are recorded.

        Raises
        ------
        ValueError
            There are none among them.
        """
        found = [(name, leaf) for name, leaf in pairs if self.chooses(name)]
        if pairs and not found:
            names = ", ".join(name for name, _ in pairs[:3]) + (", ..." if len(pairs) > 3 else "")
            raise ValueError(f"include, exclude and groups choose none of the parameters, which are {names}")
        return found

    @classmethod
    def of(cls, options: RecordingOptions | None, keywords: HookKeywords) -> RecordingOptions:
        """Options that a public function was handed: an object, keywords, or both, where the keywords count more."""
        return dataclasses.replace(options or cls(), **keywords)

    def filled(self, **defaults: Unpack[OptionKeywords]) -> RecordingOptions:
        """Options with these in the place of those that were left out, where ``None`` stands for that."""
        left_out = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **cast(OptionKeywords, left_out))

    def noting(self, **facts: int | None) -> RecordingOptions:
        """Options whose notes have these facts, too, where they are known and the user's own do not have them.

        >>> RecordingOptions(notes={"batch_size": 8}).noting(batch_size=4, steps_per_epoch=25, other=None).notes
        {'batch_size': 8, 'steps_per_epoch': 25}
        """
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return dataclasses.replace(self, notes={**known, **(self.notes or {})}) if known else self


_RANGES = {
    "k": (1, 2**20),
    "seed": (-math.inf, math.inf),
    "every": (1, MOST_EVERY),
    "theta_every": (0, 2**62),
    "norms_every": (0, 2**62),
    "rank": (0, MOST_RANK),
    "chunk": (1, MOST_ROWS),
    "first_step": (0, 2**62),
    "sketch_bits": (1, FULL_BITS),
}
"""Least and most of each whole number."""


def takes_options(function: Function) -> Function:
    """Show the single options, and their defaults, in the signature that ``help()`` and notebooks print."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    single = [
        p for name, p in inspect.signature(RecordingOptions).parameters.items() if name not in signature.parameters
    ]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *single])
    return function


def _one_of(name: str, value: object, allowed: tuple[str | None, ...]) -> None:
    if value not in allowed:
        words = ", ".join(repr(one) for one in allowed if one is not None)
        raise ValueError(f"{name} must be one of {words}, got {value!r}")


def _quantities(what: str | Sequence[str]) -> str | tuple[str, ...]:
    """Return one quantity as it is, and gradient and update in this order."""
    names = (what,) if isinstance(what, str) else tuple(what) if isinstance(what, Sequence) else ()
    if len(names) == 1 and isinstance(names[0], str):
        return names[0]
    if names not in (BOTH, BOTH[::-1]):
        raise ValueError(f"what must be 'gradient', 'update' or ('gradient', 'update'), got {what!r}")
    return BOTH


def _patterns(name: str, value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Check regular expressions, of which one may be given as it is."""
    patterns = None if value is None else (value,) if isinstance(value, str) else tuple(value)
    try:
        for pattern in patterns or ():
            re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{name}: expected regular expressions, got {value!r}: {error}") from error
    return patterns


def _whole(name: str, value: object, least: float, most: float) -> int:
    """Return a whole number that was given as one of any library, or as text, as settings often are."""
    number = None
    if isinstance(value, str | SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            number = int(value) if isinstance(value, str) else operator.index(value)
    if number is None or not least <= number <= most:
        bounds = f" from {least:,} to {most:,}" if most < math.inf else ""
        other = " or 'exact'" if name == "k" else ""
        raise ValueError(f"{name} must be an integer{bounds}{other}, got {value!r}")
    return number
