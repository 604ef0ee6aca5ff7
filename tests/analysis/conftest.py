"""Make the store helper importable by name; a run whose gradients are fully known."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import stores

from tests.analysis.walks import smooth


@pytest.fixture(scope="module")
def exact_run(tmp_path_factory):
    X = smooth(130)
    path = stores.write_run(
        tmp_path_factory.mktemp("runs") / "exact.zarr",
        X,
        exact=True,
        scalars={"loss": np.linspace(2, 1, 130), "lr": np.full(130, 0.1), "batch_size": np.full(130, 32.0)},
    )
    return path, X.reshape(130, -1).astype(np.float64)
