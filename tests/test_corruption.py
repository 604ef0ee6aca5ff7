"""Every kind of file, every kind of damage: reading or the audit notices, and never with a traceback of another kind.

Stores are held in memory, key by key, so that thousands of damaged ones can be read. What nobody can notice from the
store alone is listed in docs/format.md, section 11, and tested to be exactly so at the end.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from zarr.core.buffer import default_buffer_prototype

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit import Folder, examine
from gradlog.compact import compact
from gradlog.errors import GradlogError
from gradlog.sink import LocalSink

Bytes = dict[str, bytes]
SEGMENT, SECOND = "seg-000000-r0000", "seg-000001-r0000"
KINDS = {
    "root": r"zarr\.json",
    "segment": r"seg-\d+-r\d+/zarr\.json",
    "array": r"[^/]+/[a-z_0-9]+/zarr\.json",
    "manifest": r".*/manifest/\d+\.json",
    "manifests": r".*/manifest/all\.jsonl",
    "journal": r".*/\.journal-\d+",
    **{f"{a} chunk": rf".*/{a}/c\..*" for a in ("sketch", "group_norm2", "scalars", "step", "flags")},
    "shard": r".*/c/.*",
}


def gradient(t: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(t).normal(size=(5, 4)), "b": np.random.default_rng(t + 999).normal(size=6)}


def start(path: Path, **options: Any) -> gradlog.Logger:
    options = {"like": gradient(0), "k": 8, "chunk": 8, "groups": "tensors", "on_error": "raise", **options}
    return gradlog.open(path, mode="a", **options)


def fill(log: gradlog.Logger, steps: range) -> None:
    for t in steps:
        late = {f"late/{i}": float(i * t) for i in range(17)} if t >= 9 else {}
        log.step(gradient(t), t, loss=1 / (t + 1), **late)


def leave_unfinished(path: Path, rank: int = 0) -> None:
    """Two chunks committed, a full journal and a started one: the process is killed while a flush hangs."""
    child = os.fork()
    if child == 0:
        try:
            log = start(path, rank=rank)
            fill(log, range(17))
            deadline = time.monotonic() + 60
            while (path / f"seg-000000-r{rank:04d}/.journal-000001").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            log._recording._writer.perform = lambda *a: signal.pause()
            fill(log, range(17, 29))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def content(path: Path) -> Bytes:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


class InMemory:
    """Files of a run for the audit."""

    def __init__(self, files: Bytes) -> None:
        self._files = files

    def get(self, key: str) -> bytes | None:
        return self._files.get(key)

    def keys(self) -> list[str]:
        return sorted(self._files)


def read(files: Bytes, view: Any = "all") -> dict[str, Any]:
    """Everything that a reader gives."""
    buffer = default_buffer_prototype().buffer
    run = open_run(zarr.storage.MemoryStore({k: buffer.from_bytes(v) for k, v in files.items()}), view)
    scalars = run.scalar_columns
    return {
        "step": run.steps,
        "flags": run.flags,
        "norm2": run.group_norm2,
        "sketch": run.rows.read(0, len(run.steps)),
        "names": np.array(sorted(scalars)),
        "scalars": np.array([scalars[name] for name in sorted(scalars)]),
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f") for n in a)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bytes, dict[str, list[bytes]]]]:
    """Files of four stores, and the earlier versions of each file."""
    folder = tmp_path_factory.mktemp("corruption")
    history: dict[str, list[bytes]] = {}
    with pytest.MonkeyPatch.context() as patch:
        put = LocalSink.put

        def remembers(self: LocalSink, key: str, data: Any) -> None:
            if (self.local / key).exists():
                history.setdefault(f"{self.local.name}/{key}", []).append(self.get(key))
            put(self, key, data)

        patch.setattr(LocalSink, "put", remembers)
        with start(folder / "closed") as log:
            fill(log, range(20))
        with start(folder / "closed", first_step=14) as log:
            fill(log, range(14, 33))
        with start(folder / "compact") as log:
            fill(log, range(38))
        compact(folder / "compact", shard_bytes=2 * 8 * 2 * 8 * 4)
        leave_unfinished(folder / "unfinished")
        leave_unfinished(folder / "recovered")
        start(folder / "recovered").close()
        with start(folder / "other", seed=1) as log:
            fill(log, range(20))
    found = {}
    for path in folder.iterdir():
        earlier = {k.partition("/")[2]: v for k, v in history.items() if k.startswith(f"{path.name}/")}
        found[path.name] = content(path), earlier
    # A child's history dies with it: an unfinished segment once looked like the beginning of the recovered one.
    return found


BASES = ["closed", "compact", "unfinished", "recovered"]


def kind_of(key: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, key))


def test_every_file_is_of_a_known_kind_and_every_kind_occurs(stores: Any) -> None:
    assert {kind_of(key) for base in BASES for key in stores[base][0]} == set(KINDS)


@pytest.mark.parametrize("base", BASES)
def test_the_stores_are_sound_to_begin_with(stores: Any, base: str) -> None:
    files, _ = stores[base]
    assert examine(InMemory(files)).problems == []
    expected = {"closed": 39, "compact": 38, "unfinished": 29, "recovered": 29}[base]
    assert len(read(files)["step"]) == expected


# --- attacks: each yields damaged copies of one file's store ---------------------------------------------------


def flips(files: Bytes, key: str, rng: random.Random, count: int = 12) -> Iterator[Bytes]:
    data = files[key]
    for _ in range(count):
        at = rng.randrange(len(data))
        yield files | {key: data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]}


def truncations(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    data = files[key]
    for size in {0, 1, len(data) // 2, len(data) - 1, rng.randrange(len(data))}:
        yield files | {key: data[:size]}


def zero_tails(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    data = files[key]
    for n in {1, 4, len(data) // 2, 1 + rng.randrange(len(data))}:
        changed = data[: len(data) - n] + bytes(n)
        if changed != data:
            yield files | {key: changed}


def zeroed(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    yield files | {key: bytes(len(files[key]))}


def longer(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    yield files | {key: files[key] + bytes(16)}
    yield files | {key: files[key] + files[key]}


def deletion(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    yield {k: v for k, v in files.items() if k != key}


def swaps(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    peers = [k for k in files if k > key and kind_of(k) == kind_of(key) and files[k] != files[key]]
    for other in rng.sample(peers, min(3, len(peers))):
        yield files | {key: files[other], other: files[key]}


def replaced(files: Bytes, key: str, rng: random.Random, foreign: Bytes) -> Iterator[Bytes]:
    if key in foreign and foreign[key] != files[key]:
        yield files | {key: foreign[key]}


def extra(files: Bytes, key: str, rng: random.Random) -> Iterator[Bytes]:
    """A copy under a name of the same kind that is not taken."""
    folder, _, name = key.rpartition("/")
    new = {
        "root": "zarr2.json",
        "segment": "seg-000009-r0000/zarr.json",
        "array": f"{folder}2/zarr.json",
        "manifest": f"{folder}/000099.json",
        "manifests": f"{folder}/all2.jsonl",
        "journal": f"{folder}/.journal-000099",
        "shard": f"{key[:-1]}9",
    }.get(kind_of(key), f"{folder}/c.99{name[3:]}")
    yield files | {new: files[key]}
    if kind_of(key) == "segment":
        source = key.removesuffix("/zarr.json")
        yield files | {k.replace(source, "seg-000009-r0000"): v for k, v in files.items() if k.startswith(source)}


ATTACKS = {a.__name__: a for a in (flips, truncations, zero_tails, zeroed, longer, deletion, swaps, extra)}


def outcome(files: Bytes) -> str:
    """Which of the two notices: reading, audit, or neither. Anything but our own errors goes through."""
    try:
        read(files)
    except GradlogError:
        return "reading"
    return "audit" if examine(InMemory(files)).problems else "neither"


def excused(key: str, attack: str) -> bool:
    """Section 11: the end of the last journal of an unfinished segment may vanish."""
    return key.endswith(".journal-000003") and attack in ("truncations", "deletion")


def table(results: dict[tuple[str, str], Counter[str]]) -> str:
    """Kinds down, attacks across: damaged stores, and how many of them reading noticed already."""
    attacks = list(dict.fromkeys(attack for _, attack in results))
    lines = ["kind".ljust(18) + "".join(a.rjust(14) for a in attacks)]
    for kind in KINDS:
        cells = [results.get((kind, a), Counter()) for a in attacks]
        lines.append(kind.ljust(18) + "".join(f"{c['reading']}/{c.total()}".rjust(14) for c in cells))
    return "\n".join(lines)


@pytest.mark.slow
def test_every_damage_to_every_kind_of_file_is_noticed(stores: Any) -> None:
    rng = random.Random(0)
    results: dict[tuple[str, str], Counter[str]] = {}
    missed = []
    foreign = stores["other"][0]
    for base in BASES:
        files, history = stores[base]
        by_kind: dict[str, list[str]] = {}
        for key in files:
            by_kind.setdefault(kind_of(key), []).append(key)
        for kind, keys in by_kind.items():
            for key in keys if kind == "journal" else rng.sample(keys, 1):
                damaged = {name: list(attack(files, key, rng)) for name, attack in ATTACKS.items()}
                damaged["replaced"] = list(replaced(files, key, rng, foreign))
                damaged["old version"] = [files | {key: old} for old in history.get(key, []) if old != files[key]]
                if kind == "segment":
                    damaged["old version"] = damaged["old version"][:-1]  # the last one is the same but not closed
                for attack, copies in damaged.items():
                    if excused(key, attack):
                        continue
                    for copy in copies:
                        found = outcome(copy)
                        results.setdefault((kind, attack), Counter())[found] += 1
                        if found == "neither":
                            missed.append((base, key, attack))
    print("\n" + table(results))
    assert missed == []
    assert sum(c.total() for c in results.values()) > 700


def test_two_thousand_changed_bits_anywhere(stores: Any) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        files = stores[rng.choice(BASES)][0]
        key = rng.choice(list(files))
        (damaged,) = flips(files, key, rng, 1)
        assert examine(InMemory(damaged)).problems, key


def test_reading_alone_notices_changed_bits_in_whatever_it_uses(stores: Any) -> None:
    """Every chunk has a checksum, headers a seal: reading refuses them without the audit."""
    rng = random.Random(2)
    files = stores["closed"][0]
    for key in files:
        if kind_of(key) not in ("array", "manifest"):
            for damaged in flips(files, key, rng, 2):
                with pytest.raises(GradlogError):
                    read(damaged)


def test_what_is_refused_as_a_whole_is_explained(stores: Any) -> None:
    files = stores["unfinished"][0]
    gone = {k: v for k, v in files.items() if not k.endswith(".journal-000002")}
    with pytest.raises(GradlogError, match=r"rows 16 to 23 before it are missing; \.journal-000002 held them"):
        read(gone)
    without = {k: v for k, v in stores["closed"][0].items() if not k.startswith(SEGMENT)}
    assert examine(InMemory(without)).problems == [f"{SECOND}/zarr.json: continues {SEGMENT}, which is missing"]


# --- section 11 of docs/format.md: what nobody can notice, exactly --------------------------------------------


def unnoticed(files: Bytes) -> dict[str, Any]:
    assert examine(InMemory(files)).problems == []
    return read(files)


def test_the_end_of_an_unfinished_segment_may_vanish(stores: Any) -> None:
    files = stores["unfinished"][0]
    whole, last = read(files), f"{SEGMENT}/.journal-000003"
    for size in (None, 0, 11, 12, 100, len(files[last]) - 1):
        rest = {k: v for k, v in files.items() if k != last} | ({} if size is None else {last: files[last][:size]})
        found = unnoticed(rest)
        n = len(found["step"])
        assert 24 <= n < 29
        assert np.array_equal(found["sketch"], whole["sketch"][:n])
    # Not so an inner one: see above. And not its middle: that is damage.


def test_journals_of_two_unfinished_ranks_cannot_be_exchanged(tmp_path: Path) -> None:
    for rank in (0, 1):
        leave_unfinished(tmp_path / "r", rank)
    files = content(tmp_path / "r")
    a, b = (f"seg-000000-r{rank:04d}/.journal-000003" for rank in (0, 1))
    with pytest.raises(GradlogError, match=r"\.journal-000003: damaged behind row 24"):
        read(files | {a: files[b], b: files[a]})


def test_a_closed_segment_may_look_killed(stores: Any) -> None:
    files, history = stores["closed"]
    for segment in (SEGMENT, SECOND):
        key = f"{segment}/zarr.json"
        assert same(unnoticed(files | {key: history[key][-1]}), read(files))


def test_the_newest_segment_and_an_older_snapshot_pass(stores: Any, tmp_path: Path) -> None:
    files = stores["closed"][0]
    assert len(unnoticed({k: v for k, v in files.items() if not k.startswith(SECOND)})["step"]) == 20
    with start(tmp_path / "r") as log:
        fill(log, range(20))
        older = content(tmp_path / "r")
        while time.sleep(0.2) or (now := content(tmp_path / "r")) != older:  # until the flush in the background is over
            older = now
        kept = log.state_dict()
        fill(log, range(20, 40))
        state = log.state_dict()
    assert len(unnoticed(older)["step"]) == 20
    # A head that was kept elsewhere tells: the chain of the older snapshot does not reach it.
    assert kept["rows"] < state["rows"]
    assert f'"head":"{state["head"]}"' not in str(older[f"{SEGMENT}/zarr.json"])


def test_leftovers_that_are_no_part_of_the_run_may_change(stores: Any) -> None:
    files = stores["recovered"][0]
    added = {
        f"{SEGMENT}/.torn-000003": b"x",
        f"{SEGMENT}/sketch/c.9.0.0.1-1.partial": b"y",
        "zarr.json.2.partial": b"z",
    }
    assert same(unnoticed(files | added), read(files))


def test_the_audit_of_a_run_that_is_being_written_raises_no_false_alarm(tmp_path: Path) -> None:
    script = (
        "import gradlog, numpy as np, sys\n"
        "with gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=16, on_error='raise') as log:\n"
        "    for t in range(1500): log.step({'w': np.full(30, t + 1.0)})\n"
    )
    path, looks = tmp_path / "r.zarr", 0
    with subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment()) as writer:
        while writer.poll() is None:
            if (path / SEGMENT / "zarr.json").exists():
                assert examine(Folder(path)).problems == []
                looks += 1
    assert writer.returncode == 0
    assert looks > 3


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
