"""One module a framework; each imports its framework when it is imported itself, and none needs another."""

from __future__ import annotations

from gradlog.errors import MissingDependencyError


def missing(extra: str, error: ImportError) -> MissingDependencyError:
    """Say which command installs a framework.

    >>> print(missing("optax", ImportError("No module named 'jax'")))
    gradlog.integrations.optax: No module named 'jax'; install it with: pip install 'gradlog-zarr[optax]'
    """
    return MissingDependencyError(
        f"gradlog.integrations.{extra}: {error}; install it with: pip install 'gradlog-zarr[{extra}]'"
    )
