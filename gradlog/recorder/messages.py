"""What the user is told while a run is recorded."""

from __future__ import annotations

import contextlib
import logging
import warnings

from gradlog.errors import GradlogWarning

log = logging.getLogger("gradlog")


def tell(path: str, message: str) -> None:
    """Tell the user something about a run, as a warning and to the log if anybody listens to it."""
    message = f"{path}: {message}"
    if log.hasHandlers():  # else Python's handler of last resort would print it a second time
        log.warning("%s", message)
    # A user who turned warnings into errors must not lose the job to one of ours.
    with contextlib.suppress(Warning):
        warnings.warn(message, GradlogWarning, stacklevel=3)
