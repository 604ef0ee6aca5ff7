"""A gradient of which few entries are there, such as that of an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.format.codec import Numbers


class Sparse(NamedTuple):
    """Entries of a real tensor that may differ from zero.

    Attributes
    ----------
    shape : tuple of int
        Of the whole tensor.
    places : ndarray, int64 (n,)
        Where they are, in C order, ascending.
    values : ndarray (n,)
        Themselves.

    Examples
    --------
    >>> Sparse((2, 3), np.array([1, 5]), np.array([2.0, -1.0])).dense()
    array([[ 0.,  2.,  0.],
           [ 0.,  0., -1.]])
    """

    shape: tuple[int, ...]
    places: NDArray[np.int64]
    values: Numbers

    def dense(self) -> Numbers:
        """Return the whole tensor."""
        whole = np.zeros(self.shape, self.values.dtype)
        whole.reshape(-1)[self.places] = self.values
        return whole


def from_blocks(shape: tuple[int, ...], at: NDArray[np.int64], blocks: Numbers) -> Sparse:
    """Entries of a tensor made of blocks over its last dimensions.

    Parameters
    ----------
    shape : tuple of int
        Of the whole tensor.
    at : ndarray, int64 (s, n)
        The first ``s`` coordinates of each block, in lexicographic order and each once.
    blocks : ndarray (n, ...)
        Each over the other dimensions.

    Examples
    --------
    >>> from_blocks((3, 2), np.array([[0, 2]]), np.array([[1, 2], [3, 4]])).places
    array([0, 1, 4, 5])
    """
    width = blocks[:1].size if len(blocks) else 1
    first = np.ravel_multi_index(tuple(at), shape[: len(at)]) * width
    index = (first[:, None] + np.arange(width)).reshape(-1)
    return Sparse(shape, index.astype(np.int64, copy=False), blocks.reshape(-1))


def made_dense(arrays: Sequence[Numbers | Sparse | None]) -> list[Numbers | None]:
    """Put whole tensors in the place of sparse ones."""
    return [a.dense() if isinstance(a, Sparse) else a for a in arrays]
