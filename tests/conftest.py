"""Fixtures shared by the three halves of the suite."""

from __future__ import annotations

import os
import signal
import tempfile

# One BLAS thread: deterministic reductions, and no thread pools fighting over two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis

# What analyses keep must not come from, or go to, the user's own folder.
_kept = tempfile.TemporaryDirectory(prefix="gradlog-cache-")
os.environ["GRADLOG_CACHE"] = _kept.name

# A suite that is started in the background ignores Ctrl-C, and so would the processes whose Ctrl-C it tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("gradlog", deadline=None, print_blob=True)
hypothesis.settings.load_profile("gradlog")
