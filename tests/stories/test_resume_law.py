"""Killed, resumed and rewound however often, a run reads as if it had never been interrupted, bit for bit."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.storage.sink import LocalSink
from tests.helpers.forks import fork

SHAPES = {"a": (3, 4), "b": (5,)}


class Life(NamedTuple):
    """One process: how far it goes back, how many steps it takes, and where it ends.

    ``end`` is None for a proper close, "step" for a kill after its last step, or (number, after) for a kill at that
    write of the store, before it or right after. Gradients of another ``salt`` are others.
    """

    back: int
    steps: int
    end: str | tuple[int, bool] | None
    salt: int


class Options(NamedTuple):
    chunk: int
    ranks: int
    k: Any
    codec: str
    bits: int
    every: int

    def open(self, path: Path, rank: int, **more: Any) -> gradlog.Logger:
        like = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        return gradlog.open(
            path, like, k=self.k, chunk=self.chunk, codec=self.codec, sketch_bits=self.bits, every=self.every,
            rank=rank, groups="tensors", hostname=False, on_error="raise", **more,
        )  # fmt: skip


LIVES = st.builds(
    Life,
    back=st.integers(0, 12),
    steps=st.integers(0, 20),
    end=st.none() | st.just("step") | st.tuples(st.integers(0, 40), st.booleans()),
    salt=st.integers(0, 1),
)
OPTIONS = st.builds(
    Options,
    chunk=st.sampled_from([1, 2, 4, 8]),
    ranks=st.integers(1, 2),
    k=st.sampled_from([4, "exact"]),
    codec=st.sampled_from(["raw", "bitshuffle-zstd"]),
    bits=st.sampled_from([23, 10]),
    every=st.sampled_from([1, 1, 2]),
)


def gradient(t: int, rank: int, salt: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([t, rank, salt])
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def scalars(t: int, salt: int) -> dict[str, float]:
    late = {f"late/{t // 10}": float(t)} if t > 9 else {}
    return {"loss": 1.0 / (t + 1 + salt), "wall_time": float(t), **late}


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process; how it ended."""
    child = fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_at(write: int, after: bool) -> None:
    """SIGKILL this process at its store's write number ``write``."""
    put, left = LocalSink.put, iter(range(write, -1, -1))

    def put_or_die(self: LocalSink, key: str, data: Any) -> None:
        last = next(left, 1) == 0
        if after or not last:
            put(self, key, data)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    LocalSink.put = put_or_die  # type: ignore[method-assign]


def live(path: Path, options: Options, life: Life, start: int, pipe: int) -> None:
    logs = [options.open(path, rank, mode="a", first_step=start) for rank in range(options.ranks)]
    if isinstance(life.end, tuple):
        kill_at(*life.end)
    for t in range(start, start + life.steps):
        for rank, log in enumerate(logs):
            log.step(gradient(t, rank, life.salt), t, **scalars(t, life.salt))
        os.write(pipe, t.to_bytes(4, "little"))
    if life.end == "step":
        os.kill(os.getpid(), signal.SIGKILL)
    for log in logs:
        log.close()


def lived(path: Path, options: Options, life: Life, start: int) -> list[int]:
    """Steps that were acknowledged before the process ended."""
    read, write = os.pipe()
    status = in_child(lambda: live(path, options, life, start, write))
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed if life.end == "step" else killed or status == 0
    return np.frombuffer(data, "<u4").tolist()


