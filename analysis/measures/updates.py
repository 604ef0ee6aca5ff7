"""Gradients against updates: how far a step goes downhill, what else it is made of, and how sharply the loss curves.

Directional curvature, <g_{t+1} - g_t, u_t> / ||u_t||^2, is the mean curvature of the loss along the step from t to t+1
where both gradients are those of the same loss. It hovers about 2 / lr where gradient descent is at the edge of
stability (Cohen et al. 2021; Ahn, Zhang and Sra 2022). Gradients of minibatches hold noise, g_t = G_t + n_t. The noise
of the next batch is independent of the step, that of this batch is not: u_t holds -a n_t, a the optimizer's rate. So
the mean of the numerator is too large by a E||n_t||^2, for SGD the share of noise over the learning rate.

* ``curvature`` is the plain ratio: exact on full batches, else too large in the mean.
* ``corrected`` takes a E||n_t||^2 off, where half batches tell the noise and the step is linear in the gradient.
* ``shared`` is <g_{t+1} - g_t, u_{t-1}> / <u_t, u_{t-1}>. The update before knows neither noise, so that its mean is
  right for any optimizer, if batches are independent. In short epochs without replacement it is too small, since the
  batches that are left oppose the updates so far. It is the curvature between two successive steps, and known where
  these go the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import leave_one_out, quantile, spread
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.fluctuation import half_width

LEFT = 0.01
"""Share that the gradient may leave of what the update before does not explain, in steps that are linear in it: SGD
leaves rounding, Adam most of it."""

ALIKE = 0.2
"""Cosine of successive updates from which on ``shared`` is known."""

SIMPLER = 1e-4
"""Share of the update that the update before must explain beyond the gradient, to have a part in it; and sine of the
angle between the two from which on they can be told apart."""


@dataclasses.dataclass(frozen=True)
class Products:
    """Sums of products; the axis of scopes has the whole model first, then each group.

    Attributes
    ----------
    first, last : int64 (stretches,)
        Steps at their ends.
    sums : dict of str to float64 (stretches, scopes, k)
        By coordinate, under names of two letters: ``g`` a gradient, ``u`` its step's update, ``p`` the update before,
        ``d`` the next gradient less this one, ``t`` the weights at the start. ``gg``, ``gu`` and ``uu`` are over all
        steps. An ending says over which: ``_p`` those with an update before, ``_d`` with a gradient after, ``_pd`` with
        both.
    blocks : dict of str to list of float64 (blocks, scopes)
        ``du``, ``uu_d``, ``dp`` and ``up_pd`` by block of steps of each stretch, and ``hh``, the squared norm of the
        minibatch noise in the gradient: NaN where no half batch tells it.
    rows : int64 (stretches,)
        Steps that count.
    exact : bool (scopes,)
        Where the sketch has no error.
    norms : float64 (2, stretches, scopes)
        Mean squared norms of update and weights, where exact ones were logged.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    sums: dict[str, Float64]
    blocks: dict[str, list[Float64]]
    rows: NDArray[np.int64]
    exact: NDArray[np.bool_]
    norms: Float64

    @property
    def k(self) -> int:
        """Coordinates of a group."""
        return int(self.sums["gg"].shape[-1])

    @property
    def together(self) -> Products:
        """All stretches as one."""
        sums = {name: x.sum(axis=0, keepdims=True) for name, x in self.sums.items()}
        sums["tt"] = self.sums["tt"].mean(axis=0, keepdims=True)
        blocks = {name: [np.concatenate(x)] for name, x in self.blocks.items()}
        rows, norms = self.rows.sum(keepdims=True), self.norms.mean(axis=1, keepdims=True)
        return Products(self.first[:1], self.last[-1:], sums, blocks, rows, self.exact, norms)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Values and the ends of their 95 % intervals, float64 (stretches, scopes) each; NaN where not known."""

    value: Float64
    low: Float64
    high: Float64


@dataclasses.dataclass(frozen=True)
class GradientAndUpdate:
    """Gradients of stretches of steps beside their updates.

    Attributes
    ----------
    first, last : int64 (stretches,)
        Steps at their ends.
    scopes : tuple of str
        What the second axis of each estimate stands for: ``""``, the whole model, then each group.
    cosine : Estimate
        Cosine of the update and the negative gradient, over the steps together: 1 for plain SGD.
    previous : Estimate
        Cosine of the update and the one before.
    explained : Estimate
        Share of the updates' squared norm that lies in their best combination ``-rate * gradient + momentum * previous
        update``: 1 for SGD with momentum.
    rate, momentum : Estimate
        The coefficients of that combination.
    relative : Estimate
        Norm of the update over that of the weights: without error where exact norms were logged (``norms_every=``),
        else from sketches, where snapshots tell the weights.
    curvature, corrected, shared : Estimate
        Directional curvature, as in the notes of :func:`gradient_and_update`.
    edge : Estimate
        Curvature at which steps like these become unstable, 2 (1 + momentum) / rate, where the update is such a
        combination for certain: for SGD, with or without momentum.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    scopes: tuple[str, ...]
    cosine: Estimate
    previous: Estimate
    explained: Estimate
    rate: Estimate
    momentum: Estimate
    relative: Estimate
    curvature: Estimate
    corrected: Estimate
    shared: Estimate
    edge: Estimate

    def __repr__(self) -> str:
        return f"<gradlog.analysis.GradientAndUpdate: {len(self.first)} stretches x {len(self.scopes)} scopes>"


