"""``xarray.open_dataset("run.zarr", engine="gradlog")``: a run as a Dataset with a lazy sketch."""

from __future__ import annotations

import os
from typing import Any

from xarray.backends import BackendEntrypoint

from gradlog.analysis.reader import View, open_run
from gradlog.errors import GradlogError


class GradlogBackend(BackendEntrypoint):
    """Backend entry point of xarray; ``view="all"`` keeps abandoned rows."""

    description = "Runs recorded by gradlog"
    url = "https://arxiv.org/abs/2601.04270"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "view")

    def open_dataset(self, filename_or_obj: Any, *, drop_variables: Any = None, view: View = "latest") -> Any:
        """Open a run."""
        return open_run(filename_or_obj, view).to_xarray().drop_vars(drop_variables or [])

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a local path holds a run."""
        if not isinstance(filename_or_obj, str | os.PathLike) or "://" in os.fspath(filename_or_obj):
            return False
        try:
            open_run(os.fspath(filename_or_obj))
        except (GradlogError, OSError):
            return False
        return True
