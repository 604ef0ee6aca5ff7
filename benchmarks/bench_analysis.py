"""Cost of the analyzer's pass against its floor in the same run: read every chunk, one float32 syrk a chunk.

One BLAS thread. GRADLOG_BENCH_STEPS and GRADLOG_BENCH_WIDE set the rows of 256 and of 4096 columns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "analysis"))
from gradlog.analysis import Run, open_run
from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.measures.predictors import needs, parse
from gradlog.analysis.spectrum.nystrom import test_matrix as random_block
from gradlog.analysis.spectrum.routes import BLOCK
from gradlog.analysis.streaming import executors, schedule
from gradlog.analysis.streaming import kernel as summing
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.totals import add, contributions
from gradlog.format.layout import chunk_rows
from tests.helpers import stores

STEPS, WIDE = (int(os.environ.get(f"GRADLOG_BENCH_{n}", d)) for n, d in (("STEPS", 200_000), ("WIDE", 100_000)))
PAPER = "zero,last,ema(0.9),ema(0.99),trend,ar(8)"
EPS = {"narrow": (0.1, 0.05, 0.01), "wide": (0.1, 0.05)}


def write(path: Path, steps: int, k: int, energy: Callable[[Any], Any]) -> Path:
    """Drift plus noise in one group; ``energy(i)`` of direction i."""
    head = stores.header(1, k, chunk_rows(4 * k))
    stores.write_root(path, head)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((steps, 1, k), np.float32)
    X *= np.sqrt(energy(np.arange(k))).astype(np.float32)
    X += (np.sin(np.arange(steps) / 900)[:, None, None]).astype(np.float32) * X[:1]
    stores.write_segment(path, head, X, norm2=np.einsum("tgk,tgk->tg", X, X).astype(np.float64))
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: Any) -> Path:
    return write(tmp_path_factory.mktemp("bench") / "narrow.zarr", STEPS, 256, lambda i: 1 / (1 + i / 16))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: Any) -> Path:
    return write(tmp_path_factory.mktemp("bench") / "wide.zarr", WIDE, 4096, lambda i: np.exp(-i / 10) + 1e-7)


def chunks(path: Path) -> Any:
    """Every chunk through zarr."""
    array = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)["sketch"]
    for start in range(0, array.shape[0], array.chunks[0]):
        yield array[start : start + array.chunks[0]].reshape(-1, array.shape[2])


def read(path: Path) -> None:
    for _ in chunks(path):
        pass


def read_and_syrk(path: Path) -> None:
    gram = 0.0
    for X in chunks(path):
        gram = gram + X.T @ X


def read_and_gemms(path: Path) -> None:
    omega, image = random_block(4096, BLOCK, 0), np.zeros((4096, BLOCK))
    for X in chunks(path):
        image += X.T @ (X @ omega)


def one_pass(run: Run, recipe: Recipe, scheduler: Any = "synchronous") -> Any:
    cuts = [0, len(run.steps)]
    return add(contributions(schedule.compute(run.rows, run.contiguous_ranges, cuts, recipe, scheduler)))


def against(
    benchmark: Any,
    floor: Callable[[], Any],
    work: Callable[[], Any],
    label: str,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Least time of ``work`` over least time of ``floor``, taken in turn; CPU time, as other programs may run."""
    times: list[list[float]] = [[], []]
    with single_threaded():
        work()
        for _ in range(rounds):
            for spent, call in zip(times, (floor, work), strict=True):
                start = clock()
                call()
                spent.append(clock() - start)
        benchmark.pedantic(work, rounds=1)
    ratio = min(times[1]) / min(times[0])
    benchmark.extra_info["ratio"] = ratio
    print(f"\n{label}: {min(times[1]):.3f} s, {ratio:.2f} x the floor of {min(times[0]):.3f} s")
    return ratio