def whole(path: Path, view: Any = "latest") -> dict[str, Any]:
    run = open_run(path, view)
    return {
        "step": run.steps,
        "flags": run.flags,
        "sketch": run.rows.read(0, len(run.steps)),
        "norm2": run.group_norm2,
        **{f"scalar {name}": values for name, values in sorted(run.scalar_columns.items())},
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def the_law(folder: Path, options: Options, lives: list[Life]) -> None:
    path, rows, again = folder / "r.zarr", 0, 0
    salts: dict[int, int] = {}  # of each step that an uninterrupted run would show
    for life in [*lives, Life(0, 3, None, 0)]:
        start = max(0, max(salts, default=-1) + 1 - life.back)
        done = lived(path, options, life, start)
        run = open_run(path)
        asked = [t for t in range(start, start + life.steps) if t % options.every == 0]
        # The last row may have come through without its acknowledgement.
        held = min(_rows_of_newest(run, rank) for rank in range(options.ranks))
        assert sum(t % options.every == 0 for t in done) <= held <= len(asked)
        kept = asked[:held]
        again += len(salts.keys() & set(kept))
        salts = {t: s for t, s in salts.items() if not kept or t < kept[0]} | dict.fromkeys(kept, life.salt)
        rows += held
        assert run.steps.tolist() == sorted(salts)
    for rank in range(options.ranks):
        with options.open(folder / "plain.zarr", rank, mode="a") as log:
            for t, salt in sorted(salts.items()):
                log.step(gradient(t, rank, salt), t, **scalars(t, salt))
    found, uninterrupted = whole(path), whole(folder / "plain.zarr")
    # Names that only abandoned rows used are still there, all NaN.
    for name in [n for n in found if n not in uninterrupted]:
        assert np.isnan(found.pop(name)).all()
    assert_same(found, uninterrupted)
    assert len(whole(path, "all")["step"]) == rows
    assert check(path).problems == []
    relogged = open_run(path).relogged
    assert relogged["steps"] >= again
    if {life.salt for life in lives} == {0}:
        assert relogged["identical"] == relogged["steps"]


def _rows_of_newest(run: Any, rank: int) -> int:
    segments = [s for s in run.segments if s.header.rank == rank]
    return len(segments[-1].steps)


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(OPTIONS, st.lists(LIVES, min_size=1, max_size=4))
def test_resumed_equals_uninterrupted(options: Options, lives: list[Life]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        the_law(folder, options, lives)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_around_the_writes_of_a_flush(tmp_path: Path, after: bool) -> None:
    """Chunks, manifest, the arrays' metadata, the commit record, and the first chunk of the next flush."""
    options = Options(chunk=4, ranks=1, k=4, codec="raw", bits=23, every=1)
    for write in (0, 5, 6, 11, 12):
        the_law(tmp_path / str(write), options, [Life(0, 10, (write, after), 0), Life(3, 6, "step", 1)])


def test_the_law_notices_a_lost_row(tmp_path: Path) -> None:
    options = Options(chunk=4, ranks=1, k=4, codec="raw", bits=23, every=1)
    with options.open(tmp_path / "a", 0) as log:
        for t in range(9):
            log.step(gradient(t, 0, 0), t, **scalars(t, 0))
    with options.open(tmp_path / "b", 0) as log:
        for t in range(9):
            log.step(gradient(t, 0, t == 7), t, **scalars(t, 0))
    with pytest.raises(AssertionError, match="sketch"):
        assert_same(whole(tmp_path / "a"), whole(tmp_path / "b"))


def test_a_copy_at_any_moment_is_a_run_of_its_own(tmp_path: Path) -> None:
    """What a file system snapshot takes while a writer is at work: readable, sound, a prefix."""
    options = Options(chunk=4, ranks=1, k="exact", codec="raw", bits=23, every=1)
    with options.open(tmp_path / "r.zarr", 0) as log:
        for t in range(30):
            log.step(gradient(t, 0, 0), t)
            copy = tmp_path / f"{t}.zarr"
            snapshot(tmp_path / "r.zarr", copy)
            run = open_run(copy)
            assert run.steps.tolist() == list(range(t + 1))
            assert check(copy).problems == []


def snapshot(source: Path, target: Path) -> None:
    """Copy, and again if anything was written meanwhile."""
    before = None
    while before != (before := state_of(source)):
        shutil.rmtree(target, ignore_errors=True)
        for file in before:
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source / file, place)


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not file.is_dir():
                found[file.relative_to(folder).as_posix()] = (file.stat().st_mtime_ns, file.stat().st_size)
    return found
