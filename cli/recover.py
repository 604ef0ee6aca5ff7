"""``gradlog recover``: rows that a writer left in its journal."""

from __future__ import annotations

import click

from gradlog.cli import plain_text


@click.command()
@click.argument("run")
@click.option("--force", is_flag=True, help="Also of writers that may still live, as on another machine.")
def recover(run: str, force: bool) -> None:
    """Commit the rows of RUN that wait in a journal or spool.

    A writer that was killed leaves them, and one whose object store did not answer until its end. Then call this on the
    machine that recorded, with the GRADLOG_SPOOL that it had. Opening the run with mode="a" does the same.
    """
    from gradlog.recorder.setup import recover as commit_the_rest

    for segment in commit_the_rest(run, force):
        live = "; its writer may still live (--force if not)" if segment.live else ""
        click.echo(f"{segment.segment}  {segment.status}, {plain_text.count(segment.rows, 'row')} recovered{live}")
