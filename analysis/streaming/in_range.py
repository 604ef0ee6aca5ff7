"""Rows of extreme gradients, brought into the range of float32 products.

Gradients whose squares do not fit float32 are read times a power of two, which changes no digit of them. The pass
multiplies rows in float32, whose range is 1e-38 to 3e38: norms below 1e-17 or above 1e17 would come out as 0 or inf. A
run that diverges gets there, and so does a layer that the gradient does not reach. Whatever the pass sums up is then in
scaled units, and ``measures.kappa`` and ``dataset`` go back to the gradient's own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.reading.rows import RowSource
from gradlog.analysis.streaming.scalar_sums import ScalarSums, add

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

LEAST = 2.0**-40
"""Least root mean square of (scaled) rows that float32 products sum up to all digits, their increments included."""

MOST = 2.0**48
"""Largest square root of a whole run's energy that is left as it is, and what other runs are scaled to."""


class Scaled(RowSource):
    """Rows of a run times 2^exponent."""

    def __init__(self, rows: RowSource, exponent: int) -> None:
        self.__dict__.update(rows.__dict__)
        self.exponent = exponent
        self._origin = self if rows._origin is rows else Scaled(rows._origin, exponent)

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """See RowSource."""
        found = super().read(start, stop, out)
        return np.ldexp(found, self.exponent, out=found)


def in_range(run: Run, of_panes: Sequence[ScalarSums]) -> tuple[Run, float]:
    """Run with rows in the range of float32 products: unchanged for all but extreme gradients.

    Parameters
    ----------
    run : Run
    of_panes : sequence of ScalarSums
        Of all rows: the squared norms, in float64.

    Returns
    -------
    run : Run
        ``rows`` times a power of two where the energy is above ``MOST`` squared, or a group's mean square below
        ``LEAST`` squared.
    scale : float
        That power, or 1.
    """
    exponent = _exponent(add(of_panes))
    if exponent == 0:
        return run, 1.0
    scaled = copy.copy(run)
    scaled.__dict__["rows"] = Scaled(run.rows, exponent)
    return scaled, 2.0**exponent


def _exponent(whole: ScalarSums) -> int:
    size = float(np.sqrt(whole.energy.sum()))
    mean = np.sqrt(whole.energy[whole.moving > 0] / whole.moving[whole.moving > 0])
    if not np.isfinite(size) or (size <= MOST and (mean >= LEAST).all()):  # unflagged NaN: the pass refuses it
        return 0
    return int(np.floor(np.log2(MOST / size)))
