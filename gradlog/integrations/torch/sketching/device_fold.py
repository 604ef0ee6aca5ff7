"""The first stage of the sketch on a device, in operations that every device of torch has.

Rows of m floats are gathered in a block, multiplied by the first-stage signs, and added up as they are turned. A turned
row is read in windows of neighbouring entries, which start wherever its rotation puts them: ``embedding_bag`` adds up
windows, with the rows' signs as weights, and reads each entry once. So every entry is moved five times at most, in a
handful of operations a block. The block is taken from torch's allocator for each step and given back.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gradlog.integrations.sketch_tables import Part, Piece, pieces, tables
from gradlog.integrations.torch.sketching.flats import Flat
from gradlog.sketching.fold_hash import FoldHash

WORK = 2**25
"""Most floats of a block: 128 MiB in float32."""

WINDOW = 256
"""Entries of a window. Tables of 8 bytes a window say where windows begin and which sign they have."""

IN_PLACE = ("cuda", "mps")
"""Devices whose ``embedding_bag`` reads overlapping windows where they are; others would copy them first."""

AT_ONCE, PARALLEL = 64, 8
"""Rows turned at once on other devices; and sums of windows, at least, that make a device busy."""


class Target(NamedTuple):
    """A device, and the precision of sums there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        """Precision in which squares are added: Apple's GPU knows no float64."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def put(self, a: NDArray[np.generic], kind: torch.dtype | None = None) -> torch.Tensor:
        """Copy an array to the device."""
        return torch.as_tensor(np.ascontiguousarray(a), dtype=kind or self.dtype, device=self.device)


@functools.cache
def reads_windows(device: torch.device) -> bool:
    """Whether the device adds up overlapping windows without a copy, and rightly; this waits for it."""
    if device.type not in IN_PLACE:
        return False
    try:
        return _windows_sum_up(device)
    except RuntimeError:  # torch before 2.10 has no embedding_bag for Apple's GPU
        return False


def _windows_sum_up(device: torch.device) -> bool:
    windows = torch.arange(8.0, device=device).as_strided((7, 2), (1, 1))
    index, first = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([0, 1, 6], [0, 2]))
    signs = torch.tensor([1.0, -1.0, -1.0], device=device)
    found = torch.nn.functional.embedding_bag(index, windows, first, mode="sum", per_sample_weights=signs)
    return bool(found.tolist() == [[-1.0, -1.0], [-6.0, -7.0]])


class Member(NamedTuple):
    """Entries ``start`` to ``stop`` of a part, which stand at ``at`` in a block."""

    part: int
    start: int
    stop: int
    at: int


class Block:
    """Rows that are folded together.

    Parameters
    ----------
    rows : list of (int, Piece)
        Each a piece of a part, by the part's place in the run; those of a group are neighbours, groups ascend.
    group : ndarray, int64 (rows,)
        Group of each.
    m : int
        Length of a row.
    """

    def __init__(self, rows: list[tuple[int, Piece]], group: NDArray[np.int64], m: int) -> None:
        self.size, self.group = len(rows), group
        self.shifts = np.array([piece.shift for _, piece in rows])
        self.signs = np.array([piece.sign for _, piece in rows])
        self.members: list[Member] = []
        for row, (i, piece) in enumerate(rows):
            last = self.members[-1] if self.members else None
            if last is not None and (last.part, last.stop) == (i, piece.start):
                self.members[-1] = last._replace(stop=piece.stop)
            else:
                self.members.append(Member(i, piece.start, piece.stop, row * m + piece.column))
        ends = [0, *(end for one in self.members for end in (one.at, one.at + one.stop - one.start)), len(rows) * m]
        self.cuts: list[int] = np.diff(ends).tolist()
        self.whole = self.cuts == [0, len(rows) * m, 0]
        self.first, self.last = int(group[0]), int(group[-1]) + 1

    def fill(self, X: torch.Tensor, flats: Sequence[Flat], t: torch.Tensor) -> bool:
        """Write t times the entries to X (rows, m), zeros where there are none; False if none is there."""
        held = [x[one.start : one.stop] if isinstance(x := flats[one.part], torch.Tensor) else None
                for one in self.members]  # fmt: skip
        if all(x is None for x in held):
            return False
        if self.whole and held[0] is not None:
            torch.mul(held[0].view(X.shape), t, out=X)
            return True
        places = X.view(-1).split(self.cuts)
        nothing = [place for place in places[::2] if len(place)]
        lists: defaultdict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
        for place, x in zip(places[1::2], held, strict=True):
            if x is None:
                nothing.append(place)
            else:
                lists[x.dtype][0].append(place)
                lists[x.dtype][1].append(x)
        if nothing:
            torch._foreach_zero_(nothing)
        for to, values in lists.values():
            torch._foreach_copy_(to, values)
        X.mul_(t)
        return True


def blocks(S: FoldHash, parts: Sequence[Part]) -> Iterator[Block]:
    """Cut parts into blocks; one that is as long as a block begins a new one, and fills it alone."""
    m = S.spec.m
    most = max(1, WORK // m)
    rows: list[tuple[int, Piece]] = []
    group: list[int] = []
    for i in sorted((i for i, p in enumerate(parts) if p.size), key=lambda i: parts[i].group):
        rest = pieces(S, parts[i])
        while rest:
            if rows and (len(rows) == most or len(rest) >= most):
                yield Block(rows, np.array(group), m)
                rows, group = [], []
            now, rest = rest[: most - len(rows)], rest[most - len(rows) :]
            rows += [(i, piece) for piece in now]
            group += [parts[i].group] * len(now)
    if rows:
        yield Block(rows, np.array(group), m)


class BlockFold:
    """Folds dense tensors block by block.

    Parameters
    ----------
    S, parts
        As of :class:`~gradlog.integrations.torch.sketching.device_sketch.DeviceSketch`.
    to : Target
        Where the tensors are, and how sums are taken.
    in_place : bool, optional
        Add up overlapping windows. By default where the device reads them in place.
    """

    def __init__(self, S: FoldHash, parts: Sequence[Part], to: Target, in_place: bool | None = None) -> None:
        self._m, self._to = S.spec.m, to
        self._t = to.put(tables(S)[0])
        self._blocks = list(blocks(S, parts))
        rows = np.concatenate([np.zeros(0, np.int64), *(b.group for b in self._blocks)])
        self._group_of = to.put(rows, torch.int64)
        most = max((b.size for b in self._blocks), default=0)
        turn = Windows if (reads_windows(to.device) if in_place is None else in_place) else Turns
        self._turns = [turn(b, self._m, to) for b in self._blocks]
        self._length = most * (self._m + turn.margin(self._m))

    def add(self, w: torch.Tensor, norm2: torch.Tensor, flats: Sequence[Flat]) -> None:
        """Add tensors to w (groups, m), and their squares to norm2 (groups,)."""
        buffer = torch.empty(self._length, dtype=self._to.dtype, device=self._to.device)
        norms = torch.zeros(len(self._group_of), dtype=self._to.wide, device=self._to.device)
        start = 0
        for block, turn in zip(self._blocks, self._turns, strict=True):
            stop = start + block.size
            X = buffer[: block.size * self._m].view(-1, self._m)
            if block.fill(X, flats, self._t):
                torch.linalg.vector_norm(X, dim=1, dtype=self._to.wide, out=norms[start:stop])
                turn.add(w, buffer, X)
            start = stop
        norm2.index_add_(0, self._group_of, norms.square_())


class Windows:
    """Adds up turned rows by windows of them."""

    def __init__(self, block: Block, m: int, to: Target) -> None:
        c, rows, spread = math.gcd(m, WINDOW), np.arange(block.size), block.last - block.first
        self._c, self._groups = c, slice(block.first, block.last)
        self._sums = max(1, min(PARALLEL // spread, block.size // (AT_ONCE * spread)))
        start = (np.arange(0, m, c)[:, None] - block.shifts) % m  # of each window in its row
        over = start - (m - c)  # what reaches beyond the row's end, and is read from the margin
        place = np.where(over > 0, block.size * m + 2 * c * rows + over, m * rows + start)
        own = [rows[block.group == g] for g in range(block.first, block.last)]
        bags = [share for these in own for share in np.array_split(these, self._sums)]
        index = np.concatenate([place[:, bag].ravel() for bag in bags])
        sizes = np.concatenate([np.full(m // c, len(bag)) for bag in bags])
        signs = np.concatenate([np.tile(block.signs[bag], m // c) for bag in bags])
        kind = torch.int32 if block.size * (m + 2 * c) < 2**31 else torch.int64
        self._index, self._signs = to.put(index, kind), to.put(signs)
        self._offsets = to.put(np.cumsum(sizes) - sizes, kind)

    @staticmethod
    def margin(m: int) -> int:
        """Floats that a row needs besides its own."""
        return 2 * math.gcd(m, WINDOW)

    def add(self, w: torch.Tensor, buffer: torch.Tensor, X: torch.Tensor) -> None:
        """Add the rows of X, which begin the buffer."""
        c, (rows, m) = self._c, X.shape
        margin = buffer[rows * m : rows * (m + 2 * c)].view(rows, 2 * c)
        torch.cat([X[:, m - c :], X[:, :c]], 1, out=margin)
        windows = buffer.as_strided((rows * (m + 2 * c) - c + 1, c), (1, 1))
        added = torch.nn.functional.embedding_bag(
            self._index, windows, self._offsets, mode="sum", per_sample_weights=self._signs
        )
        added = added.view(-1, self._sums, m)
        w[self._groups].add_(added.sum(1) if self._sums > 1 else added[:, 0])


class Turns:
    """Adds up turned rows by an index for each entry, a few rows at once."""

    def __init__(self, block: Block, m: int, to: Target) -> None:
        self._shifts = to.put(block.shifts, torch.int64)[:, None]
        self._signs = to.put(block.signs)[:, None]
        self._places = torch.arange(m, device=to.device)
        self._runs = []
        for g in range(block.first, block.last):
            a, b = np.searchsorted(block.group, [g, g + 1]).tolist()
            self._runs += [(g, slice(i, min(i + AT_ONCE, b))) for i in range(a, b, AT_ONCE)]

    @staticmethod
    def margin(m: int) -> int:
        """Floats that a row needs besides its own."""
        return 0

    def add(self, w: torch.Tensor, buffer: torch.Tensor, X: torch.Tensor) -> None:
        """Add the rows of X."""
        for g, run in self._runs:
            index = (self._places - self._shifts[run]).remainder_(len(self._places))
            w[g].add_(X[run].gather(1, index).mul_(self._signs[run]).sum(0))
