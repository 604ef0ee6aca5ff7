"""What a run will be: from its options and its parameters to its header. Nothing here touches a file."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence

from gradlog.format import limits
from gradlog.format.header import FULL_BITS, RunHeader, TensorInfo
from gradlog.format.layout import chunk_rows, most_rows
from gradlog.recorder import provenance
from gradlog.recorder.options import RecordingOptions
from gradlog.sketching import fold_hash, groups
from gradlog.storage import liveness
from gradlog.storage.commit import now
from gradlog.storage.settings import Storage
from gradlog.storage.tickets import Ticket

Layout = Sequence[tuple[str, tuple[int, ...], str]]
"""(name, shape, dtype) of every parameter tensor, in order."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where a run is recorded, of which parameters, and how. ``layout``: None before the first gradient tells it.

    ``ticket``: of a run whose rows have been waiting for its store.
    """

    path: str
    layout: Layout | None
    options: RecordingOptions
    ticket: Ticket | None = None

    @property
    def storage(self) -> Storage:
        """How the store is opened and waited for."""
        return self.options.storage or Storage()

    @property
    def optional(self) -> tuple[str, ...]:
        """Optional arrays of the segment."""
        if self.ticket is not None:
            return self.ticket.segment.optional
        return ("update",) if self.options.updates else ()

    def header(self, layout: Layout, kind: str = "") -> RunHeader:
        """Header of a new run of these parameters; ``kind``: of the random map, where another is asked for."""
        if self.ticket is not None:
            return self.ticket.header
        options = self.options
        names, tensors, sizes = self._divided(layout)
        k, rounded = options.k, options.sketch_bits < FULL_BITS
        if k == "exact":
            spec = fold_hash.exact_spec(sizes)
        else:
            spec = fold_hash.fold_hash_spec(k, options.seed, kind=kind or options.sketch)
        if spec.kind == fold_hash.FOLD_HASH_2:
            tensors = fold_hash.placed(tensors, spec.k)
        return RunHeader(
            sketch=spec,
            groups=names,
            tensors=tensors,
            chunk=options.chunk or chunk_rows(len(names) * spec.k * 4),
            codec=options.codec or ("bitshuffle-zstd" if rounded else "raw"),
            sketch_bits=options.sketch_bits,
            stage=options.stage,
            what="gradient" if options.updates else str(options.what),
            every=options.every,
            created=now(),
            uuid=uuid.uuid4().hex,
            provenance=provenance.collect(options),
        )

    def process(self, continues: bool) -> dict[str, object]:
        """Describe the process that records a segment; ``continues``: one of a run that was recorded before."""
        if self.ticket is not None:
            told = dict(self.ticket.segment.process)
            return told if continues else {**told, "resumed": None}
        resumed = provenance.collect(self.options, notes=False) if continues else None
        return {**liveness.process_identity(), "resumed": resumed}

    def require_chunk(self) -> None:
        """Refuse a ``chunk`` that readers would refuse, as far as the layout is known already: of one group otherwise.

        Raises
        ------
        ValueError
            Chunks of so many rows would be too large.
        """
        chunk = self.options.chunk
        if chunk is None:
            return
        sizes = [1] if self.layout is None else self._divided(self.layout)[2]
        k = max(sizes) if self.options.k == "exact" else self.options.k
        most = most_rows(len(sizes), k)
        if 1 <= most < chunk:
            raise ValueError(
                f"chunk must be at most {most:,}: larger chunks of rows of {len(sizes):,} groups x {k:,} numbers take "
                f"more than the {limits.CHUNK // 2**20} MiB that readers take; got {chunk:,}, leave it out for the "
                "default"
            )

    def _divided(self, layout: Layout) -> tuple[tuple[str, ...], tuple[TensorInfo, ...], list[int]]:
        """Names of the groups, every tensor with its group, and coordinates of each group."""
        plain = [TensorInfo(name, tuple(shape), dtype, 0) for name, shape, dtype in layout]
        names, index = groups.assign([t.name for t in plain], [t.size for t in plain], self.options.groups)
        sizes = [0] * len(names)
        for tensor, group in zip(plain, index, strict=True):
            sizes[group] += tensor.size
        return names, tuple(dataclasses.replace(t, group=g) for t, g in zip(plain, index, strict=True)), sizes


def described(path: str, header: RunHeader, updates: bool = False) -> str:
    """One line: what is recorded and what it costs."""
    row = header.n * (8 if updates else 4) + len(header.groups) * 8 + 40
    files = (7 if updates else 6) / header.chunk * 1000
    kind = "exact" if header.sketch.exact else f"{header.sketch.kind} to k={header.sketch.k}"
    return (
        f"recording to {path}: {header.dimension:,} coordinates in {len(header.groups)} groups, {kind}"
        f"{', with updates' if updates else ''}; "
        f"{row / 1024:.1f} KiB a step, chunks of {header.chunk} steps, {max(files, 1):.0f} files per 1,000 steps, "
        f"{2 * header.chunk * row / 2**20:.1f} MiB of buffers"
    )
