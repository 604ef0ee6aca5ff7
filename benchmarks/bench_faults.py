"""Hundreds of system calls that fail (disk full, input/output error, permission) under every verb, one at a time.

    PYTHONPATH=. python benchmarks/bench_faults.py [FAULTS] [SEED]

What is looked at after each is in tests/helpers/faults.py: rows that are lost or wrong, other files that are touched,
errors that reach the training loop, and runs that do not go on afterwards.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.helpers.faults import campaign


def main(faults: int = 700, seed: int = 0) -> int:
    """Fail, look, tell; the exit status."""
    tally = campaign(Path(tempfile.mkdtemp()), faults, seed)
    print(tally)
    return int(tally.failures > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
