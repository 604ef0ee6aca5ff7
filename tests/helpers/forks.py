"""Children of the process that runs the tests."""

from __future__ import annotations

import os
import warnings


def fork() -> int:
    """Fork as ``os.fork`` does, without Python's warning that the parent has threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # zarr's is idle
        return os.fork()
