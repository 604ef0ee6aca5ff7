"""One background thread: it works when it is woken, and again after longer and longer pauses where a store refused.

It holds no lock that training could wait for, and waking it twice changes nothing: training may be interrupted at any
line and simply come back.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

from gradlog.errors import StoreUnavailableError


class Flusher:
    """Does what there is to do, piece by piece.

    Parameters
    ----------
    waiting : callable
        Whether there is anything to do.
    flush : callable
        Does the next piece. After StoreUnavailableError it is called again later; it raises nothing else.
    pauses : sequence of float
        Seconds before a store that refused is asked again; the last one from then on.

    Attributes
    ----------
    refusal : StoreUnavailableError or None
        Why the newest attempt failed, while the store refuses.
    """

    def __init__(self, waiting: Callable[[], bool], flush: Callable[[], None], pauses: Sequence[float]) -> None:
        self._waiting, self._flush, self._pauses = waiting, flush, pauses
        self.refusal: StoreUnavailableError | None = None
        self._refused = 0
        self._last: Callable[[], None] | None = None
        self._seen: Callable[[], None] | None = None
        self._given_up = self._ended = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # in C: safe against interrupts, unlike Condition
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread may still write."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Tell the thread that there is work; it is started where none lives."""
        if not self._ended and not self.alive:  # nor does one live that an interrupt kept from its beginning
            self._thread = threading.Thread(target=self._run, name="gradlog-flush", daemon=True)
            self._thread.start()
        self._wake.put(None)

    def close(self, last: Callable[[], None], wait: float) -> bool:
        """Do all there is, then ``last``; False where the store kept that for over ``wait`` seconds.

        Then the thread ends with the piece that it is at. What is left stays where it waits; only if nothing is left,
        ``last`` is called.
        """
        self._last = last
        try:
            self.wake()
        except RuntimeError:  # the interpreter is going down and starts no more threads
            return self._work()
        if self._thread is not None:
            self._thread.join(wait)
            if self._thread.is_alive():
                self._given_up = True
                self._wake.put(None)
                return False
        return True

    def _run(self) -> None:
        while threading.current_thread() is self._thread and not self._given_up and not self._work():
            self._pause()
        self._ended = self._ended or threading.current_thread() is self._thread
        self._wake.put(None)  # two may wait where an interrupt hid that one had begun: each wakes the other

    def _pause(self) -> None:
        """Until there is work; where the store refused, until its pause is over or the end is wanted."""
        if self.refusal is None:
            self._wake.get()
            return
        until = time.monotonic() + self._pauses[min(self._refused, len(self._pauses)) - 1]
        while (left := until - time.monotonic()) > 0 and not self._given_up:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=left)
            if self._last is not self._seen:
                self._refused = 0
                return

    def _work(self) -> bool:
        """Do all there is; tell whether that was the end."""
        with self._turn:
            last = self._seen = self._last
            try:
                while self._waiting() and not self._given_up:
                    self._flush()
                    self.refusal, self._refused = None, 0
                if last is not None and not self._waiting():
                    last()
            except StoreUnavailableError as refusal:
                self.refusal, self._refused = refusal, self._refused + 1
                return False
            self.refusal, self._refused = None, 0
            return last is not None
