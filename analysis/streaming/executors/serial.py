"""One task after another, in the thread that asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence

from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Call, Local, Value


class Serial(Local):
    """See the module."""

    def results(
        self,
        function: Callable[..., Value],
        calls: Sequence[Call],
        report: Progress,
        stop: threading.Event | None = None,
    ) -> Generator[Value]:
        """See Local."""
        for done, call in enumerate(calls, start=1):
            value = function(*call)
            report(done, len(calls))
            yield value
