"""The compiled fold gives the bytes of numpy's, whatever the array, and a recording is never harmed by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradlog.format.header import TensorInfo
from gradlog.sketching.fold_hash import FoldHash
from gradlog.sketching.projector import projector

pytest.importorskip("numba")
from gradlog.sketching.compiled_fold import LINE, SLICE, CompiledFoldHash, require_same_bits

FAMILIES = (FoldHash, CompiledFoldHash)
MAPS = [(1, 1), (1, 9), (7, 7), (7, 24), (8, 64), (5, 6), (3, 40), (16, 1000)]
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38]


def same_bits(found: NDArray[np.generic], expected: NDArray[np.generic]) -> bool:
    """NaN in the same places, the rest equal to the bit, the sign of a zero included."""
    nan = np.isnan(expected)
    return bool((np.isnan(found) == nan).all()) and found[~nan].tobytes() == expected[~nan].tobytes()


def numbers(rng: np.random.Generator, size: int, odd: bool) -> NDArray[np.float32]:
    """Normal numbers of many sizes; ``odd``: with NaN, infinities, zeros and subnormals among them."""
    x = (rng.standard_normal(size) * 10.0 ** rng.integers(-42, 30, size)).astype(np.float32)
    if odd and size:
        x[rng.integers(0, size, 1 + size // 9)] = rng.choice(ODD, 1 + size // 9)
    return x


@settings(max_examples=300)
@given(
    st.sampled_from(MAPS), st.lists(st.integers(0, 3000), min_size=1, max_size=3), st.integers(0, 2**32), st.booleans()
)
def test_the_folded_vector_and_the_sketch_have_the_same_bits(km, sizes, seed, odd):
    rng = np.random.default_rng(seed)
    tensors = [(str(i), numbers(rng, n, odd)) for i, n in enumerate(sizes)]
    found = []
    for S in (family(km[0], seed, m=km[1]) for family in FAMILIES):
        w, out = S.buffer(), np.empty(km[0], np.float32)
        with np.errstate(all="ignore"):
            norms = [S.fold_norm2(w, name, x) for name, x in tensors]
        S.hash(w, out)
        found.append((w, out, norms))
    (w, out, norms), (w1, out1, norms1) = found
    assert same_bits(w1, w)
    assert same_bits(out1, out)
    np.testing.assert_allclose(norms1, norms, rtol=1e-6)


@given(st.integers(0, 1000), st.integers(0, 900), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_float64_sums_have_the_same_bits(size, column, seed, odd, negative):
    rng = np.random.default_rng(seed)
    x, start = numbers(rng, min(size, 1000 - column), odd), rng.standard_normal(min(size, 1000 - column))
    sums, norms = [], []
    for S in (family(16, seed, m=1000) for family in FAMILIES):
        sums.append(start.copy())
        with np.errstate(all="ignore"):
            norms.append(S.fold_wide(sums[-1], column, x, negative))
    assert same_bits(sums[1], sums[0])
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, LINE - 1, LINE, SLICE - 1, SLICE, SLICE + 1, 2 * SLICE + 7, 200_003])
@pytest.mark.parametrize("k", [256, 2000])
def test_rows_of_the_default_size_and_longer_ones(k, n):
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    plain, fast = (family(k, seed=3).sketch(x, "layer.weight") for family in FAMILIES)
    assert same_bits(fast, plain)


def arrays() -> Sequence[NDArray[np.generic]]:
    """A matrix of 150 x 300 in every form in which a gradient comes."""
    x = np.random.default_rng(0).standard_normal((150, 300)) * 1e3
    single = x.astype(np.float32)
    frozen = single.copy()
    frozen.flags.writeable = False
    shifted = np.frombuffer(b"x" + single.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not shifted.flags.aligned
    wide = np.zeros((300, 600), np.float32)
    wide[::2, ::2] = single
    return [
        single, frozen, shifted, wide[::2, ::2], single[::-1], np.asfortranarray(single), single.astype(">f4"), x,
        single.astype(np.float16), (x * 1e6).astype(np.int64), x.astype(np.int8), (x + 1j * x).astype(np.complex64),
    ]  # fmt: skip


@pytest.mark.parametrize("array", arrays(), ids=lambda a: f"{a.dtype}-{a.flags.carray}")
def test_every_dtype_and_layout_gives_the_same_row(array):
    spec = FoldHash(16, m=4096).spec
    tensors = [TensorInfo("w", array.shape, str(array.dtype), 0), TensorInfo("none", (5,), "float32", 1)]
    rows = []
    for family in FAMILIES:
        out, norm2 = np.empty((2, 16), np.float32), np.empty(2)
        assert projector(spec, tensors, 2, family).project([array, None], out, norm2) == 1
        rows.append((out, norm2))
    assert same_bits(rows[1][0], rows[0][0])
    np.testing.assert_allclose(rows[1][1], rows[0][1], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1.0, 1e18, 1e25, 1e34])
def test_squared_norms_hold_over_the_range_of_float32(scale):
    x = (np.random.default_rng(1).standard_normal(100_000) * scale).astype(np.float32)
    S = CompiledFoldHash(8)
    assert S.fold_norm2(S.buffer(), "w", x) == pytest.approx(float(np.sum(x.astype(np.float64) ** 2)), rel=1e-6)


def test_wrong_sums_of_a_broken_compiler_are_noticed(monkeypatch):
    require_same_bits()
    monkeypatch.setattr(CompiledFoldHash, "hash", lambda self, w, out: out.fill(0))
    with pytest.raises(RuntimeError, match="computes wrong sums on this machine"):
        require_same_bits()


COMPARE = """
import numpy as np
from gradlog.sketching.compiled_fold import CompiledFoldHash
from gradlog.sketching.fold_hash import FoldHash
x = np.arange(100_000, dtype=np.float32)
print(all(CompiledFoldHash(8).sketch(x, "w") == FoldHash(8).sketch(x, "w")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["nowhere", "damaged"])
def test_without_a_folder_for_compiled_code_it_is_compiled_again(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "numba"
    if broken == "nowhere":
        folder.write_text("a file in the place of a folder")
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder), "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
    runs = 1 if broken == "nowhere" else 2
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-W", "error", "-c", COMPARE], capture_output=True, text=True, env=env)
        assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
        kept = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
        assert bool(kept) == (broken == "damaged")
        for path in kept:
            path.write_bytes(b"no compiled code")
