"""Train and record the eight rows of the paper's table, then print what was measured beside what was printed.

    python -m examples.paper.table [--runs DIR] [--small] [--format table|markdown|latex|json] [--figure FILE.svg]

Rows that are complete are not trained again, and one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.paper.measured import FORMATS, Measured, measure, page
from examples.paper.rows import ROWS, Row
from examples.paper.session import train_once
from gradlog.analysis import analyze


def main(argv: list[str] | None = None) -> int:
    """Return 1 if a row could not be made."""
    parser = argparse.ArgumentParser(prog="python -m examples.paper.table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"default: all of {', '.join(r.name for r in ROWS)}")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: runs/paper, or runs/paper-small")
    parser.add_argument("--steps", type=int, help="steps of every row; default: 200, small 30")
    parser.add_argument("--small", action="store_true", help="much smaller models, to see that all works")
    parser.add_argument("--data", choices=["real", "offline"], default="offline")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", choices=[*FORMATS, "json"], default="table")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the table: .svg, .png or .pdf")
    parser.add_argument("--windows", type=Path, metavar="FILE", help="also draw kappa over time")
    o = parser.parse_args(argv)
    unknown = sorted(set(o.names) - {row.name for row in ROWS})
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}")
    o.runs = o.runs or Path("runs") / ("paper-small" if o.small else "paper")
    measured, failed = [], 0
    for row in ROWS:
        if o.names and row.name not in o.names:
            continue
        try:
            measured.append(measure(row, make(row, o)))
        except SystemExit as reason:
            failed += 1
            print(f"{row.name}: left out: {reason}", file=sys.stderr)
    if measured:
        print(page(measured, o.format))
        draw(measured, o)
    return min(failed, 1)


def draw(measured: list[Measured], o: argparse.Namespace) -> None:
    """Draw what was asked for; matplotlib loads only then."""
    if o.figure:
        from examples.paper.figures import draw_rows

        draw_rows(measured, o.figure)
    if o.windows:
        from examples.paper.figures import draw_windows

        options = {"predictors": ["last"], "by_group": False, "null_rank": False}
        windows = [analyze(str(o.runs / f"{m.row.name}.zarr"), window=m.steps // 10, **options) for m in measured]
        draw_windows(measured, windows, o.windows)


def make(row: Row, o: argparse.Namespace) -> Path:
    """Train one row unless it is complete, and return its run."""
    flags = ["--exact", f"--threads={o.threads}", f"--data={o.data}", f"--device={o.device}", *row.flags]
    flags += ["--small", "--steps=30"] if o.small else []
    flags += [f"--steps={o.steps}"] if o.steps else []
    return train_once(row.script, o.runs / f"{row.name}.zarr", flags)


if __name__ == "__main__":
    sys.exit(main())
