"""From the tensors of a run to one row's sketches: on the CPU, on a device, or over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.sketch_tables import Part
from gradlog.integrations.torch.sketching.flats import Folded, flat
from gradlog.integrations.torch.sketching.shards import Exchange, Shard, is_sharded
from gradlog.integrations.torch.sketching.sketch import fetch, sketch_on
from gradlog.integrations.torch.types import Floats, Number
from gradlog.recorder.recorder import Recorder
from gradlog.recorder.rows.fold import Fold
from gradlog.recorder.rows.row_builder import Fill
from gradlog.sketching.projector import Projector
from gradlog.sketching.pytree import as_entries

Pieces = list[tuple[torch.Tensor, torch.Tensor]]
"""Sketches (groups, k) and squared norms (groups,), one pair per device; their sum is the row."""

Sums = list[Folded]
"""What has been added up of a row so far, one per device."""


class HostMeasure:
    """CPU tensors through the recorder's own projector, on views of their memory."""

    later = False
    exchange = None

    def __init__(self, header: RunHeader, projector: Projector) -> None:
        self._projector = projector
        self._names = [t.name for t in header.tensors]
        self._shape = (len(header.groups), header.sketch.k)

    def lazy(self, tensors: Sequence[torch.Tensor | None]) -> Fill:
        """Sketch when the row is written: at once."""
        arrays = [as_entries(t, n) for t, n in zip(tensors, self._names, strict=True)]
        return lambda out, norm2: self._projector.project(arrays, out, norm2)

    def now(self, tensors: Sequence[torch.Tensor | None]) -> Fill:
        """Sketch before this returns; the tensors may change afterwards."""
        out, norm2 = np.empty(self._shape, np.float32), np.empty(self._shape[0])
        missing = self.lazy(tensors)(out, norm2)
        return filler(lambda: (out, norm2), missing)


class Measure:
    """Everything else: device tensors, shards, and float64 sketches of parameters.

    Parameters
    ----------
    header : RunHeader
        The run.
    tensors : sequence of Tensor
        The parameters, in the run's order.
    precise : bool
        Sum in float64, for sketches that will be subtracted.
    """

    def __init__(self, header: RunHeader, tensors: Sequence[torch.Tensor], precise: bool = False) -> None:
        self._header = header
        sharded = any(map(is_sharded, tensors))
        if header.sketch.exact and sharded:
            raise UnsupportedError("k='exact' needs whole gradients on one rank; pass a number for k in a sharded run")
        self.exchange = Exchange() if sharded else None
        self._shards = [Shard(p) for p in tensors] if sharded else None
        parts = [Part(t.name, t.group, t.size) for t in header.tensors]
        if self._shards:
            parts = [s.part(t.name, t.group) for s, t in zip(self._shards, header.tensors, strict=True)]
        devices = [t.device for t in tensors]
        if sharded and len(set(devices)) > 1:
            raise UnsupportedError(f"a sharded run needs its parameters on one device a rank, got {set(devices)}")
        self.later = _FORCE_DEVICE or any(d.type != "cpu" for d in devices)
        self._device = devices[0]
        self._on = []
        for device in dict.fromkeys(devices):
            members = [i for i, d in enumerate(devices) if d == device]
            self._on.append((members, sketch_on(device, header, [parts[i] for i in members], precise, _FORCE_DEVICE)))

    @property
    def by(self) -> Fold | None:
        """What sketches; of several devices, all."""
        folds = [on.by for _, on in self._on if on.by is not None]
        names = ", ".join(dict.fromkeys(one.name for one in folds))
        return folds[0]._replace(name=names, failure=max(one.failure for one in folds)) if folds else None

    def begin(self) -> Sums:
        """Return the sums of nothing."""
        return [on.zero() for _, on in self._on]

    def add(self, sums: Sums, tensors: Sequence[torch.Tensor | None]) -> None:
        """Fold this rank's part of some tensors into sums; None counts as zeros. Nothing is waited for."""
        if self._shards:
            flats = [s.flat(t) for s, t in zip(self._shards, tensors, strict=True)]
        else:
            flats = [flat(t) for t in tensors]
        for (members, on), folded in zip(self._on, sums, strict=True):
            on.fold(folded, [flats[i] for i in members])

    def end(self, sums: Sums) -> Pieces:
        """Sketches of what was added up."""
        return [on.sketch(folded) for (_, on), folded in zip(self._on, sums, strict=True)]

    def pieces(self, tensors: Sequence[torch.Tensor | None]) -> Pieces:
        """Sketch this rank's part. Nothing is waited for."""
        sums = self.begin()
        self.add(sums, tensors)
        return self.end(sums)

    def total(self, pieces: Pieces, missing: int) -> Fill:
        """Add up over ranks where there are several, start the copy to the host, and return the way to the row."""
        if self.exchange:
            pieces = [self.exchange.add(*pieces[0])]
        fetched = [(fetch(a), fetch(b)) for a, b in pieces]

        def read() -> tuple[Floats, Floats]:
            sketches, norms = zip(*((a(), b()) for a, b in fetched), strict=True)
            return np.sum(sketches, axis=0), np.sum(norms, axis=0)

        return filler(read, missing)

    def now(self, tensors: Sequence[torch.Tensor | None]) -> Fill:
        """Sketch tensors, of which None counts as zeros."""
        return self.total(self.pieces(tensors), sum(t is None for t in tensors))

    lazy = now

    def blank(self) -> Pieces:
        """NaN everywhere: what a rank contributes when its own sketch failed, so that the others need not wait."""
        sketches = torch.full((len(self._header.groups), self._header.sketch.k), torch.nan, device=self._device)
        return [(sketches, sketches[:, 0].double())]


def measure_for(
    recorder: Recorder, header: RunHeader, params: Sequence[torch.Tensor], in_parts: bool = False
) -> HostMeasure | Measure:
    """Choose the way from parameters like these to a row, which may be added up ``in_parts``."""
    precise = header.what == "update"
    if (
        not precise
        and not in_parts
        and all(p.device.type == "cpu" and not is_sharded(p) for p in params)
        and not _FORCE_DEVICE
    ):
        return HostMeasure(header, recorder.projector(header))
    measure = Measure(header, params, precise)
    if measure.by is not None:
        recorder.sketched_by(measure.by)
    return measure


_FORCE_DEVICE = False
"""For the tests: the device path on the CPU."""


def filler(read: Callable[[], tuple[Floats, Floats]], missing: int) -> Fill:
    """Return a Fill that copies what ``read`` gives."""

    def fill(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
        out[:], norm2[:] = read()
        return missing

    return fill


def summed(fills: Sequence[Fill], missing: int) -> Fill:
    """Add up what was sketched of different tensors: sketches and squared norms both add."""

    def fill(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
        a, b = np.empty_like(out), np.empty_like(norm2)
        out[:], norm2[:] = 0, 0
        for part in fills:
            part(a, b)
            out += a
            norm2 += b
        return missing

    return fill


def divided(fill: Fill, scale: Number | None) -> Fill:
    """Divide the gradient by a loss scale (None: there is none), after the fact: the sketch is linear."""
    if scale is None:
        return fill

    def fill_divided(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
        missing = fill(out, norm2)
        s = float(scale)
        out /= np.float32(s)
        norm2 /= s * s
        return missing

    return fill_divided
