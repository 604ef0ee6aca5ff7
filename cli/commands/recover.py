"""``gradlog recover``: commit the rows that a writer left in its journal."""

from __future__ import annotations

import click

from gradlog.analysis.common.text import counted
from gradlog.cli import options


@options.command("gradlog recover run.zarr")
@click.argument("run")
@options.selected("--force", is_flag=True, help="Also rows of writers that may be alive, such as on another machine.")
def recover(run: str, force: bool) -> None:
    """Commit rows of RUN left behind by a killed or disconnected recorder.

    If RUN is a URL, call this on the machine that recorded, with the same GRADLOG_SPOOL. Opening the run with mode="a"
    does the same.
    """
    from gradlog.recorder.recovery import recover as commit_the_rest

    for segment in commit_the_rest(run, force):
        live = "; its writer may still live (--force if not)" if segment.live else ""
        where = f", in {segment.path}" if segment.path else ""
        click.echo(f"{segment.segment}  {segment.status}, {counted(segment.rows, 'row')} recovered{where}{live}")
