"""The fold-hash sketch as a pure JAX function: for use inside jit, on any device, on sharded arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from gradlog.errors import GradientError
from gradlog.format.header import RunHeader
from gradlog.integrations.hooks import Fill
from gradlog.integrations.sketch_tables import Part, pieces, tables
from gradlog.sketching.fold_hash import from_spec

UNROLL = 8
"""Tensors of more rows than this are folded in a loop, to keep the compiled program small."""


class Sketched(NamedTuple):
    """One step's row on the device: sketches float32 (groups, k), squared norms (groups,), absent leaves. A pytree."""

    sketch: jax.Array
    norm2: jax.Array
    missing: jax.Array


def filled(row: Sketched) -> Fill:
    """Return a function that writes a sketched row into the run's buffers."""

    def fill(out: NDArray[np.float32], norm2: NDArray[np.float64]) -> int:
        out[:], norm2[:] = np.asarray(row.sketch), np.asarray(row.norm2)
        return int(row.missing)

    return fill


class JaxSketch:
    """Sketches the gradients of one run.

    Parameters
    ----------
    header : RunHeader
        The run, as ``logger.header`` gives it.

    Examples
    --------
    >>> row = jax.jit(JaxSketch(log.header))(leaves)          # doctest: +SKIP
    """

    def __init__(self, header: RunHeader) -> None:
        self._groups, self._k = len(header.groups), header.sketch.k
        self._tensors = header.tensors
        self._exact = header.sketch.exact
        if not self._exact:
            S = from_spec(header.sketch, header.tensors)
            self._m = S.spec.m
            self._t, self._sign, self._order = tables(S)
            self._rows = [pieces(S, Part(t.name, t.group, t.size)) for t in header.tensors]

    def __call__(self, leaves: Sequence[jax.Array | None]) -> Sketched:
        """Sketch gradients in the order of the run's tensors; None counts as zeros.

        Raises
        ------
        GradientError
            While tracing: a leaf of another shape than the run's tensor.
        """
        flats = [self._flat(i, x) for i, x in enumerate(leaves)]
        members = [[i for i, t in enumerate(self._tensors) if t.group == g] for g in range(self._groups)]
        rows = [self._group([(i, x) for i in own if (x := flats[i]) is not None]) for own in members]
        norms = [sum((_square(x) for i in own if (x := flats[i]) is not None), jnp.zeros(())) for own in members]
        return Sketched(jnp.stack(rows), jnp.stack(norms), jnp.int32(sum(x is None for x in flats)))

    def nothing(self) -> Sketched:
        """Row of a step in which no parameter had a gradient."""
        return Sketched(jnp.zeros((self._groups, self._k)), jnp.zeros(self._groups), jnp.int32(len(self._tensors)))

    def _flat(self, i: int, x: jax.Array | None) -> jax.Array | None:
        if x is None:
            return None
        if tuple(x.shape) != self._tensors[i].shape:
            raise GradientError(f"{self._tensors[i].name}: expected shape {self._tensors[i].shape}, got {x.shape}")
        if jnp.iscomplexobj(x):
            x = jnp.stack([x.real, x.imag], axis=-1)
        return x.astype(jnp.float32).ravel()

    def _group(self, members: list[tuple[int, jax.Array]]) -> jax.Array:
        if self._exact:
            row = jnp.concatenate([x for _, x in members]) if members else jnp.zeros(0)
            return jnp.pad(row, (0, self._k - row.size))
        w = jnp.zeros(self._m)
        for i, x in members:
            w = w + self._fold(i, x)
        v = (w * self._sign)[self._order]
        return jnp.pad(v, (0, -self._m % self._k)).reshape(-1, self._k).sum(axis=0)

    def _fold(self, i: int, x: jax.Array) -> jax.Array:
        rows = self._rows[i]
        X = jnp.pad(x, (0, len(rows) * self._m - x.size)).reshape(-1, self._m)
        shifts, signs = [r.shift for r in rows], [r.sign for r in rows]
        if len(rows) <= UNROLL:
            turned = [a * jnp.roll(self._t * X[q], s) for q, (s, a) in enumerate(zip(shifts, signs, strict=True))]
            return sum(turned, jnp.zeros(self._m))

        def add(w: jax.Array, row: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            part, s, a = row
            return w + a * jnp.roll(self._t * part, s), None

        codes = jnp.asarray(np.array(shifts, np.int32)), jnp.asarray(np.array(signs, np.float32))
        return jax.lax.scan(add, jnp.zeros(self._m), (X, *codes))[0]


def _square(x: jax.Array) -> jax.Array:
    """Squared norm in float32, added up in short blocks so that it keeps six digits at any length."""
    v = jnp.square(x)
    while v.size > 1:
        v = jnp.pad(v, (0, -v.size % 64)).reshape(-1, 64).sum(axis=1)
    return v.reshape(-1)[0] if v.size else jnp.zeros(())
