"""A long run of 16 groups x 256 from end to end: what a step, ``info``, ``analyze`` and ``report`` cost as it grows.

``python benchmarks/million.py [--steps 10000 100000 1000000] [--folder F] [--json FILE]``; a million steps take 16.5 GB
under the folder, deleted afterwards. Rows are recorded in exact mode: the sketch of a step costs the same whatever
came before it, so what could grow with the run is the recorder's own part. Every stage runs in a fresh process, whose
peak memory is read at its end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

GROUPS, K, POOL = 16, 256, 4099
ENDS = ("first", "middle", "last")


def record(path: Path, steps: int) -> dict[str, Any]:
    """Record rows of drift and noise; microseconds a step over the first, middle and last tenth (at most 10,000)."""
    import gradlog

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((POOL, GROUPS, K), np.float32)
    noise /= np.sqrt(1 + np.arange(GROUPS * K, dtype=np.float32) / 64).reshape(GROUPS, K)
    drift = rng.standard_normal((GROUPS, K)).astype(np.float32)
    names = [f"g{i:02d}" for i in range(GROUPS)]
    like = {name: np.zeros(K, np.float32) for name in names}
    span = min(10_000, steps // 10)
    starts = dict(zip(ENDS, (0, (steps - span) // 2, steps - span), strict=True))
    spent = np.empty(steps, np.float32)
    row = np.empty((GROUPS, K), np.float32)
    begin = time.perf_counter()
    with gradlog.open(path, like=like, k="exact", groups="tensors", on_error="raise") as log:
        for t in range(steps):
            np.multiply(drift, np.float32(np.sin(t / 3000)), out=row)
            row += noise[t % POOL]
            before = time.perf_counter()
            log.step(dict(zip(names, row, strict=True)), loss=1 / (1 + t), lr=1e-3)
            spent[t] = time.perf_counter() - before
    found: dict[str, Any] = {"seconds": time.perf_counter() - begin}
    for end, start in starts.items():
        part = spent[start : start + span] * 1e6
        found[end] = {"mean_us": float(part.mean()), "p50_us": float(np.median(part)),
                      "p99_us": float(np.percentile(part, 99))}  # fmt: skip
    return found


def info(path: Path) -> dict[str, Any]:
    """Seconds of ``gradlog info`` in a process of its own, imports included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "gradlog", "info", str(path)], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - start}


def read(path: Path) -> dict[str, Any]:
    """Floor: read every chunk of the sketch through zarr, once."""
    import zarr

    array = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)["sketch"]
    start = time.perf_counter()
    for first in range(0, array.shape[0], array.chunks[0]):
        array[first : first + array.chunks[0]]
    return {"seconds": time.perf_counter() - start}


def analyze(path: Path) -> dict[str, Any]:
    """The whole analysis, and what it predicted for its memory."""
    from gradlog.analysis import analyze, open_run

    start = time.perf_counter()
    run = open_run(path)
    opened = time.perf_counter()
    ds = analyze(run, cache=False)
    return {
        "seconds": time.perf_counter() - start,
        "open_seconds": opened - start,
        "predicted_mb": ds.attrs["predicted_memory"] / 2**20,
        "passes": int(ds.attrs["svd_passes"]),
        "kappa_last": float(ds.kappa.sel(predictor="last")),
        "rank": ds["rank"].values.tolist(),
    }


def report(path: Path) -> dict[str, Any]:
    """A page about the run, its whole analysis in it, or what an earlier call left in the cache beside the run."""
    from gradlog.analysis import html_report
    from gradlog.analysis.caching.cache import Cache

    start = time.perf_counter()
    page = html_report([path], cache=Cache(path.with_suffix(".cache")))
    return {"seconds": time.perf_counter() - start, "page_bytes": len(page)}


STAGES = {"record": record, "info": info, "read": read, "analyze": analyze, "report": report, "again": report}


def stage(name: str, path: Path, *more: int) -> dict[str, Any]:
    """Run a stage in a fresh interpreter; its result, its peak memory and the machine's load."""
    command = [sys.executable, __file__, "--stage", name, str(path), *map(str, more)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """High water mark of this process's memory (VmHWM starts afresh at exec, ru_maxrss does not)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """All stages of one length; the run is deleted at the end."""
    path = folder / f"{steps}.zarr"
    found: dict[str, Any] = {"steps": steps, "bytes": 4 * steps * GROUPS * K}
    try:
        for name in STAGES:
            found[name] = stage(name, path, *([steps] if name == "record" else []))
            print(f"{steps:>9,} steps  {name:8s} {json.dumps(found[name])}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(path.with_suffix(".cache"), ignore_errors=True)
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a length."""
    names = [
        "steps",
        "raw",
        "step, us: first / middle / last",
        "info",
        "open",
        "analyze",
        "a step",
        "read floor",
        "peak",
        "report: first / again",
        "peak",
    ]
    lines = ["| " + " | ".join(names) + " |", "|--:" * len(names) + "|"]
    for r in results:
        us = " / ".join(f"{r['record'][end]['p50_us']:.0f}" for end in ENDS)
        a, T = r["analyze"], r["steps"]
        lines.append(
            f"| {T:,} | {r['bytes'] / 1e9:.2f} GB | {us} | {r['info']['seconds']:.2f} s | {a['open_seconds']:.2f} s "
            f"| {a['seconds']:.1f} s | {a['cpu_seconds'] / T * 1e6:.0f} us "
            f"| {a['cpu_seconds'] / r['read']['cpu_seconds']:.1f} x "
            f"| {a['peak_mb']:.0f} MB | {r['report']['seconds']:.1f} s / {r['again']['seconds']:.1f} s "
            f"| {r['report']['peak_mb']:.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every length, or run one stage and print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="where runs are written (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        name, path, *more = options.stage
        found = STAGES[name](Path(path), *map(int, more))
        about = {"cpu_seconds": time.process_time(), "peak_mb": peak_mb(), "load": os.getloadavg()[0]}
        print(json.dumps(found | about))
        return
    with tempfile.TemporaryDirectory(prefix="gradlog-million-", dir=options.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 5 * max(options.steps) * GROUPS * K:
            sys.exit(f"{folder}: {free / 1e9:.0f} GB free, {5e-9 * max(options.steps) * GROUPS * K:.0f} GB wanted")
        results = [measure(Path(folder), steps) for steps in options.steps]
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
