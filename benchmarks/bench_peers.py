"""Peers in the same run: what else could log a step or give singular values, with CPU time against ours.

Logging: a row of 16 x 256 floats as gradlog's row path has it (journal, chunks, checksums, manifest), an HDF5 dataset
that grows with a flush a step, ``numpy.save`` of a file a step, and histograms of 64 bins of every tensor as dashboards
log them. Singular values: ``sklearn.utils.extmath.randomized_svd`` on the increments in memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradlog

GROUPS, K, STEPS = 16, 256, 1000
ROW = np.random.default_rng(0).standard_normal((GROUPS, K)).astype(np.float32)


def cpu_us(step: Callable[[int], Any], close: Callable[[], Any] = lambda: None) -> float:
    """CPU microseconds a call, those of background threads and of closing included."""
    step(0)
    start = time.process_time()
    for i in range(1, STEPS + 1):
        step(i)
    close()
    return (time.process_time() - start) / STEPS * 1e6


def ours(folder: Path) -> float:
    names = [f"g{i}" for i in range(GROUPS)]
    like = dict(zip(names, ROW, strict=True))
    log = gradlog.open(folder / "r.zarr", like=like, k="exact", groups="tensors", on_error="raise")
    return cpu_us(lambda i: log.step(like, loss=1.0), log.close)


def hdf5(folder: Path) -> float:
    import h5py

    with h5py.File(folder / "r.h5", "w") as file:
        data = file.create_dataset("sketch", (0, GROUPS, K), "f4", chunks=(256, GROUPS, K), maxshape=(None, GROUPS, K))

        def step(i: int) -> None:
            data.resize(i + 1, axis=0)
            data[i] = ROW
            file.flush()

        return cpu_us(step)


def np_save(folder: Path) -> float:
    return cpu_us(lambda i: np.save(folder / f"{i:06d}.npy", ROW))


def histograms(folder: Path) -> float:
    """Of the row alone; of the gradient itself they would cost what its size says."""
    import torch

    rows = list(torch.from_numpy(ROW))
    return cpu_us(lambda i: [torch.histc(row, 64) for row in rows])


def tensorboard(folder: Path) -> float:
    """Histograms as TensorBoard writes them, of the row alone too."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "board"))

    def step(i: int) -> None:
        for g, row in enumerate(ROW):
            writer.add_histogram(f"g{g}", row, i)

    return cpu_us(step, writer.close)


@pytest.mark.parametrize("peer", [hdf5, np_save, histograms, tensorboard], ids=lambda f: f.__name__)
def test_logging_a_row(benchmark: Any, tmp_path: Path, peer: Callable[[Path], float]) -> None:
    base = ours(tmp_path)
    there = peer(tmp_path)
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info |= {"ratio": there / base, "ours_us": base, "peer_us": there}
    print(f"\n{peer.__name__}: {there:.0f} us a step, {there / base:.2f} x gradlog's {base:.0f} us")


def test_histogram_of_a_gradient(benchmark: Any) -> None:
    """What dashboards do to a gradient of 11 million coordinates, against the sketch of the same, one thread."""
    import torch

    from gradlog.format.header import TensorInfo
    from gradlog.sketching.fold_hash import FoldHash
    from gradlog.sketching.projector import projector

    x = np.random.default_rng(0).standard_normal(11_000_000, np.float32)
    p = projector(FoldHash(256).spec, [TensorInfo("x", x.shape, "float32", 0)], 1)
    out, norm2 = np.empty((1, 256), np.float32), np.empty(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios = []
    for _ in range(7):
        start = time.process_time()
        p.project([x], out, norm2)
        middle = time.process_time()
        torch.histc(torch.from_numpy(x), 64)
        ratios.append((time.process_time() - middle) / (middle - start))
    torch.set_num_threads(threads)
    benchmark.pedantic(p.project, ([x], out, norm2), rounds=3)
    benchmark.extra_info["ratio"] = statistics.median(ratios)
    print(f"\ntorch.histc of 11 M coordinates: {statistics.median(ratios):.1f} x the sketch")


def test_sklearn_randomized_svd(benchmark: Any) -> None:
    """96 components of 20,000 x 1024 in memory: CPU time of three passes and of one, worst error of sigma^2 over E."""
    from sklearn.utils.extmath import randomized_svd

    from gradlog.analysis.common.blas_threads import single_threaded
    from gradlog.analysis.spectrum.nystrom import refine, test_matrix

    rng = np.random.default_rng(0)
    H = rng.standard_normal((20_000, 1024), np.float32) * np.exp(-np.arange(1024, dtype=np.float32) / 60)
    exact = np.linalg.eigvalsh(H.T.astype(np.float64) @ H)[::-1][:96]
    energy = float(np.einsum("tn,tn->", H, H, dtype=np.float64))
    found: dict[str, tuple[float, float]] = {}

    def ours(passes: int) -> Any:
        omega = test_matrix(1024, 96, 0)
        return refine(image, omega, image(omega), energy, passes, rows=len(H)).spectrum.energies[:96]

    def image(V: Any) -> Any:
        blocks = (H[i : i + 4096] for i in range(0, len(H), 4096))
        return sum((X.T @ (X @ V) for X in blocks), start=np.zeros(V.shape))

    with single_threaded():
        ways = {
            "one pass": lambda: ours(1),
            "ours": lambda: ours(3),
            "sklearn": lambda: randomized_svd(H, 96, random_state=0)[1] ** 2,
        }
        for name, run in ways.items():
            start = time.process_time()
            values = run()
            found[name] = time.process_time() - start, float(np.abs(values - exact).max() / energy)
        benchmark.pedantic(ours, (3,), rounds=2)
    ratio = found["sklearn"][0] / found["ours"][0]
    benchmark.extra_info |= {"ratio": ratio, "one_pass_ratio": found["sklearn"][0] / found["one pass"][0]}
    benchmark.extra_info |= {f"error_{name.replace(' ', '_')}": error for name, (_, error) in found.items()}
    print(
        f"\nsklearn randomized_svd: {ratio:.1f} x the time, errors {found['sklearn'][1]:.1e} and {found['ours'][1]:.1e}"
    )
