"""Small runs to report on, and their pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import stores

SAMPLES = Path(__file__).resolve().parents[3] / "sample_logs"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x00\u202e{{7*7}}"


def drift(steps: int, groups: int = 3, k: int = 8, seed: int = 0) -> np.ndarray:
    """Rows with some memory, so that predictors differ."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((steps, groups, k))
    for t in range(1, steps):
        rows[t] += 0.6 * rows[t - 1]
    return rows


@pytest.fixture(scope="session")
def run_path(tmp_path_factory):
    """A run of three groups that logged its loss and learning rate, with one non-finite row."""
    path = tmp_path_factory.mktemp("runs") / "drift.zarr"
    rows = drift(120)
    rows[50, 1, 2] = np.nan
    flags = np.zeros(120, np.uint32)
    flags[50] = 1
    scalars = {"loss": np.geomspace(3, 0.1, 120), "lr": np.full(120, 0.01)}
    return stores.write_run(path, rows, sizes=[1000, 2000, 3000], flags=flags, scalars=scalars)


@pytest.fixture(scope="session")
def hostile_path(tmp_path_factory):
    """A run whose every text tries to be more than text."""
    path = tmp_path_factory.mktemp("hostile") / "run<b>.zarr"
    notes = {HOSTILE: HOSTILE, "arabic": "مرحبا"}
    origin = {"notes": notes, "argv": [HOSTILE], "platform": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    head = stores.header(2, 8, provenance=origin, stage=HOSTILE, what=HOSTILE)
    head = stores.dataclasses.replace(head, groups=(HOSTILE, "g1\u200f"), created=HOSTILE)
    stores.write_root(path, head)
    stores.write_segment(path, head, drift(60, 2), scalars={"loss": np.ones(60)}, reason=HOSTILE, status="failed")
    return path


@pytest.fixture(scope="session")
def pages(tmp_path_factory, run_path, hostile_path):
    """Reports by name: of one run, of two, of three with hostile text, of fifty."""
    from gradlog.analysis import write_report

    folder = tmp_path_factory.mktemp("pages")
    runs = {
        "one": [SAMPLES / "mlp_wine_exact.zarr"],
        "two": [run_path, SAMPLES / "mlp_wine_exact.zarr"],
        "hostile": [hostile_path, run_path, SAMPLES / "mlp_wine_exact.zarr"],
    }
    crowd = folder / "crowd"
    crowd.mkdir()
    scalars = {"loss": np.geomspace(3, 0.1, 60), "lr": np.full(60, 0.01)}
    runs["many"] = [stores.write_run(crowd / f"run{i}.zarr", drift(60, 2, seed=i), scalars=scalars) for i in range(50)]
    for name, paths in runs.items():
        write_report(paths, folder / f"{name}.html", title=HOSTILE if name == "hostile" else "Gradient report")
    return {name: folder / f"{name}.html" for name in runs}
