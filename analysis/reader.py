"""Path or URL -> Run: which rows of which segments make up the run, and everything known about them.

Opening reads metadata and the two small arrays ``step`` and ``flags``; the sketch is read when a result needs it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis import segments as zarr_segments
from gradlog.analysis.launches import launches
from gradlog.analysis.relogged import compare
from gradlog.analysis.rows import RowSource, Span
from gradlog.analysis.segments import Location, Segment
from gradlog.errors import SpecMismatchError, TooFewStepsError
from gradlog.schema import NONFINITE, PARTIAL, SKIPPED, RunHeader

if TYPE_CHECKING:
    import dask.array
    import xarray

View = Literal["latest", "all"]


def open_run(path: Location, view: View = "latest") -> Run:
    """Open a run for reading; a run that is still being recorded shows every step that was acknowledged.

    Parameters
    ----------
    path : str, path-like or zarr store
        A folder, a .zip of one, or an fsspec URL such as ``s3://bucket/run.zarr``.
    view : {"latest", "all"}
        After a resume from an older checkpoint, ``"latest"`` leaves out the rows that were abandoned: those at or
        after the first step of any later segment. ``"all"`` keeps them, in the order they were written.

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
    if view not in ("latest", "all"):
        raise ValueError(f"view must be 'latest' or 'all', got {view!r}")
    store, prefix = zarr_segments.open_store(path)
    where = path if isinstance(path, str) else os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    header = zarr_segments.read_header(store, prefix, where)
    names = zarr_segments.segment_names(store, prefix)
    segments = [Segment.open(store, prefix, name, header, where) for name in names]
    return Run(path, where, header, segments, view)


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """The segments of one process lifetime, one a rank, cut to the steps that all of them hold."""

    members: tuple[Segment, ...]
    steps: NDArray[np.int64]
    local: NDArray[np.int64]  # (members, rows): local row of each member

    @classmethod
    def of(cls, members: Sequence[Segment]) -> Lifetime:
        """Line up the ranks of a lifetime by step."""
        steps = members[0].steps
        for other in members[1:]:
            if other.run != members[0].run:
                raise SpecMismatchError(f"{other.where}: another sketch or layout than {members[0].where}")
            steps = np.intersect1d(steps, other.steps, assume_unique=True)
        if len(steps) == 0 and all(len(m.steps) for m in members):
            held = ", ".join(f"{m.header.name}: {len(m.steps)} rows" for m in members)
            raise SpecMismatchError(f"the ranks of segment {members[0].header.number} share no step ({held})")
        local = np.stack([np.searchsorted(m.steps, steps) for m in members])
        return cls(tuple(members), steps, local)

    def gather(self, column: str) -> list[NDArray[Any]]:
        """One per-row array of every member, at this lifetime's rows."""
        return [getattr(m, column)[rows] for m, rows in zip(self.members, self.local, strict=True)]

    @property
    def first_kept_by_successor(self) -> int:
        """Step from which on this lifetime replaces older ones."""
        header = self.members[0].header
        first = int(self.steps[0])
        return first if header.parent_step is None else min(first, header.parent_step + 1)


