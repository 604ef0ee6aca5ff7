"""Summaries, sketches and Grams of gradients whose truth is known by construction."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.measures.predictors import Evidence, needs
from gradlog.analysis.streaming.kernel import summarise
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.summary import Summary
from gradlog.analysis.streaming.totals import contributions
from gradlog.format.header import TensorInfo
from gradlog.sketching.fold_hash import FoldHash
from gradlog.sketching.projector import projector


def evidence(X, predictors, **recipe):
    wanted = Recipe(1, X.shape[1], **needs(predictors, 4), **recipe)
    totals = contributions([Summary.gap(wanted).absorb(summarise(X.astype(np.float32), wanted))])[0]
    return Evidence(totals, wanted.betas)


def gaussian_gram(tau, k, seed):
    S = np.random.default_rng(seed).standard_normal((k, len(tau))) / np.sqrt(k)
    return (S * tau) @ S.T


def fold_hash(G, k, seed):
    """Rows of G through the recorder's own sketch."""
    T, d = G.shape
    into = projector(FoldHash(k, seed=seed).spec, [TensorInfo("w", (d,), "float32", 0)], 1)
    out, norm2 = np.empty((T, 1, k), np.float32), np.empty(1)
    for row, sketched in zip(G.astype(np.float32), out, strict=True):
        into.project([row], sketched, norm2)
    return out[:, 0]
