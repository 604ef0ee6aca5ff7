"""Results into files: all or nothing, and never over something else by accident."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import xarray

    from gradlog.analysis.comparison.compare import Comparison
    from gradlog.analysis.results.forms.json_document import Document


def ending_in(*suffixes: str) -> Callable[[click.Context, click.Parameter, str | None], Path | None]:
    """Make a check of an option's file name, before anything is computed."""

    def check(context: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
        if value is not None and Path(value).suffix.lower() not in suffixes:
            raise click.BadParameter(f"{value!r} ends in none of {', '.join(suffixes)}")
        return None if value is None else Path(value)

    return check


destination = ending_in(".json", ".nc", ".zarr")
page = ending_in(".html", ".htm")
picture = ending_in(".png", ".svg", ".pdf")


def draw(shown: xarray.Dataset | Comparison, target: Path, force: bool) -> None:
    """Draw the overview of a result, or several runs."""
    from gradlog.analysis.comparison.compare import Comparison
    from gradlog.analysis.report import plots

    with replacing(target, force) as fresh:
        plots.save_comparison(shown, fresh) if isinstance(shown, Comparison) else plots.save(shown, fresh)


def require_free(target: Path, force: bool) -> None:
    """Refuse a target that must not be written.

    Raises
    ------
    FileExistsError
        It exists and ``force`` is off, or it is a folder that holds no result of ours (a recorded run, say).
    FileNotFoundError
        Its folder does not exist.
    PermissionError
        Nothing can be written to its folder.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no folder {target.parent}")
    if target.exists():
        if not force:
            raise FileExistsError(f"{target} exists; --force replaces it")
        if target.is_dir() and not _is_result(target):
            raise FileExistsError(f"{target} is a folder that gradlog did not export; choose another path")
    try:  # permission bits do not tell of read-only mounts and their like
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise PermissionError(f"{target}: the folder {target.parent} takes no files ({reason})") from error


def write_text(text: str, target: Path, force: bool) -> None:
    """Write beside the target, then move into place."""
    with replacing(target, force) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def replacing(target: Path, force: bool) -> Iterator[Path]:
    """Yield a path beside the target; what is there in the end takes the target's place, all or nothing.

    Raises
    ------
    OSError
        As of ``require_free``.
    """
    require_free(target, force)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        yield fresh
        if target.is_dir():
            os.replace(target, Path(folder) / "replaced")
        os.replace(fresh, target)


def save(result: xarray.Dataset, document: Document, target: Path, force: bool) -> None:
    """Write ``result`` (.nc, .zarr) or ``document`` (.json) beside the target, then move it into place."""
    from gradlog.analysis.results.forms.export import export_result

    suffix = target.suffix.lower()
    with replacing(target, force) as fresh:
        if suffix == ".json":
            fresh.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        else:
            export_result(result, fresh, "netcdf" if suffix == ".nc" else "zarr")


def _is_result(folder: Path) -> bool:
    try:
        attributes = json.loads((folder / "zarr.json").read_text())["attributes"]
        return attributes["title"] in ("gradlog analysis", "gradlog run")
    except (OSError, ValueError, KeyError, TypeError):
        return False
