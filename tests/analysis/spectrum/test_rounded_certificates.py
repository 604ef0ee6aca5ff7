"""Certified ranks of recorded rows against float64 singular values, at eps from 0.1 down to below the rounding."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.spectrum import rank
from tests.helpers import reference, stores

EPS = [0.1, 0.01, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9]


def made(kind, T, n, seed):
    """Rows (T, n) of one of several kinds."""
    rng = np.random.default_rng(seed)
    flat = rng.standard_normal((T, n))
    return {
        "flat": lambda: flat,
        "steep": lambda: flat * np.arange(1, n + 1.0) ** -2,
        "few": lambda: flat[:, :5] @ rng.standard_normal((5, n)),
        "walk": lambda: np.cumsum(flat[:, :9], axis=0) @ rng.standard_normal((9, n)),
        "mean": lambda: flat + 1000 * rng.standard_normal(n),
        "one large": lambda: flat * np.where(np.arange(T) == T // 2, 300, 1)[:, None],
        "equal": lambda: np.vander(np.linspace(0, 1, T), 6) @ rng.standard_normal((6, n)),
    }[kind]()


@settings(max_examples=16, deadline=None)
@given(
    st.sampled_from(["flat", "steep", "few", "walk", "mean", "one large", "equal"]),
    st.sampled_from([(30, 96), (90, 48), (300, 32)]),
    st.sampled_from(["gram", "rows", "nystrom"]),
    st.integers(0, 999),
)
def test_certificates_hold_down_to_the_smallest_eps(kind, shape, route, seed):
    T, n = shape
    folder = Path(tempfile.mkdtemp())
    try:
        path = stores.write_run(folder / "r.zarr", made(kind, T, n, seed).reshape(T, 2, n // 2))
        ds = analyze(str(path), "last", eps=EPS, window=T // 3, svd=route, null_rank=False)
        G = open_run(path).rows.read(0, T).astype(np.float64)
    finally:
        shutil.rmtree(folder)
    H, third = np.diff(G, axis=0), T // 3
    scopes = {
        "": (ds, H),
        "group_": (ds.isel(group=1), H[:, n // 2 :]),
        "window_": (ds.isel(window=1), H[third - 1 : 2 * third - 1]),
    }
    for label, (here, rows) in scopes.items():
        if np.isnan(here[f"{label}rank_low"]).all():
            continue  # a group on a route that keeps nothing for it
        for e in EPS:
            low, high = (float(here[f"{label}rank_{end}"].sel(eps=e)) for end in ("low", "high"))
            assert low <= reference.rank_at(rows, e) <= high <= min(rows.shape), (label, e)


def test_no_rank_and_no_singular_value_stands_above_the_number_of_increments(tmp_path):
    """Rows that are much alike, in a Gram far wider than they are many: what is behind the rows is rounding."""
    rng = np.random.default_rng(0)
    G = rng.standard_normal((64, 4)) @ rng.standard_normal((4, 1024)) + 1e-3 * rng.standard_normal((64, 1024))
    path = stores.write_run(tmp_path / "r.zarr", G.reshape(64, 4, 256))
    found = to_json(analyze(str(path), "last", eps=[0.01, 1e-6, 1e-9], window=16))
    assert len(found["singular_values"]) <= 63
    assert len(found["tail_energy"]) == len(found["singular_values"]) + 1
    assert max(r["high"] for r in found["rank"].values()) <= 63
    for part in found["windows"]:
        assert max(r["high"] for r in part["rank"].values()) <= 16
    for part in found["by_group"].values():
        assert len(part["singular_values"]) <= 63


def test_an_eps_below_the_rounding_is_answered_by_an_interval(tmp_path):
    G = np.random.default_rng(1).standard_normal((200, 3)) @ np.random.default_rng(2).standard_normal((3, 48))
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", G[:, None])), "last", eps=[0.01, 1e-9])
    assert ds.rank_low.sel(eps=0.01) == ds.rank_high.sel(eps=0.01) == 3
    assert ds.rank_low.sel(eps=1e-9) <= 3
    assert ds.rank_high.sel(eps=1e-9) == 48
    assert any("1e-09) is only known to lie in" in w and "rounding" in w for w in to_json(ds)["warnings"])
    assert len(ds.singular_value) == 3


def test_a_gram_that_forgets_its_rounding_is_caught():
    """Negative control: the same products without the slack claim a rank that the matrix does not have."""
    rng = np.random.default_rng(3)
    H = (rng.standard_normal((300, 3)) @ rng.standard_normal((3, 32))).astype(np.float32)
    gram, total = (H.T @ H).astype(np.float64), float(np.square(H, dtype=np.float64).sum())
    told, bare, truth = rank.of_products(gram, total, 32), rank.of_gram(gram), reference.rank_at(H.astype(float), 1e-9)
    low, high = rank.rank_interval(told, 1e-9)
    assert low <= truth <= high
    assert rank.rank_interval(bare, 1e-9)[0] > truth


@pytest.mark.parametrize("size", [4, 9])
def test_a_spectrum_ends_where_the_matrix_does(size):
    spectrum = rank.Spectrum(np.arange(9, 0, -1.0), 45.0).within(size)
    assert len(spectrum.energies) == size == spectrum.size
