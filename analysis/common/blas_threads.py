"""One BLAS thread inside tasks: threads inside threads made the Gram thirty times slower."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import threadpoolctl  # type: ignore[import-untyped]  # it ships no types

_lock = threading.Lock()
_users = 0
_restore: Callable[[], None] | None = None


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Pin BLAS to one thread while any task of this process is inside, whichever enters first or leaves last."""
    global _users, _restore
    with _lock:
        if _users == 0:
            _restore = threadpoolctl.ThreadpoolController().limit(limits=1, user_api="blas").restore_original_limits
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _restore is not None:
                _let_go()
                _restore()
                _restore = None
                _let_go()


def _let_go() -> None:
    """Since its release 3.8 threadpoolctl lets only the thread that set a limit change it: give that right up."""
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
