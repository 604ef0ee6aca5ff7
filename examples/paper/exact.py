"""Exact kappas of full gradients, in float64, from the running sums alone: the answer that a sketch is held against.

It shares no code with gradlog. Memory: 32 bytes a parameter. Tensors are walked in blocks that stay in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 13  # products of fewer than 10,000 entries stay on one thread of OpenBLAS
BETAS = (0.9, 0.99)


class Exact:
    """Path lengths of ``last``, ``ema(0.9)``, ``ema(0.99)`` and ``trend`` over the gradients added so far.

    Parameters
    ----------
    sizes : sequence of int
        Entries of each gradient tensor, in the order in which they will be added.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.last, self.before = ([np.zeros(n, np.float32) for n in sizes] for _ in range(2))
        self.emas = [[np.zeros(n) for n in sizes] for _ in BETAS]
        self.total = [np.zeros(n) for n in sizes]
        self.sums = dict.fromkeys(["zero", "last", "ema(0.9)", "ema(0.99)", "trend"], 0.0)
        self.norms: list[float] = []
        self.seconds = 0.0

    def add(self, grads: Sequence[NDArray[Any]]) -> None:
        """Take the gradient of the next step, float32, one array a tensor."""
        start = time.perf_counter()
        energy = 0.0
        for i, grad in enumerate(grads):
            flat = np.ascontiguousarray(grad).reshape(-1)
            for a in range(0, flat.size, BLOCK):
                energy += self._block(i, slice(a, a + BLOCK), flat[a : a + BLOCK])
        self.sums["zero"] += energy
        self.norms.append(energy)
        self.seconds += time.perf_counter() - start

    def _block(self, i: int, at: slice, grad: NDArray[Any]) -> float:
        g, last, before = (x.astype(np.float64) for x in (grad, self.last[i][at], self.before[i][at]))
        step = g - last
        self.sums["last"] += float(step @ step)
        error = step - (last - before)  # g - (2 last - before)
        self.sums["trend"] += float(error @ error)
        for beta, ema in zip(BETAS, self.emas, strict=True):
            error = g - ema[i][at]
            self.sums[f"ema({beta})"] += float(error @ error)
            ema[i][at] += (1 - beta) * error
        self.total[i][at] += g
        # The trend's second prediction is g_0, as if the row before the first had been the same.
        self.before[i][at] = self.last[i][at] if self.norms else grad
        self.last[i][at] = grad
        return float(g @ g)

    def result(self) -> dict[str, Any]:
        """Kappas and their sums; ``c`` is the mean inner product of two different steps over the mean energy."""
        energy, T = self.sums["zero"], len(self.norms)
        square = sum(float(s @ s) for s in self.total)
        return {
            "steps": T,
            "dimension": sum(t.size for t in self.total),
            "energy": energy,
            "first_energy": self.norms[0],
            "path_length": dict(self.sums),
            "kappa": {name: value / energy for name, value in self.sums.items()},
            "c": (square - energy) / ((T - 1) * energy),
            "increment_energy": self.sums["last"] - self.norms[0],
        }
