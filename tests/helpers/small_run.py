"""A run of three small parameters: its gradients, a logger for them and its leftovers; the environment of a process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

import gradlog

LIKE = {"a": {"w": np.zeros((5, 4)), "b": np.zeros(4)}, "c": np.zeros(7)}


def gradient(t: int) -> dict[str, object]:
    rng = np.random.default_rng(t)
    return {"a": {"w": rng.normal(size=(5, 4)), "b": rng.normal(size=4)}, "c": rng.normal(size=7)}


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, **{"k": 8, "chunk": 16, "on_error": "raise", **options})


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
