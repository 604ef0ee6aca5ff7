"""A run whose gradients are fully known, runs that grow, and a cache folder for each test."""

import numpy as np
import pytest

from tests.helpers import stores
from tests.helpers.growing_runs import cache_folder, record, rows_read, small_blocks
from tests.helpers.walks import smooth

__all__ = ["cache_folder", "record", "rows_read", "small_blocks"]


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
