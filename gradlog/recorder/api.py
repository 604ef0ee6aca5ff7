"""``gradlog.open``: the way into a run for any training loop."""

from __future__ import annotations

import importlib.metadata
import math
import operator
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from gradlog.errors import GradlogWarning
from gradlog.format.header import CODECS, FULL_BITS, MOST_EVERY, MOST_RANK, STAGES
from gradlog.format.layout import MOST_ROWS
from gradlog.recorder.logger import Logger
from gradlog.recorder.setup import Plan, require_chunk
from gradlog.sketching.groups import Groups
from gradlog.sketching.pytree import describe, flatten
from gradlog.storage.paths import absolute
from gradlog.storage.settings import Storage


def open(
    path: str | os.PathLike[str],
    like: Any = None,
    *,
    k: int | Literal["exact"] = 256,
    seed: int = 0,
    groups: Groups = "blocks",
    every: int = 1,
    mode: Literal["w-", "new", "a", "w"] = "w-",
    stage: Literal["consumed", "preclip", "local"] = "consumed",
    what: str = "gradient",
    on_error: Literal["warn", "raise"] = "warn",
    chunk: int | None = None,
    codec: Literal["raw", "bitshuffle-zstd"] | None = None,
    sketch_bits: int = FULL_BITS,
    rank: int = 0,
    first_step: int | None = None,
    journal: bool = True,
    durable: bool = False,
    hostname: bool = True,
    argv: bool = True,
    optimizer: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    storage: Storage | None = None,
) -> Logger:
    """Open a run for recording.

    Parameters
    ----------
    path : str or path-like
        Where to store the run: a local folder, usually called ``<name>.zarr``, or an fsspec URL. It is made absolute
        at once, and ``~`` is the home folder.
    like : array, nested dict or list of arrays, or iterable of (name, array), optional
        The parameters, or anything with their names and shapes. Default: taken from the first gradient.
    k : int or "exact"
        Numbers stored per group and step; ``"exact"`` stores the gradient itself.
    seed : int
        Seed of the random map.
    groups : "blocks", "all", "tensors", mapping or callable
        Which parameters share a sketch: those of a module (at most 16 groups), all, each tensor alone,
        ``{group: regex}``, or a function from parameter name to group name.
    every : int
        Record only steps divisible by this.
    mode : {"w-", "new", "a", "w"}
        What to do if a run is there. ``"w-"`` refuses. ``"new"`` records beside it, to the first of ``run-2.zarr``,
        ``run-3.zarr``, ... that is free. ``"a"`` continues it in a new segment, unless another process of this machine
        is recording it. ``"w"`` replaces it; a process that still records it is told. Only ``"w"`` touches what is
        stored.
    stage : {"consumed", "preclip", "local"}
        Which gradient this is: what the optimizer was handed, before clipping, or one rank's own.
    what : str
        The recorded quantity, ``"gradient"`` or ``"update"``.
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

    Returns
    -------
    Logger

    Raises
    ------
    ValueError, TypeError
        An argument is out of its range.
    RunExistsError, SpecMismatchError, OSError
        With ``on_error="raise"`` only; otherwise the logger is off and says why in one warning.

    Notes
    -----
    The environment variable ``GRADLOG_DISABLED=1`` makes every logger a no-op; ``GRADLOG_ARGV=0`` leaves the command
    line out of every run. Rows that a remote store does not have yet wait below the folder ``GRADLOG_SPOOL``, up to
    ``GRADLOG_SPOOL_SIZE`` bytes (1G) per segment.

    Examples
    --------
    >>> import gradlog, numpy as np, tempfile
    >>> log = gradlog.open(tempfile.mkdtemp() + "/run.zarr", like={"w": np.zeros(100)}, k=16)
    >>> log.step({"w": np.ones(100)}, loss=0.5)
    >>> log.close()
    """
    _one_of("mode", mode, ("w-", "new", "a", "w"))
    _one_of("stage", stage, STAGES)
    _one_of("on_error", on_error, ("warn", "raise"))
    if k != "exact":
        k = _whole("k", k, 1, 2**20, " or 'exact'")
    seed, every, rank = _whole("seed", seed), _whole("every", every, 1, MOST_EVERY), _whole("rank", rank, 0, MOST_RANK)
    chunk = None if chunk is None else _whole("chunk", chunk, 1, MOST_ROWS)
    first_step = None if first_step is None else _whole("first_step", first_step, 0, 2**62)
    if mode in ("w", "new") and rank > 0:
        raise ValueError(
            f'mode="{mode}" begins a new run: open it so on rank 0 first, and its log.path with mode="a" on rank {rank}'
        )
    _one_of("codec", codec or "raw", CODECS)
    sketch_bits = _whole("sketch_bits", sketch_bits, 1, FULL_BITS)
    if disabled():
        return Logger(None)
    _warn_of_namesake()
    plan = Plan(
        path=absolute(path),
        layout=None if like is None else describe(flatten(like)),
        k=k,
        seed=seed,
        groups=groups,
        every=every,
        mode=mode,
        stage=stage,
        what=what,
        chunk=chunk,
        codec=codec or ("raw" if sketch_bits == FULL_BITS else "bitshuffle-zstd"),
        sketch_bits=sketch_bits,
        rank=rank,
        first_step=first_step,
        journal=journal,
        durable=durable,
        hostname=hostname,
        argv=argv,
        optimizer=optimizer,
        notes=dict(notes or {}),
        storage=storage or Storage(),
    )
    if chunk is not None:
        require_chunk(plan)
    return Logger(plan, on_error)


def disabled() -> bool:
    """Whether the environment switches recording off."""
    return os.environ.get("GRADLOG_DISABLED", "") not in ("", "0")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf, other: str = "") -> int:
    """Return a whole number that was given as one of any library, or as text, as settings often are."""
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, bool) or not least <= number <= most:
        bounds = (
            f" from {least:,} to {most:,}" if most < math.inf else f" of at least {least}" if least > -math.inf else ""
        )
        raise ValueError(f"{name} must be an integer{bounds}{other}, got {value!r}")
    return number


_checked: list[bool] = []


def _warn_of_namesake() -> None:
    """Another project on the package index installs the import name gradlog; both at once overwrite each other."""
    if _checked:
        return
    _checked.append(True)
    owners = importlib.metadata.packages_distributions().get("gradlog", [])
    if "gradlog" in owners and "gradlog-zarr" in owners:
        warnings.warn(
            "two distributions install 'gradlog': pip uninstall gradlog, then reinstall gradlog-zarr",
            GradlogWarning,
            stacklevel=3,
        )
