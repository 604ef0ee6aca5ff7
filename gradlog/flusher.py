"""One background thread commits full blocks while training fills the others.

The blocks form a ring, and two counters say all there is to know: chunks handed over, set by the training thread
alone, and chunks done, set by the background thread alone. Handing over the same chunk twice changes nothing, so
that training may be interrupted at any line and simply come back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from gradlog.buffer import Block

_POLL = 0.002


class Flusher:
    """Commits blocks in the order of their chunks.

    Parameters
    ----------
    commit : callable
        Makes a block durable. What it raises is kept in ``error`` and ends the thread's work.
    ring : sequence of Block
        Chunk i lives in block i modulo the ring's length; allocated once.
    """

    def __init__(self, commit: Callable[[Block], None], ring: Sequence[Block]) -> None:
        self._commit = commit
        self._ring = ring
        self._handed = 0
        self.done = 0
        self.error: Exception | None = None
        self._last: Callable[[], None] | None = None
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # in C: safe against interrupts, unlike Condition
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def hand_over(self, chunk: int) -> None:
        """Let every chunk up to this one be committed."""
        self._handed = chunk + 1
        self._start()

    def room(self, chunk: int, wait: float) -> Block | None:
        """Return the block of a chunk once its former rows are committed; None if that takes over ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while chunk - len(self._ring) >= self.done:
            if self.error is not None or time.monotonic() >= deadline:
                return None
            time.sleep(_POLL)
        return self._ring[chunk % len(self._ring)]

    def close(self, last: Callable[[], None], wait: float) -> bool:
        """Commit what was handed over, then call ``last``; False if the disk kept that for over ``wait`` seconds."""
        self._last = last
        try:
            self._start()
        except RuntimeError:  # the interpreter is going down and starts no more threads
            self._work()
        if self._thread is not None:
            self._thread.join(wait)
            if self._thread.is_alive():
                return False
        return True

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="gradlog-flush", daemon=True)
            thread.start()
            self._thread = thread
        self._wake.put(None)

    def _run(self) -> None:
        while not self._work():
            self._wake.get()

    def _work(self) -> bool:
        """Commit all there is; tell whether that was the end."""
        with self._turn:
            last = self._last
            try:
                while self.error is None and self.done < self._handed:
                    self._commit(self._ring[self.done % len(self._ring)])
                    self.done += 1
            except Exception as error:
                self.error = error
            if last is not None:
                last()
            return last is not None
