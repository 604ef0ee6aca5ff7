"""One BLAS thread inside tasks: threads inside threads made the Gram thirty times slower."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import threadpoolctl  # type: ignore[import-untyped]  # it ships no types

_lock = threading.Lock()
_users = 0
_limiter: Any = None


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Pin BLAS to one thread while any task of this process is inside, whichever enters first or leaves last."""
    global _users, _limiter
    with _lock:
        if _users == 0:
            _limiter = threadpoolctl.ThreadpoolController().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _let_go()
                _limiter.restore_original_limits()
                _limiter = None
                _let_go()


def _let_go() -> None:
    """Since its release 3.8 threadpoolctl lets only the thread that set a limit change it: give that right up."""
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
