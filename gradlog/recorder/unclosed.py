"""Recorders that nobody closes: they are closed when they are garbage-collected, or at exit.

Nothing here keeps one alive: a sweep that forgets its loggers must not keep their buffers and files.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from gradlog.recorder.messages import tell
from gradlog.recorder.recording import Recording

if TYPE_CHECKING:
    from gradlog.recorder.recorder import Recorder


def close_at_exit(recorder: Recorder) -> Callable[[], None]:
    """Have a recorder closed when the process ends, if it is still there; return what atexit knows it by."""
    found = weakref.ref(recorder)

    def close() -> None:
        alive = found()
        if alive is not None:
            alive.end_with_process()

    return atexit.register(close)


def close_dropped(recording: Recording, at_exit: Callable[[], None], remarks: list[str], pid: int) -> None:
    """Close what a dropped recorder was recording; not here, where the collector may have come by."""

    def finish() -> None:
        try:
            recording.finish("closed", "; ".join(remarks), closing=True)
        except Exception as error:
            tell(recording.path, f"recording ended: {type(error).__name__}: {error}")

    if os.getpid() == pid and recording.queue.writing:
        atexit.unregister(at_exit)
        try:
            threading.Thread(target=finish, name="gradlog-close").start()
        except RuntimeError:  # the interpreter is going down and starts no more threads
            finish()