class Run:
    """A view of a recorded run.

    Attributes
    ----------
    header : RunHeader
        Sketch spec, groups, tensors, stage, provenance.
    steps : int64 array (rows,)
        Step number of each row of the view.
    flags : uint32 array (rows,)
        Bits of ``gradlog.schema``: non-finite, skipped, partial.
    chains : int64 array (c, 2)
        Row ranges [start, stop) of finite rows whose steps follow each other at distance ``every``. Increments and
        predictor history never cross from one to the next.
    rows : RowSource
        The sketch rows.
    """

    def __init__(self, location: Location, where: str, header: RunHeader, segments: list[Segment], view: View) -> None:
        self.location, self.where, self.header, self.segments, self.view = location, where, header, segments, view
        lifetimes = [Lifetime.of(members) for members in launches(segments)]
        self._pieces = _pieces([x for x in lifetimes if len(x.steps)], view)
        self.steps = _concat([x.steps for x in self._pieces], np.int64)
        self.flags = _concat([np.bitwise_or.reduce(x.gather("flags")) for x in self._pieces], np.uint32)
        self._abandoned = sum(len(x.steps) for x in lifetimes) - len(self.steps)

    def __repr__(self) -> str:
        return f"<gradlog.analysis.Run {self.where}: {len(self.steps)} steps, groups x k = {self.groups} x {self.k}>"

    def _repr_html_(self) -> str:
        from gradlog.analysis.card import card

        return card(self)

    @property
    def k(self) -> int:
        """Sketch coordinates a group."""
        return self.header.sketch.k

    @property
    def groups(self) -> int:
        """Number of parameter groups."""
        return len(self.header.groups)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Which rows hold no NaN or inf."""
        return np.asarray((self.flags & NONFINITE) == 0)

    @cached_property
    def chains(self) -> NDArray[np.int64]:
        """See the class."""
        good = self.finite
        follows = np.diff(self.steps) == self.header.every
        joined = np.concatenate([[False], good[1:] & good[:-1] & follows]) if len(good) else good
        starts = np.flatnonzero(good & ~joined)
        ends = np.flatnonzero(good & ~np.append(joined[1:], False)) + 1
        return np.stack([starts, ends], axis=1)

    @cached_property
    def rows(self) -> RowSource:
        """See the class."""
        spans: list[Span] = []
        base = 0
        for piece in self._pieces:
            breaks = np.flatnonzero((np.diff(piece.local, axis=1) != 1).any(axis=0)) + 1
            edges = [0, *breaks.tolist(), len(piece.steps)]
            for low, high in pairwise(edges):
                names = [m.header.name for m in piece.members]
                members = tuple(zip(names, piece.local[:, low].tolist(), strict=True))
                spans.append(Span(base + low, base + high, members))
            base += len(piece.steps)
        source = RowSource(self.location, tuple(spans), (self.groups, self.k), self.header.chunk)
        used = {id(m): m for piece in self._pieces for m in piece.members}
        for segment in used.values():
            segment.require_chunks("sketch")
        source.adopt(list(used.values()))
        return source

    @cached_property
    def group_norm2(self) -> NDArray[np.float64]:
        """Squared norm of the gradient, (rows, group); exact, or else that of the sketches (see ``norms_exact``)."""
        if not self.norms_exact:
            return _norms_of(self.rows)
        return _concat([x.gather("norm2")[0] for x in self._pieces], np.float64, (self.groups,))

    @property
    def fewer_ranks(self) -> int:
        """Rows that fewer ranks recorded than others: if these ranks had a share of the gradient, it is missing."""
        most = max((len(x.members) for x in self._pieces), default=0)
        return sum(len(x.steps) for x in self._pieces if len(x.members) < most)

    @property
    def joined(self) -> list[dict[str, Any]]:
        """Parameters that came after the run began: ``step`` of the first row that includes them, and ``names``."""
        known: set[str] = set()
        found = []
        for segment in self.segments:
            names = [t.name for t in segment.header.joined if t.name not in known]
            known.update(names)
            if names and len(segment.steps):
                found.append({"step": int(segment.steps[0]), "names": names})
        return found

    @cached_property
    def relogged(self) -> dict[str, Any]:
        """How rows that were logged again after a rewind agree with the abandoned ones; norms are read if any."""
        return compare(self.segments)

    @property
    def norms_exact(self) -> bool:
        """Whether the stored norms are those of the rows before they were sketched.

        Not with several ranks, as norms do not add up, nor with sketched updates, whose norms may be the sketch's own.
        """
        updates = self.header.what == "update" and not self.header.sketch.exact
        return not updates and all(len(x.members) == 1 for x in self._pieces)

    @cached_property
    def scalar_columns(self) -> dict[str, NDArray[np.float64]]:
        """Scalars by name, each (rows,), NaN where not logged; the mean over ranks."""
        columns = {}
        for name in self._scalar_names():
            parts = []
            for piece in self._pieces:
                missing = np.full(len(piece.steps), np.nan)
                values = [
                    m.scalars[name][rows] if name in m.scalars else missing
                    for m, rows in zip(piece.members, piece.local, strict=True)
                ]
                parts.append(np.mean(values, axis=0))
            columns[name] = _concat(parts, np.float64)
        return columns

    @cached_property
    def info(self) -> dict[str, Any]:
        """What is known without reading the sketch; plain values that json can write."""
        h, s = self.header, self.header.sketch
        steps = [int(self.steps[0]), int(self.steps[-1])] if len(self.steps) else [None, None]
        newest = self.segments[-1].header if self.segments else None
        return {
            "path": self.where,
            "format": "{}.{}".format(*h.format),
            "created": h.created,
            "uuid": h.uuid,
            "status": newest.status if newest else "empty",
            "reason": newest.reason if newest else "",
            "view": self.view,
            "steps": len(self.steps),
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
            "group_sizes": list(h.group_sizes()),
            "dimension": h.dimension,
            "tensors": len(h.tensors),
            "scalars": self._scalar_names(),
            "norms": "exact" if self.norms_exact else "estimated from the sketches",
            "segments": [_segment_info(x) for x in self.segments],
            "ranks": max((len(x.members) for x in self._pieces), default=0),
            "fewer_ranks": self.fewer_ranks,
            "abandoned": self._abandoned,
            "relogged": self.relogged,
            "joined": self.joined,
            "snapshots": [int(step) for segment in self.segments for step in segment.snapshot_steps],
            "gaps": self._gaps(),
            "chains": len(self.chains),
            "nonfinite": self.steps[~self.finite].tolist(),
            "skipped": int(np.count_nonzero(self.flags & SKIPPED)),
            "partial": int(np.count_nonzero(self.flags & PARTIAL)),
            "journal_rows": sum(len(x.tail) for x in self.segments if x.tail is not None),
            "storage": self._storage(),
            "provenance": dict(h.provenance),
        }

    @property
    def sketch(self) -> dask.array.Array:
        """Sketch rows as a lazy dask array (step, group, k), float32."""
        from gradlog.analysis.blocks import sketch_array

        self.require(1)
        return sketch_array(self.rows)

    def increments(self) -> dask.array.Array:
        """Increments h_t = g_t - g_{t-1} as a lazy dask array (rows, group x k), float32.

        One row for each step that directly follows a finite one: T - 1 rows for an unbroken run.
        """
        from gradlog.analysis.blocks import increments_array

        self.require(2)
        return increments_array(self.rows, self.chains)

    @property
    def scalars(self) -> xarray.Dataset:
        """Logged scalars over ``step``."""
        from gradlog.analysis.dataset import scalars_dataset

        return scalars_dataset(self)

    def to_xarray(self) -> xarray.Dataset:
        """Dataset of the run: lazy sketch (step, group, k), group_norm2 (step, group), the scalars by name."""
        from gradlog.analysis.dataset import run_dataset

        return run_dataset(self)

    def require(self, rows: int) -> None:
        """Refuse runs that are too short.

        Raises
        ------
        TooFewStepsError
            Fewer than ``rows`` finite rows.
        """
        finite = int(np.count_nonzero(self.finite))
        if finite < rows:
            raise TooFewStepsError(f"{self.where}: {finite} finite steps, at least {rows} needed; record a longer run")

    def _scalar_names(self) -> list[str]:
        members = [m for x in self._pieces for m in x.members]
        return list(dict.fromkeys(n for m in members for n in (*m.header.scalars, *(m.tail.names if m.tail else ()))))

    def _gaps(self) -> list[list[int]]:
        broken = np.flatnonzero(np.diff(self.steps) != self.header.every)
        return [[int(self.steps[i]), int(self.steps[i + 1])] for i in broken]

    def _storage(self) -> dict[str, dict[str, int]]:
        totals = {name: {"bytes": 0, "files": 0} for name in zarr_segments.ARRAYS}
        for segment in self.segments:
            for name, found in segment.storage.items():
                for key, value in found.items():
                    totals[name][key] += value
        return totals


def _pieces(lifetimes: list[Lifetime], view: View) -> list[Lifetime]:
    """Select the lifetimes' rows in view order; the newest wins for each step when the view is the latest."""
    if view == "all":
        return lifetimes
    kept: list[Lifetime] = []
    horizon: int | None = None
    for piece in reversed(lifetimes):
        keep = np.ones(len(piece.steps), bool) if horizon is None else piece.steps < horizon
        if keep.all():
            kept.append(piece)
        elif keep.any():
            kept.append(Lifetime(piece.members, piece.steps[keep], piece.local[:, keep]))
        first = piece.first_kept_by_successor
        horizon = first if horizon is None else min(horizon, first)
    return kept[::-1]


def _segment_info(segment: Segment) -> dict[str, Any]:
    h = segment.header
    return {
        "name": h.name,
        "number": h.number,
        "rank": h.rank,
        "rows": len(segment.steps),
        "committed": h.rows,
        "first_step": int(segment.steps[0]) if len(segment.steps) else None,
        "last_step": int(segment.steps[-1]) if len(segment.steps) else None,
        "status": h.status,
        "reason": h.reason,
        "parent": h.parent,
        "parent_step": h.parent_step,
        "opened": h.opened,
        "closed": h.closed,
        "dropped": [list(x) for x in h.dropped],
    }


def _norms_of(rows: RowSource) -> NDArray[np.float64]:
    norms = np.empty((len(rows), rows.groups))
    for start in range(0, len(rows), rows.chunk):
        stop = min(start + rows.chunk, len(rows))
        cube = rows.read(start, stop).reshape(stop - start, rows.groups, rows.k)
        norms[start:stop] = np.einsum("tgk,tgk->tg", cube, cube, dtype=np.float64)
    return norms


def _concat(parts: list[NDArray[Any]], dtype: Any, tail: tuple[int, ...] = ()) -> NDArray[Any]:
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty((0, *tail))
    return joined.astype(dtype, copy=False)
