"""Runs to audit: one of a training, and one that was rewound."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradlog
from tests.helpers import forger
from tests.helpers.forger import Training


@pytest.fixture
def path(tmp_path: Path) -> Path:
    forger.record(tmp_path / "run.zarr", Training())
    return tmp_path / "run.zarr"


@pytest.fixture
def resumed(tmp_path: Path) -> Path:
    """Steps 0 to 59, rewound, steps 40 to 99."""
    path, training = tmp_path / "run.zarr", Training()
    options = {"k": 64, "chunk": 32, "like": training.start(), "on_error": "raise", "mode": "a"}
    for first, stop in ((0, 60), (40, 100)):
        with gradlog.open(path, first_step=first, **options) as log:
            for t, _, g, _ in training.walk(stop):
                if g is not None and t >= first:
                    log.step(g, loss=0.1)
    return path
