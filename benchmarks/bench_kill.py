"""SIGKILL at a thousand random moments of every verb: rows that are lost or wrong, other files that are touched.

    PYTHONPATH=. python benchmarks/bench_kill.py [KILLS] [SEED]

The verbs (open, step, join, rewind, close, resume, compact, recover, replace) and what is looked at after each kill are
those of tests/helpers/kills.py. A run is killed and continued ten times, then audited, then another one begins: a
store with a thousand segments would mostly measure how long it takes to open one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.helpers.kills import campaign


def main(kills: int = 1000, seed: int = 0) -> int:
    """Kill, look, tell; the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(Path(folder), kills, seed)
    print(tally)
    return int(tally.failures > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
