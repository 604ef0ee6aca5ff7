"""One background thread commits full blocks while training fills the others.

The blocks form a ring, and two counters say all there is to know: chunks handed over, set by the training thread
alone, and chunks done, set by the background thread alone. Handing over the same chunk twice changes nothing, so
that training may be interrupted at any line and simply come back.

A store that refuses is asked again, after longer and longer pauses. Training goes on meanwhile: it puts a new block in
the place of one that was not committed in time, and the rows of that are read back from their journal.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence

from gradlog.errors import StoreUnavailableError
from gradlog.storage.block import Block

_POLL = 0.002


class Flusher:
    """Commits blocks in the order of their chunks.

    Parameters
    ----------
    commit : callable
        Makes the chunk of a number durable. StoreUnavailableError has it called again later; anything else that it
        raises is kept in ``error`` and ends the thread's work.
    ring : sequence of Block
        Chunk i lives in block i modulo the ring's length; allocated once.
    pauses : sequence of float
        Seconds before a store that refused is asked again; the last one from then on.

    Attributes
    ----------
    done : int
        Chunks that are committed.
    error : Exception or None
        What ended the work.
    refusal : StoreUnavailableError or None
        Why the newest attempt failed, while the store refuses.
    """

    def __init__(self, commit: Callable[[int], None], ring: Sequence[Block], pauses: Sequence[float]) -> None:
        self._commit, self._pauses = commit, pauses
        self._ring = list(ring)
        self._handed = 0
        self.done = 0
        self.error: Exception | None = None
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

    def hand_over(self, chunk: int) -> None:
        """Let every chunk up to this one be committed."""
        self._handed = chunk + 1
        self._start()

    def room(self, chunk: int, wait: float) -> Block | None:
        """Return the block of a chunk once its former rows are committed; None if that takes over ``wait`` seconds.

        A store that begins to refuse meanwhile is not waited for.
        """
        deadline = time.monotonic() + wait
        while chunk - len(self._ring) >= self.done:
            if self.error is not None or self.refusal is not None or time.monotonic() >= deadline:
                return None
            time.sleep(_POLL)
        return self._ring[chunk % len(self._ring)]

    def replace(self, block: Block) -> None:
        """Replace an uncommitted block. A reader that already holds the old one keeps it."""
        self._ring[block.index % len(self._ring)] = block

    def held(self, chunk: int) -> Block | None:
        """Return the block of a chunk that was handed over, unless it was replaced."""
        block = self._ring[chunk % len(self._ring)]
        return block if block.index == chunk else None

    def close(self, last: Callable[[], None], wait: float) -> bool:
        """Commit what was handed over, then call ``last``; False if the store kept that for over ``wait`` seconds."""
        self._last = last
        try:
            self._start()
        except RuntimeError:  # the interpreter is going down and starts no more threads
            return self._work()
        if self._thread is not None:
            self._thread.join(wait)
            if self._thread.is_alive():
                self._given_up = True
                self._wake.put(None)
                return False
        return True

    def _start(self) -> None:
        if not self._ended and not self.alive:  # nor does one live that an interrupt kept from its beginning
            self._thread = threading.Thread(target=self._run, name="gradlog-flush", daemon=True)
            self._thread.start()
        self._wake.put(None)

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
        """Commit all there is; tell whether that was the end."""
        with self._turn:
            last = self._seen = self._last
            try:
                self._commit_all()
                if last is not None:
                    last()
            except StoreUnavailableError as refusal:
                self.refusal, self._refused = refusal, self._refused + 1
                return False
            self.refusal, self._refused = None, 0
            return last is not None

    def _commit_all(self) -> None:
        try:
            while self.error is None and self.done < self._handed and not self._given_up:
                self._commit(self.done)
                self.done += 1
                self.refusal, self._refused = None, 0
        except StoreUnavailableError:
            raise
        except Exception as error:
            self.error = error
