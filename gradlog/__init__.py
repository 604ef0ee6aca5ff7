"""gradlog: log sketched gradients of a training run; measure their predictability and rank afterwards.

The recorder lives here and needs numpy only; ``gradlog.analysis`` and ``gradlog.cli`` are separate. All load when they
are used: a command that reads runs spends no time on what records them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from gradlog.errors import GradlogError, GradlogWarning

if TYPE_CHECKING:
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

_HOME = {
    "Compacted": "storage.compact",
    "Logger": "recorder.logger",
    "RecordedRow": "recorder.listeners",
    "RecordingOptions": "recorder.options",
    "Recovered": "recorder.recovery",
    "Storage": "storage.settings",
    "attach": "integrations.attach",
    "compact": "storage.compact",
    "fingerprint": "recorder.provenance",
    "open": "recorder.api",
    "recover": "recorder.recovery",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
