"""Ranks of one scope: certified, of shuffled steps, and of the gradients themselves, by the names of the result."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.common.jackknife import named, pool
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.spec import AnalysisSpec, Values
from gradlog.analysis.spectrum import population, rank, shuffled_rank
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.spectrum.shuffled_rank import ShuffledRank


def freedom_of(evidence: Evidence, spec: AnalysisSpec) -> float:
    """Participation ratio of the rows about their mean; NaN where the pass kept no Gram of the rows for this scope."""
    summed, gram = evidence.of("total"), evidence.totals.get("gram_rows")
    group, alone = (evidence.columns.start or 0) // spec.k, len(summed) == spec.k
    if not alone and "pooled_rows" in evidence.totals:
        summed, gram = pool(summed, spec.k), evidence.totals["pooled_rows"]
    elif gram is not None and gram.ndim == 3:
        gram = gram[group] if alone else None
    elif gram is not None:
        gram = gram[evidence.columns, evidence.columns]
    if gram is None or not evidence.totals["rows"]:
        return float("nan")
    centred = shuffled_rank.shuffled_gram(gram, summed, int(evidence.totals["rows"]))
    if spec.exact:
        return float(np.trace(centred) ** 2 / np.square(centred).sum()) if np.trace(centred) > 0 else float("nan")
    return population.participation(centred)[0]


def ranks(spectrum: Spectrum | None, shuffled: ShuffledRank | None, eps: tuple[float, ...]) -> Values:
    """Rank of the logged matrix with its certified interval, rank of shuffled steps, and the smooth measures."""
    null = shuffled or shuffled_rank.unknown(len(eps))
    found = named("rank_null", (null.mean, null.low, null.high))
    found["rank_null_method"] = np.array(float(shuffled_rank.METHODS.index(null.method)))
    if spectrum is None:
        nothing = np.full(len(eps), np.nan)
        smooth = dict.fromkeys(("stable_rank", "participation_rank", "entropy_rank"), np.nan)
        return found | named("rank", (nothing,) * 3) | smooth
    pairs = [rank.rank_interval(spectrum, e) for e in eps]
    low, high = (np.array(x) for x in zip(*pairs, strict=True))
    smooth = {f"{name}_rank": value for name, value in rank.measures(spectrum).items()}
    return found | named("rank", (high, low, high)) | smooth


def estimates(gram: Float64 | None, limit: float, spec: AnalysisSpec, found: Values) -> Values:
    """Rank of the gradients themselves, NaN where not identifiable; in exact mode the measured one."""
    if spec.exact or gram is None:
        ranks = found["rank"] if spec.exact else np.full(len(spec.eps), np.nan)
        participation = found["participation_rank"] if spec.exact else np.nan
        return named("rank_estimate", (ranks,) * 3) | named("participation_estimate", (participation,) * 3)
    each = population.estimate(gram, spec.eps, limit)
    value, low, high = (np.array(numbers) for numbers in zip(*each, strict=True))
    smooth = named("participation_estimate", population.participation(gram))
    return smooth | named("rank_estimate", (np.ceil(value), np.floor(low), np.ceil(high)))
