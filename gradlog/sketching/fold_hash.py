"""The linear sketches R^d -> R^k of a gradient, ``fold-hash/1`` and ``/2``, and the exact mode for small models.

Two linear stages. *Fold* cuts each tensor (C order) into rows X_q of m floats and adds them up, ::

    w  =  sum_q  a_q roll(t * X_q, s_q)          w in R^m

with one vector t of m random signs, a random sign a_q and a random rotation s_q a row. Both maps are isometries, so
row q adds exactly ||X_q||^2; cross terms have mean zero through a_q, and two entries of different rows meet with
probability 1/m through s_q. *Hash* is a count sketch of w: a random arrangement of its m entries in rows of k, random
signs, columns summed. Two entries share a column with probability at most 1/k. Together, for every fixed x, ::

    E <Sx, Sy> = <x, y>          Var ||Sx||^2 <= (2/k) (1 + (3k + 6)/m) ||x||^4

No coordinate is ever dropped, hence no assumption on x. The count sketch is of Charikar, Chen and Farach-Colton
(2002); its variance bound is of Weinberger et al. (2009).

``fold-hash/2`` differs in two points, so that a group of at most k entries has no error at all. Its tensors are not
rotated at random but begin at places of their own among the first k of w. And the random arrangement permutes each k
consecutive entries of w within themselves, so that these never share a column. Then the sketch of such a group is a
signed permutation of its gradient. Others share a column with probability at most 1/k as before: the bound above holds.

t and the second stage are shared by all tensors and groups, and a row is keyed by (tensor name, offset): sketches of
shards, micro-batches, ranks and groups of the same spec simply add up.

**Reproducible to the bit.** Every random number comes from SHAKE-256 over the spec and the name. The arithmetic
consists of sign changes, which are exact, and of elementwise IEEE float32 additions in an order fixed here. Rows are
added in ascending order into a buffer of 2m floats (a rotated row is written without wrapping around), then its two
halves, then the rows of the second stage by halving. No reduction is left to a library, so every machine,
numpy release and thread count gives the same bytes. (Squared norms do use BLAS and may differ in the last bits.)
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import UnsupportedError
from gradlog.format.codec import Numbers
from gradlog.format.header import SketchSpec, TensorInfo
from gradlog.sketching.small_groups import Scatter

Floats = NDArray[np.float32]
FOLD_HASH, FOLD_HASH_2, EXACT = "fold-hash/1", "fold-hash/2", "exact/1"
RANDOM_MAPS = (FOLD_HASH, FOLD_HASH_2)

LONGEST_DOT = 8192
"""Entries: above 10,000 OpenBLAS wakes its threads, which wait for busy cores; and float32 sums stay accurate."""


def default_m(k: int) -> int:
    """Length of the folded vector: the smallest power of two >= max(2**15, 32 k).

    Keeps the factor (3k + 6)/m of the variance bound below 10 %, and w, t and a row in a core's L2 cache up to
    k = 1024.

    >>> default_m(256), default_m(4096)
    (32768, 131072)
    """
    return 1 << (max(2**15, 32 * k) - 1).bit_length()


class FoldHash:
    """The map S of ``fold-hash/1``, or with ``places`` of ``fold-hash/2``; one object serves one thread.

    Parameters
    ----------
    k : int
        Coordinates of the sketch.
    seed : int
        Any integer; the same seed gives the same map.
    m : int, optional
        Length of the folded vector, at least ``k``. By default :func:`default_m`.
    places : mapping of str to int, optional
        Where in the folded vector the tensors of these names begin, which others do at a random place.

    Raises
    ------
    ValueError
        ``k < 1`` or ``m < k``.

    Examples
    --------
    >>> S = FoldHash(k=64, seed=0)
    >>> x = np.ones(1000, np.float32)
    >>> bool(0.5 < np.sum(S.sketch(x, "w") ** 2) / 1000 < 1.5)
    True
    """

    def __init__(self, k: int, seed: int = 0, m: int | None = None, places: Mapping[str, int] | None = None) -> None:
        self.spec = fold_hash_spec(k, seed, m, FOLD_HASH if places is None else FOLD_HASH_2)
        m, self._begins = self.spec.m, places or {}
        self._key = f"{self.spec.kind}|seed={self.spec.seed}|m={self.spec.m}"
        self._t = _aligned(m)
        self._t[:] = _signs(_words(f"{self._key}|t", m))
        words = _words(f"{self._key}|k={self.spec.k}", m)
        self._sign = _signs(words)
        block = np.zeros(m, np.int64) if places is None else np.arange(m) // k
        self._order = np.lexsort((words >> np.uint64(1), block))
        self._rows: dict[str, NDArray[np.int64]] = {}
        self._scratch = _aligned(m)
        self._columns = np.zeros((-(-m // k), k), np.float32)

    def buffer(self) -> Floats:
        """Return the zero vector to fold into: float32 (2m,), two halves whose sum is w."""
        return _aligned(2 * self.spec.m)

    def fold_norm2(self, w: Floats, name: str, x: Numbers) -> float:
        """Fold a full tensor (unchecked) and return the sum of its squared float32 entries, in float64."""
        return in_range(self._fold(w, name, x), x)

    def fold_entries(self, w: Floats, name: str, index: NDArray[np.int64], x: Numbers) -> float:
        """Fold entries of a tensor (unchecked), at ascending places ``index``; return the sum of their squares.

        The same additions as of the whole tensor, without the zeros: to the bit the same w.
        """
        if not index.size:
            return 0.0
        with np.errstate(all="ignore"):
            row, entry = np.divmod(index, self.spec.m)
            code = self.rows(name, int(row[-1]) + 1)[row]
            signed = x.astype(np.float32, copy=False) * self._t[entry]
            np.negative(signed, out=signed, where=(code & 1).astype(bool))
            np.add.at(w, (code >> 1) + entry, signed)
            return in_range(squared_norm(x), x)

    def fold_wide(self, w: NDArray[np.float64], column: int, x: Numbers, negative: bool) -> float:
        """Add a piece of a row (unchecked), which begins at ``column``, to sums in float64; return its squared norm.

        For sketches that are subtracted from each other or added up over ranks: both are float64 throughout.
        """
        piece = x.astype(np.float64)
        blocks = (piece[i : i + LONGEST_DOT] for i in range(0, piece.size, LONGEST_DOT))
        norm2 = sum(float(np.dot(block, block)) for block in blocks)
        piece *= self._t[column : column + piece.size]
        (np.subtract if negative else np.add)(w, piece, w)
        return norm2

    def hash(self, w: Floats, out: Floats) -> None:
        """Second stage: write the sketch, float32 (k,), of the folded vector ``w`` to ``out``."""
        m = self.spec.m
        columns = self._columns
        with np.errstate(all="ignore"):
            v = np.add(w[:m], w[m:], out=self._scratch)
            v *= self._sign
            np.take(v, self._order, out=columns.reshape(-1)[:m], mode="clip")
            n = len(columns)
            while n > 1:
                half = n // 2
                columns[:half] += columns[n - half : n]
                n -= half
            out[:] = columns[0]

    def sketch(self, x: Numbers, name: str) -> Floats:
        """Return Sx, float32 (k,), of one tensor ``x`` (any shape, real) called ``name``."""
        w, out = self.buffer(), np.empty(self.spec.k, np.float32)
        with np.errstate(all="ignore"):
            self._fold(w, name, np.ravel(x))
        self.hash(w, out)
        return out

    def rows(self, name: str, n: int) -> NDArray[np.int64]:
        """Return the codes 2 s_q + (a_q < 0) of the first ``n`` rows of tensor ``name``, int64 (n,)."""
        codes = self._rows.get(name)
        if codes is None or len(codes) < n:
            words = _words(f"{self._key}|tensor={name}", n)
            shifts = (words >> np.uint64(1)) % np.uint64(self.spec.m)
            codes = (2 * shifts + (words & np.uint64(1))).astype(np.int64)
            if n and name in self._begins:
                codes[0] = 2 * self._begins[name] + (codes[0] & 1)
            self._rows[name] = codes
        return codes[:n]

    def columns(self, name: str, n: int) -> NDArray[np.int64]:
        """Return the column of the sketch that each of the first ``n`` entries of tensor ``name`` falls into, (n,)."""
        return np.asarray(self._places()[self._path(name, n)[0] % self.spec.m] % self.spec.k)

    def scatter(self, groups: Sequence[Sequence[tuple[str, int]]]) -> Scatter:
        """Prepare both stages for the entries of small groups, each of tensors (name, size), one after another."""
        paths = [self._path(name, n) for members in groups for name, n in members]
        address, sign = (np.concatenate(x) for x in zip(*paths, strict=True))
        group = np.repeat(np.arange(len(groups)), [sum(n for _, n in members) for members in groups])
        return Scatter(group, address, sign * self._sign[address % self.spec.m], self._places(), self.spec.k)

    def _path(self, name: str, n: int) -> tuple[NDArray[np.int64], Floats]:
        """Place in the buffer, and sign there, of each of the first ``n`` entries of a tensor."""
        row, entry = np.divmod(np.arange(n), self.spec.m)
        code = self.rows(name, -(-n // self.spec.m))[row]
        return entry + (code >> 1), np.where(code & 1, -self._t[entry], self._t[entry])

    def _places(self) -> NDArray[np.int64]:
        """Where each entry of the folded vector is in the second stage's arrangement, (m,)."""
        place = np.empty(self.spec.m, np.int64)
        place[self._order] = np.arange(self.spec.m)
        return place

    def _fold(self, w: Floats, name: str, x: Numbers) -> float:
        """Add x row by row to w and return its squared norm.

        The norm comes first because it is free: a dot product streams two rows at a time into the cache at the full
        speed of the memory, which the elementwise product alone does not reach.
        """
        m, t, scratch = self.spec.m, self._t, self._scratch
        norm2 = 0.0
        for i, code in enumerate(self.rows(name, -(-x.size // m)).tolist()):
            start = i * m
            if i % 2 == 0:
                norm2 += squared_norm(x[start : start + 2 * m])
            part = x[start : start + m]
            n = part.size
            signed = scratch if n == m else scratch[:n]
            np.multiply(part, t if n == m else t[:n], signed)
            place = w[code >> 1 : (code >> 1) + n]
            (np.subtract if code & 1 else np.add)(place, signed, place)
        return norm2


def from_spec(spec: SketchSpec, tensors: Sequence[TensorInfo] = (), family: type[FoldHash] = FoldHash) -> FoldHash:
    """Regenerate the map from its spec and the tensors of the run; ``family``: the class that computes it.

    Raises
    ------
    UnsupportedError
        The kind is not a random map that this version knows.
    """
    if spec.kind not in RANDOM_MAPS:
        raise UnsupportedError(
            f"no random map for sketch kind {spec.kind!r}: known kinds are {FOLD_HASH!r}, {FOLD_HASH_2!r}, and "
            f"{EXACT!r} which stores the coordinates themselves; a newer gradlog may know this one"
        )
    places = {t.name: t.place for t in tensors if t.place is not None} if spec.kind == FOLD_HASH_2 else None
    return family(spec.k, spec.seed, spec.m, places)


def placed(tensors: Sequence[TensorInfo], k: int) -> tuple[TensorInfo, ...]:
    """Tensors with the places that ``fold-hash/2`` has for those of groups of at most ``k`` coordinates.

    >>> sizes = {"a": 3, "b": 4, "c": 9}
    >>> [t.place for t in placed([TensorInfo(n, (s,), "float32", s // 9) for n, s in sizes.items()], 8)]
    [0, 3, None]
    """
    sizes, ends, found = collections.Counter[int](), collections.Counter[int](), []
    for t in tensors:
        sizes[t.group] += t.size
    for t in tensors:
        found.append(dataclasses.replace(t, place=ends[t.group]) if sizes[t.group] <= k else t)
        ends[t.group] += t.size
    return tuple(found)


def fold_hash_spec(k: int, seed: int = 0, m: int | None = None, kind: str = FOLD_HASH) -> SketchSpec:
    """Spec of a random map, without the map. Parameters and errors as of :class:`FoldHash`.

    >>> fold_hash_spec(64, seed=3)
    SketchSpec(kind='fold-hash/1', k=64, m=32768, seed=3)
    """
    m = default_m(k) if m is None else m
    if k < 1 or m < k:
        raise ValueError(f"a sketch needs k >= 1 and m >= k, got k={k}, m={m}")
    return SketchSpec(kind=kind, k=int(k), m=int(m), seed=int(seed))


def exact_spec(group_sizes: Sequence[int]) -> SketchSpec:
    """Spec of the exact mode: k is the size of the largest group, shorter groups end in zeros.

    >>> exact_spec([10, 4]).k
    10
    """
    return SketchSpec(kind=EXACT, k=max(1, *group_sizes), m=0, seed=0)


def squared_norm(x: Numbers) -> float:
    """Squared norm of x rounded to float32: float32 dot products of at most 8192 entries, added in float64."""
    if x.dtype != np.float32:
        x = x.astype(np.float32)
    body = x.size - x.size % LONGEST_DOT
    norm2 = 0.0
    if body:
        blocks = x[:body].reshape(-1, LONGEST_DOT)
        norm2 = sum(np.vecdot(blocks, blocks).tolist())
    if body < x.size:
        rest = x[body:]
        norm2 += float(np.dot(rest, rest))
    return norm2


def in_range(norm2: float, x: Numbers) -> float:
    """Recompute the squared norm in float64 where squares may have left the range of float32."""
    if math.isnan(norm2) or 1e-30 * x.size <= norm2 < math.inf:  # squares add up to NaN only where an entry is one
        return norm2
    norm2 = 0.0
    for start in range(0, x.size, LONGEST_DOT):
        block = x[start : start + LONGEST_DOT].astype(np.float32).astype(np.float64)
        norm2 += float(np.dot(block, block))
    return norm2


def _aligned(n: int) -> Floats:
    """Return n zeros on a cache-line boundary, float32 (n,): a vector load that straddles two lines costs double."""
    memory = np.zeros(n + 16, np.float32)
    start = -memory.ctypes.data // 4 % 16
    return memory[start : start + n]


def _words(key: str, n: int) -> NDArray[np.uint64]:
    """Return n random 64-bit words: SHAKE-256 of the key, read as little-endian integers."""
    return np.frombuffer(hashlib.shake_256(key.encode()).digest(8 * n), "<u8").astype(np.uint64, copy=False)


def _signs(words: NDArray[np.uint64]) -> Floats:
    """+1 for an even word, -1 for an odd one."""
    return np.where(words & np.uint64(1), np.float32(-1), np.float32(1))
