"""Path or URL -> Run: which rows of which segments make up the run, and everything known about them.

Opening reads metadata and the two small arrays ``step`` and ``flags``; the sketch is read when a result needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.recorded import Info, optimizer_name
from gradlog.analysis.reading.launches import Launch, group_by_launch, select
from gradlog.analysis.reading.rewinds import compare
from gradlog.analysis.reading.rows import Block, RowSource, Span
from gradlog.analysis.reading.store.metadata import Metadata, read_metadata
from gradlog.analysis.reading.store.segment import Segment, joined, stored
from gradlog.analysis.reading.store.stores import Location
from gradlog.errors import TooFewStepsError
from gradlog.format import masking
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED, RunHeader
from gradlog.format.layout import SCALAR_COLUMNS
from gradlog.format.names import HALF_PATTERN

if TYPE_CHECKING:
    import dask.array
    import xarray

    from gradlog.analysis.reading.sketcher import Sketcher

View = Literal["latest", "all"]
Number = TypeVar("Number", bound=np.generic)

COLUMNS = 2**20
"""Bytes of the small columns that are held together."""


def open_run(
    path: Location, view: View = "latest", scalars: Mapping[str, str] | None = None,
    steps: tuple[int, int] | None = None,
) -> Run:  # fmt: skip
    """Open a run for reading; a run that is still being recorded shows every step that was acknowledged.

    Parameters
    ----------
    path : str, path-like or zarr store
        A folder, a .zip of one, or an fsspec URL such as ``s3://bucket/run.zarr``.
    view : {"latest", "all"}
        After a resume from an older checkpoint, ``"latest"`` leaves out the rows that were abandoned: those at or
        after the first step of any later segment. ``"all"`` keeps them, in the order they were written.

    scalars : mapping, optional
        Scalars that the run did not log, by name: ``FILE`` or ``FILE:TAG`` of TensorBoard, MLflow, .csv or .tsv.
    steps : (int, int), optional
        First and last step to read, as if no other had been recorded.

    Returns
    -------
    Run

    Raises
    ------
    NotARunError, NewerFormatError, CorruptRunError
        Nothing to read, or bytes that contradict the format.
    SpecMismatchError
        Segments of one run that share no step layout.

    Examples
    --------
    >>> run = open_run("run.zarr")          # doctest: +SKIP
    >>> run.info["steps"], run.info["k"]    # doctest: +SKIP
    (200, 256)
    """
    if not scalars:
        return Run(read_metadata(path), view, steps)
    from gradlog.analysis.reading.joined_scalars import RunWithScalars

    return RunWithScalars(read_metadata(path), view, steps, scalars)


class Run:
    """A view of a recorded run.

    Attributes
    ----------
    header : RunHeader
        Sketch spec, groups, tensors, stage, provenance.
    steps : int64 array (rows,)
        Step number of each row of the view.
    flags : uint32 array (rows,)
        Bits of ``gradlog.format.header``: non-finite, skipped, partial.
    contiguous_ranges : int64 array (c, 2)
        Row ranges [start, stop) of finite rows whose steps follow each other at distance ``every``. Increments and
        predictor history never cross from one to the next.
    rows : RowSource
        The sketch rows.
    content : str or None
        Digest of everything that the run held when it was opened; see ``Metadata.digest``.
    """

    _whole: Run | None = None
    scalar_sources: Mapping[str, str] = {}  # of scalars that were joined from files, in words

    def __init__(self, metadata: Metadata, view: View = "latest", steps: tuple[int, int] | None = None) -> None:
        if view not in ("latest", "all"):
            raise ValueError(f"view must be 'latest' or 'all', got {view!r}")
        self.store, self.prefix = metadata.store, metadata.prefix
        self.location, self.where = metadata.location, metadata.where
        self.header, self.content, self.view = metadata.header, metadata.digest, view
        self.segments = [Segment.open(metadata, own) for own in metadata.segments]
        launches = [Launch.of(members) for members in group_by_launch(self.segments)]
        self._launches = select([x for x in launches if len(x)], view)
        self._abandoned = sum(map(len, launches)) - sum(map(len, self._launches))
        if steps is not None:
            self._launches = [part for x in self._launches if len(part := x.between(*steps))]
            self.content = self.content and f"{self.content} {steps}"
        self.steps: NDArray[np.int64] = _concat([x.steps for x in self._launches], np.int64)
        self.flags: NDArray[np.uint32] = _concat([x.flags for x in self._launches], np.uint32)

    def __repr__(self) -> str:
        return f"<gradlog.analysis.Run {self.where}: {self.n_steps} steps, groups x k = {self.n_groups} x {self.k}>"

    def _repr_html_(self) -> str:
        from gradlog.analysis.reading.notebook import card

        return card(self)

    @cached_property
    def whole_header(self) -> RunHeader:
        """Header with the tensors that joined the run later among its own."""
        return self.header.with_joined(segment.header for segment in self.segments)

    @property
    def whole(self) -> Run:
        """The run that this is a sample of; else this run."""
        return self._whole or self

    @property
    def k(self) -> int:
        """Sketch coordinates per group."""
        return self.header.sketch.k

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the parameter groups."""
        return self.header.groups

    @property
    def n_groups(self) -> int:
        """Number of parameter groups."""
        return len(self.header.groups)

    @property
    def n_steps(self) -> int:
        """Rows of the view; ``length`` is its earlier name."""
        return len(self.steps)

    length = n_steps

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which rows hold no NaN or inf."""
        return np.asarray((self.flags & NONFINITE) == 0)

    @cached_property
    def contiguous_ranges(self) -> NDArray[np.int64]:
        """See the class."""
        follows = (finite := self.finite)[1:] & finite[:-1] & (np.diff(self.steps) == self.header.every)
        first = finite & ~np.append(False, follows)[: self.n_steps]
        last = finite & ~np.append(follows, False)[: self.n_steps]
        return np.stack([np.flatnonzero(first), np.flatnonzero(last) + 1], axis=1)

    @cached_property
    def rows(self) -> RowSource:
        """See the class."""
        spans: list[Span] = []
        base = 0
        for launch in self._launches:
            places = [launch.places(m) for m in launch.members]
            breaks = [np.flatnonzero(np.diff(x) != 1) + 1 for x in places]
            names = [m.header.name for m in launch.members]
            for low, high in pairwise(np.unique(np.concatenate([[0], *breaks, [len(launch)]])).tolist()):
                members = tuple(zip(names, (int(x[low]) for x in places), strict=True))
                spans.append(Span(base + low, base + high, members))
            base += len(launch)
        source = RowSource(self.location, tuple(spans), (self.n_groups, self.k), self.header.chunk)
        used = {id(m): m for launch in self._launches for m in launch.members}
        for segment in used.values():
            segment.require_chunks("sketch")
        source.adopt(list(used.values()))
        source.tell_steps(self.steps, self.header.every)
        return source

    @cached_property
    def updates(self) -> RowSource | None:
        """What each step of ``rows`` did to the parameters, by the same map; NaN in segments without, None if in all.

        In a run of ``what="update"`` these are the rows themselves.
        """
        if self.header.what == "update":
            return self.rows
        used = [m for launch in self._launches for m in launch.members if "update" in m.header.optional]
        for segment in used:
            segment.require_chunks("update")
        return self.rows.updates() if used else None

    @cached_property
    def group_norm2(self) -> NDArray[np.float64]:
        """Squared norm of the gradient, (rows, group); exact or, see ``has_exact_norms``, of the sketches."""
        return _concat([b.norms for b in self.columns()], np.float64, (self.n_groups,))

    def columns(
        self, names: Sequence[str] = (), norms: bool = True, first: int = 0, stop: int | None = None
    ) -> Iterator[Block]:
        """Squared norms and scalars of rows [first, stop) in blocks of about 1 MiB, NaN where a scalar was not logged.

        Norms that the run does not have exactly are those of its sketches. Scalars are the mean over ranks.
        """
        base, exact, end = 0, self.has_exact_norms, self.n_steps if stop is None else stop
        width = self.n_groups + SCALAR_COLUMNS if exact or not norms else self.rows.n
        step = max(1, COLUMNS // (8 * width * self.header.chunk)) * self.header.chunk
        for launch in self._launches:
            last = min(len(launch), end - base)
            for low in range(max(0, first - base), last, step):
                high = min(low + step, last)
                start, past = base + low, base + high
                found = np.empty((high - low, 0))
                if norms:
                    found = launch.gather(Segment.norms, low, high)[0] if exact else self.rows.norms(start, past)
                logged = launch.gather(partial(Segment.logged, names=names), low, high) if names else []
                scalars = dict(zip(names, np.mean(logged, axis=0).T, strict=True)) if names else {}
                yield Block(start, found, (self.flags[start:past] & NONFINITE) == 0, scalars)
            base += len(launch)

    @property
    def fewer_ranks(self) -> int:
        """Rows that fewer ranks recorded than others: if these ranks had a share of the gradient, it is missing."""
        most = max((len(x.members) for x in self._launches), default=0)
        return sum(len(x) for x in self._launches if len(x.members) < most)

    @property
    def joined(self) -> list[Info]:
        """Parameters that came after the run began: ``step`` of the first row that includes them, and ``names``."""
        return joined(self.segments)

    @cached_property
    def relogged(self) -> Info:
        """How rows that were logged again after a rewind agree with the abandoned ones; norms are read if any."""
        return compare(self.segments)

    @property
    def has_exact_norms(self) -> bool:
        """Whether the stored norms are those of the rows before they were sketched.

        Not with several ranks, as norms do not add up, nor with sketched updates, whose norms may be the sketch's own.
        """
        updates = self.header.what == "update" and not self.header.sketch.exact
        return not updates and all(len(x.members) == 1 for x in self._launches)

    @cached_property
    def scalar_columns(self) -> dict[str, NDArray[np.float64]]:
        """Scalars by name, each (rows,), NaN where not logged; the mean over ranks."""
        names = self.scalar_names
        blocks = list(self.columns(names, norms=False)) if names else []
        return {name: _concat([b.scalars[name] for b in blocks], np.float64) for name in names}

    @property
    def notes(self) -> Info:
        """What was noted of the run at its start; and the optimizer's name and settings where no note says them."""
        origin = self.info["provenance"]
        told, notes = origin.get("optimizer"), origin.get("notes")
        settings = told.get("settings") if isinstance(told, Mapping) else None
        name = optimizer_name(origin)
        parts = (settings, {"optimizer": name} if name else {}, notes)
        return {str(k): v for part in parts if isinstance(part, Mapping) for k, v in part.items()}

    @cached_property
    def info(self) -> Info:
        """What is known without reading the sketch; plain values that json can write."""
        h, s, whole = self.header, self.header.sketch, self.whole_header
        steps = self.steps[[0, -1]].tolist() if self.n_steps else [None, None]
        newest = self.segments[-1].header if self.segments else None
        return {
            "path": self.where,
            "format": "{}.{}".format(*h.format),
            "created": h.created,
            "uuid": h.uuid,
            "status": newest.status if newest else "empty",
            "reason": newest.reason if newest else "",
            "view": self.view,
            "steps": self.n_steps,
            "first_step": steps[0],
            "last_step": steps[1],
            "every": h.every,
            "stage": h.stage,
            "what": h.what,
            "kind": s.kind,
            "k": s.k,
            "m": s.m,
            "seed": s.seed,
            "groups": list(h.groups),
            "group_sizes": list(whole.group_sizes()),
            "dimension": whole.dimension,
            "tensors": len(whole.tensors),
            "scalars": self.scalar_names,
            "halves": self.halves,
            **({"updates": True} if any("update" in x.header.optional for x in self.segments) else {}),
            "norms": "exact" if self.has_exact_norms else "estimated from the sketches",
            "segments": [x.info for x in self.segments],
            "ranks": max((len(x.members) for x in self._launches), default=0),
            "fewer_ranks": self.fewer_ranks,
            "abandoned": self._abandoned,
            "relogged": self.relogged,
            "joined": self.joined,
            "snapshots": [int(step) for segment in self.segments for step in segment.snapshot_steps],
            "gaps": self.gaps.tolist(),
            "chains": len(self.contiguous_ranges),
            "nonfinite": self.steps[~self.finite].tolist(),
            "skipped": self._flagged(SKIPPED),
            "partial": self._flagged(PARTIAL),
            "journal_rows": sum(len(x.tail) for x in self.segments if x.tail is not None),
            "storage": stored(self.segments),
            "provenance": masking.origin(h.provenance),
        }

    @property
    def sketch(self) -> dask.array.Array:
        """Sketch rows as a lazy dask array (step, group, k), float32."""
        from gradlog.analysis.reading.labelled import sketch_array

        self.require(1)
        return sketch_array(self.rows)

    def increments(self) -> dask.array.Array:
        """Increments h_t = g_t - g_{t-1} as a lazy dask array (rows, group x k), float32.

        One row for each step that directly follows a finite one: T - 1 rows for an unbroken run.
        """
        from gradlog.analysis.reading.labelled import increments_array

        self.require(2)
        return increments_array(self.rows, self.contiguous_ranges)

    @property
    def scalars(self) -> xarray.Dataset:
        """Logged scalars over ``step``."""
        from gradlog.analysis.reading.labelled import scalars_dataset

        return scalars_dataset(self)

    def sketcher(self) -> Sketcher:
        """Return an object that sketches any gradient of the model by the run's own random map."""
        from gradlog.analysis.reading.sketcher import Sketcher

        return Sketcher(self)

    def to_xarray(self) -> xarray.Dataset:
        """Dataset of the run: lazy sketch (step, group, k), group_norm2 (step, group), the scalars by name."""
        from gradlog.analysis.reading.labelled import run_dataset

        return run_dataset(self)

    def require(self, rows: int) -> None:
        """Refuse runs that are too short.

        Raises
        ------
        TooFewStepsError
            Fewer than ``rows`` finite rows.
        """
        finite = self.n_steps - self._flagged(NONFINITE)
        if finite < rows:
            raise TooFewStepsError(f"{self.where}: {finite} finite steps, at least {rows} needed; record a longer run")

    @cached_property
    def scalar_names(self) -> list[str]:
        """Names of all scalars, of the oldest segment first; not those that stand for halves of the batch."""
        return [name for name in self._logged if not HALF_PATTERN.fullmatch(name)]

    @cached_property
    def halves(self) -> bool:
        """Whether rows tell how far the gradients of two halves of the batch lay apart."""
        several = any(len(x.members) > 1 for x in self._launches)
        return self.header.what == "gradient" and not several and any(map(HALF_PATTERN.fullmatch, self._logged))

    @cached_property
    def _logged(self) -> list[str]:
        return list(dict.fromkeys(name for x in self._launches for m in x.members for name in m.scalar_names))

    @property
    def gaps(self) -> NDArray[np.int64]:
        """Steps between which rows are missing, (gaps, 2)."""
        apart = np.flatnonzero(np.diff(self.steps) != self.header.every)
        return np.stack([self.steps[apart], self.steps[apart + 1]], axis=1)

    def _flagged(self, bit: int) -> int:
        """Rows with this flag."""
        return int(np.count_nonzero(self.flags & bit))


def _concat(parts: list[NDArray[Number]], dtype: type[Number], tail: tuple[int, ...] = ()) -> NDArray[Number]:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *tail), dtype), *parts])
