"""What is remembered: the second analysis of an archive and of a run that grew, against the first; CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradlog
from gradlog.analysis import analyze, analyze_many


def cpu(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def record(path: Path, steps: int, seed: int = 0, width: int = 256) -> None:
    rng = np.random.default_rng(seed)
    like = {"a": np.zeros(width, np.float32), "b": np.zeros(width, np.float32)}
    with gradlog.open(path, like=like, k="exact", groups="tensors", mode="a", on_error="raise") as log:
        for _ in range(steps):
            log.step({name: rng.standard_normal(width, np.float32) for name in like}, loss=1.0)


def test_second_call_of_an_archive(benchmark: Any, tmp_path: Path) -> None:
    for i in range(20):
        record(tmp_path / "runs" / f"{i}.zarr", 400, i)
    call = lambda: analyze_many(tmp_path / "runs", cache=tmp_path / "cache")  # noqa: E731
    first, second = cpu(call), cpu(call)
    benchmark.pedantic(call, rounds=2)
    benchmark.extra_info |= {"ratio": second / first, "ms_a_run": 1e3 * second / 20, "first_ms_a_run": 1e3 * first / 20}
    print(f"\narchive of 20: first {first:.2f} s, second {second:.3f} s, {1e3 * second / 20:.1f} ms a run")


def test_a_run_that_grew_by_a_hundredth(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    record(path, 64 * 2048)
    call = lambda: analyze(str(path), ["last", "ema(0.9)"], cache=tmp_path / "cache", scheduler="synchronous")  # noqa: E731
    first = cpu(call)
    record(path, 2048)
    grown = cpu(call)
    benchmark.pedantic(call, rounds=2)
    benchmark.extra_info |= {"ratio": grown / first, "first_seconds": first, "grown_seconds": grown}
    print(f"\n131,072 steps of 2 x 256: {first:.2f} s; 2,048 more: {grown:.2f} s")
