"""System calls that fail, one after another, under each verb: what is acknowledged, and what is there afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import GradlogError, NotARunError
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from tests.helpers.forks import fork

LIKE = {"w": np.zeros(12)}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
CALLS = (
    "open", "write", "pwrite", "ftruncate", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "lstat", "listdir",
    "scandir", "fsync", "fdatasync",
)  # fmt: skip


class Faults:
    """Have the system calls of this process on files below a folder fail: that of one number, or all from there on.

    The process is a child that ends after its verb; nothing is put back.
    """

    def __init__(self, folder: Path, number: int, error: int, lasting: bool) -> None:
        self._folder, self._number, self._error, self._lasting = str(folder), number, error, lasting
        self._ours: set[int] = set()
        self.calls = 0
        for name in CALLS:
            setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            target = args[0] if args else "."
            inside = target in self._ours if isinstance(target, int) else os.fspath(target).startswith(self._folder)
            if inside or options.get("dir_fd") in self._ours or options.get("src_dir_fd") in self._ours:
                self.calls += 1
                if self.calls - 1 == self._number or (self._lasting and self.calls > self._number >= 0):
                    raise OSError(self._error, os.strerror(self._error), str(target))
            found = call(*args, **options)
            if call.__name__ == "open":
                (self._ours.add if inside else self._ours.discard)(found)
            return found

        return called


def gradient(t: int) -> dict[str, np.ndarray]:
    return {"w": np.full(12, t + 1.0)}


def record(path: Path, mode: str = "a") -> list[int]:
    """Record twenty steps; those that were acknowledged: after which the logger has no reason to have ended."""
    told = []
    log = gradlog.open(path, like=LIKE, k="exact", chunk=8, mode=mode, hostname=False)
    t = log.state_dict().get("step", 0)
    for step in range(t, t + 20):
        log.step(gradient(step), loss=1.0)
        if not log.reason:
            told.append(step)
    log.parameters(LIKE)
    log.close()
    return told


def replace(path: Path) -> list[int]:
    return record(path, "w")


def compacts(path: Path) -> list[int]:
    compact(path)
    return []


def recovers(path: Path) -> list[int]:
    recover(path, force=True)
    return []


def nothing(path: Path) -> None:
    """Where there is no run yet."""


def finished(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            record(path)


def killed(path: Path) -> None:
    """One segment that was closed, and one whose writer was killed: a chunk, and rows in a journal."""
    record(path)
    child = os.fork()
    if child == 0:
        log = gradlog.open(path, like=LIKE, k="exact", chunk=8, mode="a", hostname=False)
        for step in range(20, 32):
            log.step(gradient(step), loss=1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


STORIES: dict[str, tuple[Callable[[Path], None], Callable[[Path], list[int]]]] = {
    "record": (nothing, record),
    "resume": (killed, record),
    "recover": (killed, recovers),
    "compact": (finished, compacts),
    "replace": (finished, replace),
}


@dataclasses.dataclass
class Tally:
    """What happened under all faults together. ``unclear``: an error in more than a line, or of an unexpected kind."""

    faults: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    unreadable: int = 0
    touched: int = 0
    raised: int = 0
    unclear: int = 0
    stuck: int = 0

    @property
    def failures(self) -> int:
        return self.lost + self.wrong + self.unreadable + self.touched + self.raised + self.unclear + self.stuck

    def __str__(self) -> str:
        return (
            f"{self.faults} faults, {self.acknowledged:,} acknowledged rows: {self.lost} lost, {self.wrong} wrong, "
            f"{self.unreadable} runs unreadable, {self.touched} times other files touched, {self.raised} errors raised "
            f"into training, {self.unclear} unclear errors, {self.stuck} runs that do not go on"
        )


class Case:
    """A verb, on a fresh copy of the run that it meets."""

    def __init__(self, folder: Path, story: str) -> None:
        self._folder, self.story = folder, story
        self._template, self._path = folder / f"{story}.template", folder / story / "r.zarr"
        self._before: list[int] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside zarr's idle thread
            STORIES[story][0](self._template)
        if self._template.exists():
            self._before = open_run(self._template).steps.tolist()

    def run(self, number: int, error: int, lasting: bool, tally: Tally | None = None) -> int:
        """Let call ``number`` fail, look, and tell how many calls there were."""
        shutil.rmtree(self._path.parent, ignore_errors=True)
        self._path.parent.mkdir(parents=True)
        other = self._path.parent / "zarr.json.1-1.partial"
        other.write_text("mine")
        if self._template.exists():
            shutil.copytree(self._template, self._path)
        answer = self._in_child(number, error, lasting)
        if tally is not None:
            tally.faults += 1
            tally.acknowledged += len(answer["told"])
            tally.raised += answer["kind"] == "raised"
            tally.unclear += answer["kind"] == "unclear"
            tally.touched += sorted(p.name for p in self._path.parent.iterdir() if p != self._path) != [other.name]
            tally.touched += other.read_text() != "mine"
            if answer["kind"] in ("raised", "unclear"):
                print(f"  {self.story} call {number} {errno.errorcode[error]}: {answer['text']}")
            kept = [] if self.story == "replace" else self._before
            self._look(sorted({*kept, *answer["told"]}), tally, f"{self.story} call {number} {errno.errorcode[error]}")
        return int(answer["calls"])

    def _in_child(self, number: int, error: int, lasting: bool) -> dict[str, Any]:
        read, write = os.pipe()
        child = fork()
        if child == 0:
            warnings.simplefilter("ignore")
            faults = Faults(self._path, number, error, lasting)
            answer: dict[str, Any] = {"told": [], "kind": "", "text": ""}
            try:
                answer["told"] = STORIES[self.story][1](self._path)
            except (OSError, GradlogError) as failure:
                clear = self.story in ("compact", "recover") and "\n" not in str(failure)
                answer |= {"kind": "said" if clear else "raised", "text": traceback.format_exc()}
            except BaseException:
                answer |= {"kind": "unclear", "text": traceback.format_exc()}
            data = json.dumps(answer | {"calls": faults.calls}).encode()
            with os.fdopen(write, "wb") as pipe:
                pipe.write(data)
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        found: dict[str, Any] = json.loads(data)
        return found

    def _look(self, least: list[int], tally: Tally, what: str) -> None:
        """Compare every row, and see that the run goes on once the system is well again."""
        try:
            run = open_run(self._path)
            steps, rows = run.steps.tolist(), run.rows.read(0, len(run.steps)).reshape(len(run.steps), 12)
            missing = set(least) - set(steps)
            tally.lost += len(missing)
            if missing:
                print(f"  {what}: lost {sorted(missing)}")
            tally.wrong += sum(not np.array_equal(row, gradient(t)["w"]) for t, row in zip(steps, rows, strict=True))
        except NotARunError:
            tally.lost += len(least)
        except GradlogError as failure:
            print(f"  {what}: {failure}")
            tally.unreadable += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if len(record(self._path)) < 20:
                print(f"  {what}: does not go on")
                tally.stuck += 1


def campaign(folder: Path, faults: int, seed: int, stories: tuple[str, ...] = tuple(STORIES)) -> Tally:
    """Fail so many system calls, spread evenly over verbs, places and errors."""
    tally, rng, cases = Tally(), random.Random(seed), []
    for story in stories:
        case = Case(folder, story)
        calls = case.run(-1, 0, False)
        cases += [(case, n, error, lasting) for n in range(calls) for error in ERRORS for lasting in (False, True)]
    for case, number, error, lasting in rng.sample(cases, min(faults, len(cases))):
        case.run(number, error, lasting, tally)
        if tally.faults % 100 == 0:
            print(tally, flush=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    return tally
