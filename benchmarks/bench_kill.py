"""SIGKILL at a thousand random moments: acknowledged steps that are lost, rows that are wrong, opens that fail.

    PYTHONPATH=. python benchmarks/bench_kill.py [KILLS] [SEED]

The writer and its rows are those of tests/test_kill.py. A run is killed and continued ten times, then audited, then
another one begins: a store with a thousand segments would mostly measure how long it takes to open one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from gradlog.analysis import open_run
from gradlog.analysis.audit import examine, open_files
from gradlog.errors import GradlogError

LIVES = 10
LONGEST = 0.03
"""Seconds between the first acknowledged step and the kill, at most: some hundred steps and dozens of flushes."""


@dataclasses.dataclass
class Tally:
    """What happened in all kills together."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    failed: int = 0
    problems: int = 0
    unborn: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.acknowledged:,} acknowledged steps: {self.lost} lost, {self.wrong} wrong rows, "
            f"{self.failed} failed opens, {self.problems} problems in audits, {self.unborn} writers died by themselves"
        )


def load_test() -> ModuleType:
    """Load the test, for its writer."""
    spec = importlib.util.spec_from_file_location("test_kill", Path(__file__).parent.parent / "tests" / "test_kill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kill_one(test: ModuleType, path: Path, delay: float) -> list[int]:
    """Record in a child, kill it ``delay`` seconds after its first step; the steps that it acknowledged."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            test.child(path, write)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        first = pipe.read(8)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        data = first + pipe.read()
    return np.frombuffer(data[: len(data) - len(data) % 8], "<u8").tolist()


def look(test: ModuleType, path: Path, known: int, tally: Tally) -> int:
    """Open after a kill and compare every row; how many rows there are."""
    try:
        run = open_run(path)
        rows = run.rows.read(0, len(run.steps))
    except GradlogError as error:
        print(f"  {path.name}: {error}")
        tally.failed += 1
        return known
    steps = run.steps.tolist()
    tally.lost += len(set(range(known)) - set(steps))
    wrong = [t for t, row in zip(steps, rows, strict=True) if not np.array_equal(row, test.expected(t))]
    tally.wrong += len(wrong) + (steps != list(range(len(steps))))
    return len(steps)


def main(kills: int = 1000, seed: int = 0) -> Tally:
    """Kill, look, tell."""
    test, rng, tally = load_test(), random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        path, known = Path(folder) / "0.zarr", 0
        for kill in range(kills):
            if kill % LIVES == 0:
                path, known = Path(folder) / f"{kill}.zarr", 0
            steps = kill_one(test, path, rng.uniform(0, LONGEST))
            tally.kills += 1
            tally.unborn += not steps
            tally.acknowledged += len(steps)
            known = look(test, path, max([known, *(t + 1 for t in steps[-1:])]), tally)
            if kill % LIVES == LIVES - 1:
                tally.problems += len(examine(open_files(path)).problems)
            if kill % 100 == 99:
                print(tally, flush=True)
    return tally


if __name__ == "__main__":
    result = main(*map(int, sys.argv[1:]))
    print(result)
    sys.exit(bool(result.lost or result.wrong or result.failed or result.problems or result.unborn))
