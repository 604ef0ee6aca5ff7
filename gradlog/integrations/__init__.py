"""One module a framework; each imports its framework when it is imported itself, and none needs another."""

from __future__ import annotations

import os

from gradlog.errors import MissingDependencyError


def missing(extra: str, error: ImportError) -> MissingDependencyError:
    """Say which command installs a framework.

    >>> print(missing("optax", ImportError("No module named 'jax'")))
    gradlog.integrations.optax: No module named 'jax'; install it with: pip install 'gradlog-zarr[optax]'
    """
    return MissingDependencyError(
        f"gradlog.integrations.{extra}: {error}; install it with: pip install 'gradlog-zarr[{extra}]'"
    )


def numbered(path: str | os.PathLike[str], n: int) -> str:
    """Store of the n-th optimizer of a job, counted from 1: that of the first, with ``-n`` before its suffix.

    >>> numbered("gan.zarr", 1), numbered("s3://bucket/gan.zarr", 2)
    ('gan.zarr', 's3://bucket/gan-2.zarr')
    """
    stem, suffix = os.path.splitext(os.fspath(path).rstrip("/"))
    return f"{stem}{f'-{n}' if n > 1 else ''}{suffix}"
