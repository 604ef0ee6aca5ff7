"""Predictable rank of the increments: r*(eps), its certified interval, the tail curve and smooth rank measures.

r*(eps) is the smallest r with sum_{i>r} sigma_i^2 <= eps E, E = ||H||_F^2 (arXiv 2601.04270). By Eckart and Young the
tail is the least path length of any rank-r predictor of the increments. Spectra are energies sigma_i^2, descending.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gradlog.analysis.common.types import Float64

ROUNDING = 2e-6
"""Share of the energy by which float32 products may err in any sum of leading energies: three times the largest error
seen (7.7e-7, one row of a thousand times the norm of the others among 5,000)."""

VISIBLE = 2.0**-23
"""Share of the energy below which a single sigma_i^2 is rounding: two units of float32; the largest seen was 0.7."""

NEAR = 0.15
"""Share of the sketch's numbers beyond which a rank shows mostly the sketch."""


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """What is known of a spectrum.

    Attributes
    ----------
    energies : float64 (r,)
        Lower bounds of the leading sigma_i^2, descending; all of them when ``complete``.
    total : float
        E, known exactly whatever the number of energies.
    complete : bool
        Whether no energy is missing.
    size : int
        How many energies there are in all at most; 0 where that is not known.
    leading : float64 (r,), optional
        Further lower bounds of the sums of the first 1, 2, ... sigma_i^2, see ``pinched``.
    rounding : float
        By how much any sum of leading energies may be off.
    """

    energies: Float64
    total: float
    complete: bool = True
    size: int = 0
    leading: Float64 | None = None
    rounding: float = 0.0

    @property
    def unseen(self) -> float:
        """Energy that the listed values do not account for."""
        return 0.0 if self.complete else max(self.total - float(self.energies.sum()), 0.0)

    @property
    def visible(self) -> Float64:
        """Energies that are more than rounding."""
        return self.energies[self.energies > VISIBLE * self.total] if self.rounding else self.energies

    def within(self, size: int) -> Spectrum:
        """Leave out what is listed behind the most singular values that there can be: it is rounding."""
        size = min(size, self.size or size)
        return dataclasses.replace(self, energies=self.energies[:size], size=size)


def of_gram(gram: Float64) -> Spectrum:
    """Complete spectrum of a Gram matrix H^T H or H H^T in float64."""
    energies = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
    return Spectrum(energies, float(energies.sum()))


def of_products(gram: Float64, total: float, size: int) -> Spectrum:
    """Complete spectrum of a Gram of float32 products.

    Parameters
    ----------
    gram : float64 (n, n)
        H^T H or H H^T.
    total : float
        ||H||_F^2, summed by itself: what the Gram's trace lacks of it shows how much rounding took.
    size : int
        How many singular values there can be: the smaller side of H.
    """
    rounding = ROUNDING * total + abs(float(np.trace(gram)) - total)
    return dataclasses.replace(of_gram(gram), total=total, rounding=rounding).within(size)


def rank_interval(spectrum: Spectrum, eps: float) -> tuple[float, float]:
    """Certified bounds lo <= r*(eps) <= hi; hi is NaN when the listed energies do not reach far enough by themselves.

    Every listed L_i is at most sigma_i^2, and the unseen t = E - sum L can add at most t to any leading sum. Where the
    number of energies is known, hi is finite: see ``_least_sums``. An eps below the rounding leaves the interval open.
    """
    if spectrum.total <= 0:
        return 0.0, 0.0
    need = (1 - eps) * spectrum.total
    if spectrum.complete and not spectrum.rounding:
        r = _first(spectrum.energies, need * (1 - 1e-12))
        return r, r
    low = _first(spectrum.energies, need - spectrum.unseen - spectrum.rounding)
    high = _reached(_least_sums(spectrum), need + spectrum.rounding)
    if not np.isfinite(high) and spectrum.size:
        high = float(spectrum.size)
    return (low if np.isfinite(low) else float(len(spectrum.energies))), high


def _first(energies: Float64, need: float) -> float:
    """Smallest r whose leading sum reaches ``need``, NaN if none does."""
    if need <= 0:
        return 0.0
    return _reached(np.cumsum(energies), need)


def _reached(sums: Float64, need: float) -> float:
    r = int(np.searchsorted(sums, need)) + 1
    return float(r) if r <= len(sums) else float("nan")


def _least_sums(spectrum: Spectrum) -> Float64:
    """Lower bounds of the leading sums of sigma_i^2.

    Behind r listed energies of sum S there are N - r others, which descend: the first j of them hold at least their
    even share of what is left, S + (E - S) j / (N - r).
    """
    sums = np.cumsum(spectrum.energies)
    missing = spectrum.size - len(sums)
    if missing > 0:
        seen = float(sums[-1]) if len(sums) else 0.0
        sums = np.append(sums, seen + spectrum.unseen * np.arange(1, missing + 1) / missing)
    if spectrum.leading is not None:
        other = spectrum.leading[: len(sums)]
        sums[: len(other)] = np.maximum(sums[: len(other)], other)
    return np.maximum.accumulate(sums)


def pinched(blocks: Float64) -> Float64:
    """Lower bounds of the leading sums of a positive matrix's eigenvalues, from its diagonal blocks (blocks, k, k).

    Without the blocks off the diagonal the eigenvalues are majorised by the matrix's own (Bhatia, Matrix Analysis,
    1997, section II.5).
    """
    energies = np.concatenate([np.linalg.eigvalsh(block) for block in blocks])
    sums: Float64 = np.cumsum(np.sort(np.maximum(energies, 0.0))[::-1])
    return sums


def tail_curve(spectrum: Spectrum) -> Float64:
    """Relative tail energy sum_{i>r} sigma_i^2 / E for r = 0..len (an upper bound when incomplete)."""
    if spectrum.total <= 0:
        return np.zeros(len(spectrum.visible) + 1)
    led = np.concatenate([[0.0], np.cumsum(spectrum.visible)])
    return np.maximum(1 - led / spectrum.total, 0.0)


def measures(spectrum: Spectrum) -> dict[str, float]:
    """Stable rank E / sigma_1^2, participation ratio E^2 / sum sigma^4, entropy rank exp(-sum p log p).

    For an incomplete spectrum the unseen energy counts as spread thinly: participation and entropy are then
    estimates, entropy with the unseen part left out.
    """
    e, E = spectrum.energies, spectrum.total
    if E <= 0 or len(e) == 0:
        return {"stable": float("nan"), "participation": float("nan"), "entropy": float("nan")}
    p = e[e > 0] / E
    return {
        "stable": float(E / e[0]),
        "participation": float(1 / np.square(p).sum()),
        "entropy": float(np.exp(-(p * np.log(p)).sum())),
    }


def saturated(rank: float, ceiling: int) -> bool:
    """Whether a rank is so near the sketch's ceiling that it mostly shows the sketch."""
    return bool(rank > NEAR * ceiling)
