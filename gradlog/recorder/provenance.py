"""What an auditor wants to know about the process that recorded: versions, command, code state, host."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping

import numpy as np

from gradlog.format import masking
from gradlog.recorder.options import RecordingOptions

_PACKAGES = ("gradlog-zarr", "numpy", "zarr", "torch", "transformers", "lightning", "jax", "optax", "keras")


def collect(options: RecordingOptions, notes: bool = True) -> dict[str, object]:
    """Provenance of this process; nothing here raises, and git gets two seconds for each of two questions.

    Parameters
    ----------
    options : RecordingOptions
        The user's notes, what is known of the optimizer, which parameters were chosen, and whether the host's name and
        the command line are kept.
    notes : bool
        Keep the user's notes; a segment that continues a run leaves them to the run.
    """
    chosen = {name: list(p) for name in ("include", "exclude") if (p := getattr(options, name)) is not None}
    argv = options.argv and os.environ.get("GRADLOG_ARGV") != "0"
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "argv": masking.command_line(sys.argv) if argv else [],
        "git": _git(),
        "hostname": socket.gethostname() if options.hostname else "",
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "cpus": os.cpu_count(),
        "notes": masking.facts(plain(options.notes or {})) if notes else {},
        **({"optimizer": plain(options.optimizer)} if options.optimizer else {}),
        **({"chosen": chosen} if chosen else {}),
    }


def plain(value: object) -> object:
    """Copy of a fact in the types that JSON has: numpy values as numbers and lists, paths and anything else as text.

    >>> from pathlib import PurePosixPath
    >>> plain({"lr": np.float32(0.5), "betas": (0.9, 0.99), "data": PurePosixPath("a/b")})
    {'lr': 0.5, 'betas': [0.9, 0.99], 'data': 'a/b'}
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return os.fsdecode(value) if isinstance(value, (os.PathLike, bytes)) else str(value)


def fingerprint(data: object) -> float:
    """Hash of batch ids or whatever else identifies a step's data, small enough to be kept as a scalar.

    Parameters
    ----------
    data : bytes, str, array or sequence of numbers or str
        In the order in which it was used: the hash depends on it.

    Returns
    -------
    float
        An integer below 2^48: exact in float64.

    Examples
    --------
    >>> log.annotate(batch=gradlog.fingerprint(indices))                      # doctest: +SKIP
    >>> fingerprint([3, 1, 2]) == fingerprint(np.array([3, 1, 2])), fingerprint([1, 2, 3]) == fingerprint([3, 1, 2])
    (True, False)
    """
    if isinstance(data, str):
        data = data.encode()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        array = np.asarray(data)
        if array.dtype.kind in "biu":
            array = array.astype("<i8")
        elif array.dtype.kind == "f":
            array = array.astype("<f8")
        elif array.dtype.kind == "U":
            array = np.char.encode(array, "utf-8")
        if array.dtype.kind not in "ifS":
            raise TypeError(f"fingerprint: expected numbers, str or bytes, got an array of dtype {array.dtype}")
        data = str(array.shape).encode() + array.tobytes()
    return float(int.from_bytes(hashlib.blake2b(data, digest_size=6).digest(), "big"))


def ended_by(error: BaseException) -> str:
    """Say that this ended the training, as a reason for ``Logger.close``; empty for an exit that reports success.

    >>> ended_by(ValueError("no data")), ended_by(SystemExit(0)), ended_by(SystemExit(2))
    ('training ended by ValueError: no data', '', 'training ended by SystemExit: 2')
    """
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return ""
    said = masking.text(" ".join(str(error)[:300].split()))
    return f"training ended by {type(error).__name__}" + (f": {said}" if said else "")


def uncaught() -> BaseException | None:
    """Return the exception that ends this process, as the interpreter notes it; none in a shell, which goes on."""
    return None if hasattr(sys, "ps1") or "ipykernel" in sys.modules else getattr(sys, "last_value", None)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git() -> dict[str, str | bool | None]:
    folder = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else os.getcwd()

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", *words],
                cwd=folder,
                capture_output=True,
                timeout=2,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        # names of changed files may be in any encoding
        return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = ask("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}