RECIPES = {
    "Gram of the increments alone": Recipe(1, 256, lags=0, columns=False),
    "five predictors, ar(8), energy, Gram": Recipe(1, 256, **needs(parse(PAPER))),
    "the same, best-ema, Gram of shuffled steps": Recipe(1, 256, scatter=True, **needs(parse(PAPER + ",best-ema"), 4)),
}


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
@pytest.mark.parametrize("label", RECIPES)
def test_one_pass(benchmark: Any, narrow: Path, label: str, kernel: str) -> None:
    if kernel == "numba" and summing.compiled() is None:
        pytest.skip("the extra 'fast' is not installed")
    run, recipe = open_run(narrow), dataclasses.replace(RECIPES[label], kernel=kernel)
    against(benchmark, lambda: read_and_syrk(narrow), lambda: one_pass(run, recipe), f"{label}, {kernel}")


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_two_threads(benchmark: Any, narrow: Path, kernel: str) -> None:
    """Speed-up where two cores are idle."""
    run, recipe = open_run(narrow), dataclasses.replace(RECIPES[list(RECIPES)[2]], kernel=kernel)
    one, two = (lambda s=s: one_pass(run, recipe, s) for s in ("synchronous", "threads"))
    ratio = against(
        benchmark, one, two, f"threads over one, {kernel}, {executors.of().workers} workers", clock=time.perf_counter
    )
    print(f"speed-up {1 / ratio:.2f}")


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_two_workers(benchmark: Any, narrow: Path, kernel: str) -> None:
    """Speed-up of a second worker process of a cluster where two cores are idle."""
    from distributed import Client, LocalCluster

    run, recipe = open_run(narrow), dataclasses.replace(RECIPES[list(RECIPES)[2]], kernel=kernel)
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        clusters = [start(LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0")) for n in (1, 2)]
        clients = [start(Client(cluster, set_as_default=False)) for cluster in clusters]
        one, two = (lambda c=c: one_pass(run, recipe, c) for c in clients)
        one(), two()  # workers load what they need
        label = f"two workers over one, {kernel}"
        print(f"speed-up {1 / against(benchmark, one, two, label, clock=time.perf_counter):.2f}")


def test_wide_pass(benchmark: Any, wide: Path) -> None:
    run = open_run(wide)
    recipe = Recipe(1, 4096, lags=0, gram="none", test=random_block(4096, BLOCK, 0), columns=False)
    against(benchmark, lambda: read_and_gemms(wide), lambda: one_pass(run, recipe), "one-pass Nystrom, 4096 columns", 3)


CHILD = """
import json, re, sys, time
import numpy as np, dask, dask.array as da
from gradlog.analysis import open_run
from gradlog.analysis.spectrum import nystrom, rank
from gradlog.analysis.streaming import schedule
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.totals import add, contributions
path, way, width, power, eps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5])
memory = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
libraries = memory("VmRSS")
run = open_run(path)
n, cuts = run.rows.n, [0, len(run.steps)]

def one_pass(recipe):
    return add(contributions(schedule.compute(run.rows, run.contiguous_ranges, cuts, recipe, "synchronous")))

def energy():
    return one_pass(Recipe(1, n, lags=0, gram="none"))["increment"].sum()

start = time.perf_counter()
with dask.config.set(scheduler="synchronous"):
    if way == "gram":
        spectrum = rank.of_gram(one_pass(Recipe(1, n, lags=0, columns=False))["gram"])
    elif way == "nystrom":
        omega = nystrom.test_matrix(n, width, 0)
        more = lambda V: one_pass(Recipe(1, n, lags=0, gram="none", test=V, columns=False))["image"]
        first = one_pass(Recipe(1, n, lags=0, gram="none", test=omega))
        rows = int(first["pairs"])
        spectrum = nystrom.refine(more, omega, first["image"], first["increment"].sum(), 3, eps, rows=rows).spectrum
    else:
        H = run.increments()
        if way == "tsqr":
            s = da.linalg.tsqr(H, compute_svd=True)[1].compute()
        else:
            s = da.linalg.svd_compressed(H, width, n_power_iter=power, iterator="QR", compute=True)[1].compute()
        spectrum = rank.Spectrum(np.square(s, dtype=float), float(energy()), complete=False)
seconds = time.perf_counter() - start
peak = memory("VmHWM")
print(json.dumps([seconds, peak, peak - libraries, [rank.rank_interval(spectrum, e) for e in eps]]))
"""


def child(path: Path, eps: tuple[float, ...], way: str, width: int = 0, power: int = 0) -> list[Any]:
    """Seconds, peak MB, those of them beyond the libraries, and certified intervals of one way in a new process."""
    code = [sys.executable, "-c", CHILD, str(path), way, str(width), str(power), json.dumps(eps)]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(code, check=True, capture_output=True, text=True, env={**os.environ, **threads})
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", ["narrow", "wide"])
def test_dask_at_equal_certified_rank(benchmark: Any, request: Any, case: str) -> None:
    """Dask's ways are told the smallest width and power that close the intervals; the search is not timed."""
    path = request.getfixturevalue(case)
    way, width = ("gram", 0) if case == "narrow" else ("nystrom", BLOCK)
    ours = child(path, EPS[case], way, width)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{case}: {way} {ours[0]:.2f} s, {ours[1]:.0f} MB ({ours[2]:.0f} own), r* in {ours[3]}")
    assert all(low == high for low, high in ours[3])
    others = {"tsqr": child(path, EPS[case], "tsqr")} if case == "narrow" else {}
    for width, power in ((96, 0), (96, 1), (192, 1), (256, 2)):
        found = child(path, EPS[case], "svd_compressed", width, power)
        if found[3] == ours[3]:
            others[f"svd_compressed k={width} q={power}"] = found
            break
    for name, (seconds, peak, own, _) in others.items():
        ratios = {"": seconds / ours[0], ", peak memory": peak / ours[1], ", own memory": own / ours[2]}
        benchmark.extra_info |= {name + what: ratio for what, ratio in ratios.items()}
        print(
            f"  {name}: {seconds:.2f} s, {peak:.0f} MB ({own:.0f} own): "
            + ", ".join(f"{r:.1f} x{w}" for w, r in ratios.items())
        )


@pytest.mark.parametrize("steps", [10_000, 100_000] + [1_000_000] * (STEPS >= 100_000))
def test_time_and_memory_over_steps(benchmark: Any, tmp_path: Path, steps: int) -> None:
    """64 columns, everything, in a fresh interpreter."""
    path = write(tmp_path / "r.zarr", steps, 64, lambda i: 1 / (1 + i))
    code = (
        "import re, sys, time; from gradlog.analysis import analyze; start = time.perf_counter();"
        "ds = analyze(sys.argv[1], scheduler='synchronous', kernel='numpy', cache=False);"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024;"
        "print(time.perf_counter() - start, peak, ds.attrs['predicted_memory'] / 2**20)"
    )
    run = lambda: subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)  # noqa: E731
    done = benchmark.pedantic(run, rounds=1)
    seconds, peak, predicted = map(float, done.stdout.split())
    benchmark.extra_info |= {"seconds": seconds, "peak_mb": peak, "predicted_mb": predicted}
    print(f"\n{steps:,} steps: {seconds:.2f} s, peak {peak:.0f} MB, predicted {predicted:.0f} MB")
