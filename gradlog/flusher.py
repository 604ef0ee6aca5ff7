"""One background thread commits full blocks while training fills the other one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from gradlog.buffer import Block


class Flusher:
    """Hands blocks between the training thread and the thread that commits them.

    Parameters
    ----------
    commit : callable
        Makes a block durable; what it raises is kept in ``error`` and ends the thread's work.
    spare : list of Block
        Blocks allocated in advance: as many flushes can be under way as there are spares.
    """

    def __init__(self, commit: Callable[[Block], None], spare: list[Block]) -> None:
        self._commit = commit
        self._work: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        for block in spare:
            self._free.put(block)
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None

    def submit(self, block: Block) -> None:
        """Queue a block; the thread starts with the first one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gradlog-flush", daemon=True)
            self._thread.start()
        self._work.put(block)

    def take(self, wait: float) -> Block | None:
        """Return a free block, or None if the disk gave none back within ``wait`` seconds."""
        try:
            return self._free.get(block=wait > 0, timeout=wait if wait > 0 else None)
        except queue.Empty:
            return None

    def close(self, wait: float) -> bool:
        """Finish what is queued and join the thread; False if it is still stuck after ``wait`` seconds."""
        if self._thread is None:
            return True
        self._work.put(None)
        deadline = time.monotonic() + wait
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            return False
        self._thread = None
        return True

    def _run(self) -> None:
        while (block := self._work.get()) is not None:
            if self.error is None:
                try:
                    self._commit(block)
                except Exception as error:
                    self.error = error
            self._free.put(block)
