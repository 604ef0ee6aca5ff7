"""One BLAS thread inside tasks: threads inside threads made the Gram thirty times slower."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

_lock = threading.Lock()
_users = 0
_limiter: Any = None


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Pin BLAS to one thread while any task of this process is inside."""
    global _users, _limiter
    with _lock:
        if _users == 0:
            _limiter = ThreadpoolController().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limiter.restore_original_limits()
                _limiter = None
