"""``xarray.open_dataset("run.zarr", engine="gradlog")``: a run as a Dataset with a lazy sketch.

A single segment is a zarr group with named dimensions and consolidated metadata of its own, as it was written, with
neither the journal's rows nor the choice between segments after a rewind:
``xarray.open_dataset("run.zarr/seg-000000-r0000", engine="zarr", consolidated=True)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import cast

import xarray
from xarray.backends import BackendEntrypoint

from gradlog.analysis.reading.run import View, open_run
from gradlog.analysis.reading.store.stores import Location
from gradlog.errors import GradlogError


class GradlogBackend(BackendEntrypoint):
    """Backend entry point of xarray; ``view="all"`` keeps abandoned rows."""

    description = "Runs recorded by gradlog"
    url = "https://arxiv.org/abs/2601.04270"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "view")

    def open_dataset(
        self, filename_or_obj: object, *, drop_variables: str | Iterable[str] | None = None, view: View = "latest"
    ) -> xarray.Dataset:
        """Open a run."""
        return open_run(cast("Location", filename_or_obj), view).to_xarray().drop_vars(drop_variables or [])

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Whether a local path holds a run."""
        if not isinstance(filename_or_obj, str | os.PathLike) or "://" in os.fspath(filename_or_obj):
            return False
        try:
            open_run(os.fspath(filename_or_obj))
        except (GradlogError, OSError):
            return False
        return True
