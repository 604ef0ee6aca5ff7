"""``gradlog compact``: a finished run in few files."""

from __future__ import annotations

import click

from gradlog.analysis.common.text import counted
from gradlog.cli import options


@options.command("gradlog compact run.zarr")
@click.argument("run")
def compact(run: str) -> None:
    """Rewrite the finished segments of RUN into few files.

    Every recorded byte and digest stays the same. The new files are read back before the old ones are deleted.
    """
    from gradlog.storage.compact import compact as rewrite

    for segment in rewrite(run):
        done = (
            f"left alone: it {segment.skipped}"
            if segment.skipped
            else f"{counted(segment.before, 'file')}, now {segment.after}"
        )
        click.echo(f"{segment.segment}  {done}")
