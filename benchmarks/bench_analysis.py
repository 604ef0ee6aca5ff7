"""Cost of the one pass against its floor: reading every chunk through zarr and one float32 syrk over the same rows.

Run with one BLAS thread: ``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_analysis.py [--steps 200000] [--wide]``.
Prints seconds and the ratio to the floor of the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import zarr  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "analysis"))
import stores  # noqa: E402

from gradlog.analysis import Run, blocks, open_run  # noqa: E402
from gradlog.analysis.predictors import needs, parse  # noqa: E402
from gradlog.analysis.rsvd import refine, test_matrix  # noqa: E402
from gradlog.analysis.spectra import BLOCK  # noqa: E402
from gradlog.analysis.summary import Recipe, add, contributions  # noqa: E402
from gradlog.schema import chunk_rows  # noqa: E402

PAPER = "zero,last,ema(0.9),ema(0.99),trend,ar(8)"


def best(run: Callable[[], Any], times: int) -> float:
    """Least seconds of several runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def write(path: Path, steps: int, k: int) -> Path:
    """A run of smooth drift plus noise, one group, written in pieces."""
    head = stores.header(1, k, chunk_rows(4 * k))
    stores.write_root(path, head)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((steps, 1, k), np.float32)
    X *= (1 / np.sqrt(1 + np.arange(k) / 16)).astype(np.float32)
    X += (np.sin(np.arange(steps) / 900)[:, None, None]).astype(np.float32)
    stores.write_segment(path, head, X, norm2=np.einsum("tgk,tgk->tg", X, X).astype(np.float64))
    return path


def floor(path: Path) -> None:
    """Read each chunk through zarr; float32 Gram of it."""
    array = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)["sketch"]
    gram = np.zeros((array.shape[2], array.shape[2]))
    for start in range(0, array.shape[0], array.chunks[0]):
        X = array[start : start + array.chunks[0]].reshape(-1, array.shape[2])
        gram += X.T @ X


def read_only(path: Path) -> None:
    """Read each chunk through zarr."""
    array = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)["sketch"]
    for start in range(0, array.shape[0], array.chunks[0]):
        array[start : start + array.chunks[0]]


def one_pass(run: Run, recipe: Recipe) -> Any:
    """The pass over an opened run, in this thread."""
    cuts = [0, len(run.steps)]
    return add(contributions(blocks.compute(run.rows, run.chains, cuts, recipe, "synchronous")))


def read_and_gemms(path: Path, omega: Any) -> None:
    """Floor of the wide route: read each chunk through zarr and apply the two products to it."""
    array = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)["sketch"]
    image = np.zeros(omega.shape)
    for start in range(0, array.shape[0], array.chunks[0]):
        X = array[start : start + array.chunks[0]].reshape(-1, array.shape[2])
        image += X.T @ (X @ omega)


def nystrom(run: Run, k: int) -> None:
    """One-pass wide route."""
    recipe = Recipe(1, k, lags=0, gram="none", test=test_matrix(k, BLOCK, 0), columns=False)
    totals = one_pass(run, recipe)
    refine(lambda V: V, recipe.test, totals["image"], 1.0, 1)


def child(code: str, *arguments: str) -> tuple[float, float]:
    """Seconds and peak MB of a fresh interpreter."""
    # VmHWM starts afresh at exec; ru_maxrss would still hold the size of this process
    code += "; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout) / 1024


def show(label: str, seconds: float, unit: float) -> None:
    """Print one line."""
    print(f"{label:58s} {seconds:8.3f} s {seconds / unit:8.2f} x", flush=True)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--k", type=int, default=256)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--wide", action="store_true", help="also 4096 columns, half the steps")
    parser.add_argument("--dask", action="store_true", help="also dask's svd_compressed and tsqr")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "run.zarr", options.steps, options.k)
        unit = best(lambda: floor(path), options.times)
        show("floor: read every chunk, one syrk", unit, unit)
        show("read every chunk", best(lambda: read_only(path), options.times), unit)
        show("open the run: metadata, steps, flags", best(lambda: open_run(path).rows, options.times), unit)
        run = open_run(path)
        wanted = needs(parse(PAPER))
        gram = Recipe(1, options.k, lags=0, columns=False)
        show("Gram of the increments alone", best(lambda: one_pass(run, gram), options.times), unit)
        full = Recipe(1, options.k, **wanted)
        show("five predictors, ar(8), energy, Gram", best(lambda: one_pass(run, full), options.times), unit)
        scatter = Recipe(1, options.k, scatter=True, **wanted)
        show("the same and the Gram of shuffled steps", best(lambda: one_pass(run, scatter), options.times), unit)
        grid = Recipe(1, options.k, scatter=True, **needs(parse(PAPER + ",best-ema"), 4))
        show("the same and best-ema", best(lambda: one_pass(run, grid), options.times), unit)
        code = "import sys; from gradlog.analysis import analyze; analyze(sys.argv[1], scheduler='synchronous')"
        seconds, peak = child(code, str(path))
        show(f"analyze() with everything, imports included, {peak:.0f} MB", seconds, unit)
        if options.dask:
            compare(path, unit)
        short = write(Path(folder) / "short.zarr", 10_000, options.k)
        seconds, peak = child(code, str(short))
        show(f"analyze() of 10,000 steps, imports included, {peak:.0f} MB", seconds, unit)
        if options.wide:
            wide = write(Path(folder) / "wide.zarr", options.steps // 8, 4096)
            wide_run = open_run(wide)
            omega = test_matrix(4096, BLOCK, 0)
            unit = best(lambda: read_and_gemms(wide, omega), options.times)
            show("4096 columns: read every chunk, the two products", unit, unit)
            show("one-pass Nystrom, 96 columns", best(lambda: nystrom(wide_run, 4096), options.times), unit)


def compare(path: Path, unit: float) -> None:
    """Dask's own routes on the same increments, in one thread."""
    import dask
    import dask.array as da

    H = open_run(path).increments()
    with dask.config.set(scheduler="synchronous"):
        show("dask svd_compressed, q = 0", best(lambda: dask.compute(da.linalg.svd_compressed(H, 96)), 1), unit)
        qr = lambda: dask.compute(da.linalg.svd_compressed(H, 96, n_power_iter=2, iterator="QR"))  # noqa: E731
        show("dask svd_compressed, q = 2, QR", best(qr, 1), unit)
        show("dask tsqr", best(lambda: da.linalg.tsqr(H, compute_svd=True)[1].compute(), 1), unit)


if __name__ == "__main__":
    main()
