"""A run of three small parameters: its gradients, a logger for them and its leftovers; the environment of a process."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import gradlog
from gradlog.storage.sink import LocalSink

LIKE = {"a": {"w": np.zeros((5, 4)), "b": np.zeros(4)}, "c": np.zeros(7)}


def gradient(t: int) -> dict[str, object]:
    rng = np.random.default_rng(t)
    return {"a": {"w": rng.normal(size=(5, 4)), "b": rng.normal(size=4)}, "c": rng.normal(size=7)}


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, **{"k": 8, "chunk": 16, "on_error": "raise", **options})


@dataclasses.dataclass(frozen=True)
class HangingDisk(gradlog.Storage):
    """A disk that hangs when this chunk is to be written."""

    chunk: int = 0

    def open(self, path: str | os.PathLike[str], durable: bool = False) -> LocalSink:
        return _HangingSink(path, self.chunk)


class _HangingSink(LocalSink):
    def __init__(self, path: str | os.PathLike[str], chunk: int) -> None:
        super().__init__(path)
        self._chunk = chunk

    def put(self, key: str, data: Sequence[bytes]) -> None:
        while f"/sketch/c.{self._chunk}." in key:
            time.sleep(60)
        super().put(key, data)


def environment(**extra: str) -> dict[str, str]:
    """Of a process that finds gradlog from wherever it starts."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **extra}


def flushers() -> set[threading.Thread]:
    """Threads of this process that commit rows; some may be another test's."""
    return {thread for thread in threading.enumerate() if thread.name == "gradlog-flush"}


def open_files(below: Path) -> list[str]:
    """Files of a folder that this process holds open."""
    descriptors = Path("/proc/self/fd")
    targets = [os.readlink(link) for link in descriptors.iterdir() if link.is_symlink()]
    return [target for target in targets if target.startswith(f"{below}/")]