@np.errstate(divide="ignore", invalid="ignore")
def compare(sums: Products, groups: Sequence[str]) -> GradientAndUpdate:
    """Compare gradients and updates by their products; ``groups`` are the names of the scopes after the first."""
    s, exact = sums.sums, np.broadcast_to(sums.exact, (len(sums.first), len(sums.exact)))
    cosine = _estimate(lambda gu, gg, uu: -_cosine(gu, gg, uu), exact, s["gu"], s["gg"], s["uu"])
    previous = _estimate(_cosine, exact, s["up_p"], s["uu_p"], s["pp_p"])
    of_pair = [s[f"{name}_p"] for name in ("gg", "gu", "gp", "pp", "up", "uu")]
    rate, momentum, plain = (_estimate(_part(i), exact, *of_pair) for i in range(3))
    linear = 1 - plain.value <= LEFT * (1 - np.square(previous.value))
    curvature, corrected, shared = _curvatures(sums, rate.value, linear, exact)
    mean = s["uu"] / np.maximum(sums.rows, 1)[:, None, None]
    relative = _estimate(lambda uu, tt: np.sqrt(uu / tt), exact, mean, s["tt"])
    exactly = np.sqrt(sums.norms[0] / sums.norms[1])
    ends = (np.where(np.isnan(exactly), x, exactly) for x in (relative.value, relative.low, relative.high))
    return GradientAndUpdate(
        sums.first,
        sums.last,
        ("", *groups),
        cosine,
        previous,
        _adjusted(plain, sums.k, exact),
        rate,
        momentum,
        Estimate(*ends),
        curvature,
        corrected,
        shared,
        _where(_estimate(_edge, exact, *of_pair), linear),
    )


def _curvatures(
    sums: Products, rate: Float64, linear: NDArray[np.bool_], exact: NDArray[np.bool_]
) -> tuple[Estimate, Estimate, Estimate]:
    """Estimate the curvature plainly, free of noise by half batches, and by the update before."""
    s, blocks = sums.sums, sums.blocks
    plain = _estimate(np.divide, exact, s["du_d"], s["uu_d"])
    noise = np.stack([hh.sum(axis=0) for hh in blocks["hh_d"]])
    bias = rate * noise / s["uu_d"].sum(axis=-1)
    moved = Estimate(*(end - bias for end in (plain.value, plain.low, plain.high)))
    shared = _estimate(np.divide, exact, s["dp_pd"], s["up_pd"])
    alike = _cosine(*(s[f"{name}_pd"].sum(axis=-1) for name in ("up", "uu", "pp")))
    free = [du - a * hh for du, a, hh in zip(blocks["du_d"], rate, blocks["hh_d"], strict=True)]
    return (
        _noisy(plain, blocks["du_d"], blocks["uu_d"]),
        _noisy(_where(moved, linear), free, blocks["uu_d"]),
        _noisy(_where(shared, alike >= ALIKE), blocks["dp_pd"], blocks["up_pd"]),
    )


def _estimate(statistic: Callable[..., Float64], exact: NDArray[np.bool_], *coordinates: Float64) -> Estimate:
    """Evaluate a function of sums with the sketch's interval, from their coordinates (stretches, scopes, k)."""
    k = coordinates[0].shape[-1]
    value = statistic(*(x.sum(axis=-1) for x in coordinates))
    half = np.full_like(value, np.nan) if k < 4 else quantile(k) * spread(statistic(*map(leave_one_out, coordinates)))
    half = np.where(exact, 0.0, half)
    return Estimate(value, value - half, value + half)


def _noisy(found: Estimate, numerator: list[Float64], denominator: list[Float64]) -> Estimate:
    """Widen the interval of a ratio by the spread between blocks of steps, where there are enough."""
    of_steps = np.stack([half_width(n.T, d.T) for n, d in zip(numerator, denominator, strict=True)])
    enough = np.array([len(n) >= 7 for n in numerator])[:, None]
    half = np.hypot(found.high - found.value, np.where(enough, np.abs(of_steps), 0.0))
    return Estimate(found.value, found.value - half, found.value + half)


def _cosine(xy: Float64, xx: Float64, yy: Float64) -> Float64:
    return np.asarray(xy / np.sqrt(xx * yy))


def _fit(gg: Float64, gu: Float64, gp: Float64, pp: Float64, up: Float64, uu: Float64) -> tuple[Float64, ...]:
    """Rate and momentum of least squares, and the share that they explain; the gradient alone where that is as good."""
    determinant = gg * pp - gp * gp
    x, y = (gu * pp - up * gp) / determinant, (up * gg - gu * gp) / determinant
    alone, both = gu * gu / (gg * uu), (x * gu + y * up) / uu
    more = (both - alone > SIMPLER) & (determinant > SIMPLER**2 * gg * pp)
    return np.where(more, -x, -gu / gg), np.where(more, y, 0.0), np.where(more, both, alone)


def _part(i: int) -> Callable[..., Float64]:
    return lambda *sums: _fit(*sums)[i]


def _edge(*sums: Float64) -> Float64:
    rate, momentum, _ = _fit(*sums)
    return np.asarray(2 * (1 + momentum) / rate)


def _adjusted(share: Estimate, k: int, exact: NDArray[np.bool_]) -> Estimate:
    """Take off what two directions explain of any third in a sketch of k coordinates (the adjusted R squared)."""
    if k < 4:
        return share
    ends = (share.value, share.low, share.high)
    return Estimate(*(np.clip(np.where(exact, x, 1 - (1 - x) * k / (k - 2)), 0, 1) for x in ends))


def _where(found: Estimate, known: NDArray[np.bool_]) -> Estimate:
    return Estimate(*(np.where(known, x, np.nan) for x in (found.value, found.low, found.high)))
