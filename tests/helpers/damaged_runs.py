"""Stores to be damaged, held in memory key by key, so that thousands of damaged ones can be read."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import zarr.storage
from zarr.core.buffer import default_buffer_prototype

import gradlog
from gradlog.analysis import open_run
from tests.helpers.small_run import HangingDisk

Bytes = dict[str, bytes]
SEGMENT, SECOND = "seg-000000-r0000", "seg-000001-r0000"
KINDS = {
    "root": r"zarr\.json",
    "segment": r"seg-\d+-r\d+/zarr\.json",
    "array": r"[^/]+/[a-z_0-9]+/zarr\.json",
    "manifest": r".*/manifest/\d+\.json",
    "manifests": r".*/manifest/all\.jsonl",
    "journal": r".*/\.journal-\d+",
    **{f"{a} chunk": rf".*/{a}/c\..*" for a in ("sketch", "group_norm2", "scalars", "step", "flags")},
    "shard": r".*/c/.*",
}


def gradient(t: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(t).normal(size=(5, 4)), "b": np.random.default_rng(t + 999).normal(size=6)}


def start(path: Path, **options: Any) -> gradlog.Logger:
    options = {"like": gradient(0), "k": 8, "chunk": 8, "groups": "tensors", "on_error": "raise", **options}
    return gradlog.open(path, mode="a", **options)


def fill(log: gradlog.Logger, steps: range) -> None:
    for t in steps:
        late = {f"late/{i}": float(i * t) for i in range(17)} if t >= 9 else {}
        log.step(gradient(t), t, loss=1 / (t + 1), **late)


def leave_unfinished(path: Path, rank: int = 0) -> None:
    """Two chunks committed, a full journal and a started one: the process is killed while a flush hangs."""
    child = os.fork()
    if child == 0:
        try:
            log = start(path, rank=rank, storage=HangingDisk(chunk=2))
            fill(log, range(17))
            deadline = time.monotonic() + 60
            while (path / f"seg-000000-r{rank:04d}/.journal-000001").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            fill(log, range(17, 29))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def content(path: Path) -> Bytes:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


class InMemory:
    """Files of a run for the audit."""

    def __init__(self, files: Bytes) -> None:
        self._files = files

    def get(self, key: str) -> bytes | None:
        return self._files.get(key)

    def keys(self) -> list[str]:
        return sorted(self._files)


def read(files: Bytes, view: Any = "all") -> dict[str, Any]:
    """Everything that a reader gives."""
    buffer = default_buffer_prototype().buffer
    run = open_run(zarr.storage.MemoryStore({k: buffer.from_bytes(v) for k, v in files.items()}), view)
    scalars = run.scalar_columns
    return {
        "step": run.steps,
        "flags": run.flags,
        "norm2": run.group_norm2,
        "sketch": run.rows.read(0, len(run.steps)),
        "names": np.array(sorted(scalars)),
        "scalars": np.array([scalars[name] for name in sorted(scalars)]),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f") for n in a)


BASES = ["closed", "compact", "unfinished", "recovered"]


def kind_of(key: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, key))
