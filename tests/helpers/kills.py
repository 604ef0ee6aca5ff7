"""Lives of a recorder that end by SIGKILL, one for each verb; what they acknowledged, and what is there afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.errors import GradlogError, NotARunError
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from tests.helpers.forks import fork

LIKE = {"w": np.zeros(12)}
UNIT = np.arange(12, dtype=np.float32)

Acknowledge = Callable[[int], object]


def start(path: Path, mode: str = "a") -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, k=16, chunk=8, mode=mode, hostname=False, on_error="raise")


def step(log: gradlog.Logger, told: Acknowledge, count: int, late: bool = False) -> None:
    """Record rows whose entries are small whole numbers: sketches of them are exact multiples of that of step 0."""
    for _ in range(count):
        t = log.state_dict()["step"]
        more = {"late": np.zeros(3)} if late else {}
        log.step({"w": UNIT * np.float32(t + 1), **more}, loss=float(t))
        told(t)


def steps(path: Path, told: Acknowledge) -> None:
    step(start(path), told, 10**9)


def joins(path: Path, told: Acknowledge) -> None:
    log = start(path)
    step(log, told, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.join({f"late{log.state_dict()['step']}": np.zeros(3)})
    step(log, told, 10**9)


def rewinds(path: Path, told: Acknowledge) -> None:
    log = start(path)
    state = log.state_dict()
    log.load_state_dict(state | {"step": max(0, state["step"] - 5)})
    step(log, told, 10**9)


def closes(path: Path, told: Acknowledge) -> None:
    while True:
        log = start(path)
        log.parameters({"w": UNIT})
        step(log, told, 11)
        log.close()


def opens(path: Path, told: Acknowledge) -> None:
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # closed with no rows
            start(path).close()


def compacts(path: Path, told: Acknowledge) -> None:
    while True:
        with contextlib.suppress(NotARunError):  # an earlier kill came before there was one
            compact(path)


def recovers(path: Path, told: Acknowledge) -> None:
    while True:
        with contextlib.suppress(NotARunError):
            recover(path)


def replaces(path: Path, told: Acknowledge) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step(start(path, "w"), told, 10**9)


RECORDING = (steps, joins, rewinds, closes, replaces)
VERBS = (steps, joins, rewinds, closes, opens, compacts, recovers, replaces)


@dataclasses.dataclass
class Tally:
    """What happened in all kills together.

    ``touched``: kills after which a file that is not the run's was changed, gone, or new.
    """

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    unreadable: int = 0
    touched: int = 0
    problems: int = 0
    died: int = 0

    @property
    def failures(self) -> int:
        return self.lost + self.wrong + self.unreadable + self.touched + self.problems + self.died

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.acknowledged:,} acknowledged rows: {self.lost} lost, {self.wrong} wrong, "
            f"{self.unreadable} runs unreadable, {self.touched} times other files touched, "
            f"{self.problems} problems in audits, {self.died} processes died by themselves"
        )


class World:
    """A run among other people's files, which is killed again and again."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self.path = folder / "r.zarr"
        self._others = {
            folder / "other" / "zarr.json": b"mine",
            folder / "other" / "c.0": b"",
            folder / "x.partial": b"p",
        }
        (folder / "other").mkdir(parents=True)
        for file, content in self._others.items():
            file.write_bytes(content)
        self._folder, self._tally, self._known = folder, tally, 0

    def kill(self, verb: Callable[[Path, Acknowledge], None], delay: float, first: bool) -> None:
        """Kill a process ``delay`` seconds after it began with a verb, or acknowledged its first row; then look."""
        read, write = os.pipe()
        child = fork()
        if child == 0:
            os.close(read)
            os.write(write, b"begun...")
            try:
                verb(self.path, lambda t: os.write(write, t.to_bytes(8, "little")))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            assert pipe.read(8) == b"begun..."
            told = pipe.read(8) if first else b""
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            told += pipe.read()
        acknowledged = np.frombuffer(told[: len(told) // 8 * 8], "<u8").tolist()
        self._tally.kills += 1
        self._tally.died += not os.WIFSIGNALED(status)
        self._tally.acknowledged += len(acknowledged)
        if verb is replaces:
            self._known = 0
        if verb is rewinds:  # its first row may be there, though nobody was told
            self._known = max(0, self._known - 5)
        self.look(max([self._known, *(t + 1 for t in acknowledged[-1:])]))

    def look(self, least: int) -> None:
        """Compare every row that a reader finds, and all files beside the run."""
        tally = self._tally
        names = {self.path.name, *(file.relative_to(self._folder).parts[0] for file in self._others)}
        here = {p.name for p in self._folder.iterdir()}
        tally.touched += not here <= names or any(f.read_bytes() != c for f, c in self._others.items())
        try:
            run = open_run(self.path)
            rows = run.rows.read(0, len(run.steps))
        except NotARunError:
            tally.lost += least
            self._known = 0
            return
        except GradlogError as error:
            print(f"  {error}")
            tally.unreadable += 1
            return
        found = run.steps.tolist()
        tally.lost += max(0, least - len(found))
        tally.wrong += found != list(range(len(found)))
        if len(found):
            whole = rows.reshape(len(rows), -1)
            expected = whole[0] * np.arange(1, len(rows) + 1, dtype=np.float32)[:, None]
            tally.wrong += int((whole != expected).any(axis=1).sum())
        self._known = len(found)

    def audit(self) -> None:
        """Count what an audit of the run calls a problem, after one more life and a compaction that end well."""
        with start(self.path) as log:
            step(log, lambda t: None, 3)
        compact(self.path)
        self.look(self._known + 3)
        problems = check(self.path).problems
        for problem in problems:
            print(f"  {problem}")
        self._tally.problems += len(problems)


def campaign(folder: Path, kills: int, seed: int, lives: int = 10, longest: float = 0.2) -> Tally:
    """Kill so many processes, ``lives`` of each run, at random moments of random verbs."""
    tally, rng = Tally(), random.Random(seed)
    while tally.kills < kills:
        world = World(folder / f"{tally.kills}", tally)
        for _ in range(min(lives, kills - tally.kills)):
            verb, first = rng.choice(VERBS), rng.random() < 0.6
            first = first and verb in RECORDING
            world.kill(verb, rng.uniform(0, 0.05 if first else longest), first)
        world.audit()
        if tally.kills % (10 * lives) == 0:
            print(tally, flush=True)
    return tally
