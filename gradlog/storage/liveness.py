"""Whether the process that writes a run may still be alive."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path


def process_identity() -> dict[str, object]:
    """Who writes: enough for a later process on the same host to tell whether this one still lives."""
    pid = os.getpid()
    return {"pid": pid, "started": _start_time(pid), "host_id": _host_id()}


def may_be_alive(process: Mapping[str, object]) -> bool:
    """Whether the writer described by ``process_identity`` could still be writing. Unknown hosts: yes."""
    return lives(process) is not False


def lives(process: Mapping[str, object]) -> bool | None:
    """Whether the process described by ``process_identity`` is there; None where this host cannot tell."""
    if process.get("host_id") != _host_id():
        return None
    pid, started = process.get("pid"), process.get("started")
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return None
    if _stat(pid, 0) == "Z":  # killed, but its parent has not asked yet
        return False
    return _start_time(pid) == started if started else None


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot, where the system tells it (Linux)."""
    return _stat(pid, 19)


def _stat(pid: int, field: int) -> str:
    """One field of what Linux tells about a process, counted from its state; elsewhere empty."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[field]
    except (OSError, IndexError):
        return ""


def _host_id() -> str:
    """Digest the host's name and boot, so that liveness can be judged without recording the name."""
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return hashlib.blake2b(f"{socket.gethostname()}|{boot}".encode(), digest_size=8).hexdigest()
