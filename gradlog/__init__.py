"""gradlog: log sketched gradients of a training run; measure their predictability and rank afterwards.

The recorder lives here and imports numpy only; ``gradlog.analysis`` and ``gradlog.cli`` are separate and load
when they are used.
"""

from __future__ import annotations

from gradlog.errors import GradlogError, GradlogWarning
from gradlog.integrations.attach import attach
from gradlog.recorder.api import open
from gradlog.recorder.listeners import RecordedRow
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import RecordingOptions
from gradlog.recorder.provenance import fingerprint
from gradlog.recorder.recovery import Recovered, recover
from gradlog.storage.compact import Compacted, compact
from gradlog.storage.settings import Storage

__all__ = [
    "Compacted",
    "GradlogError",
    "GradlogWarning",
    "Logger",
    "RecordedRow",
    "RecordingOptions",
    "Recovered",
    "Storage",
    "attach",
    "compact",
    "fingerprint",
    "open",
    "recover",
]
