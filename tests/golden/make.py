"""Write the golden stores of format 1 and, beside each, the values that were recorded.

    PYTHONPATH=. python tests/golden/make.py placed # from the root of a checkout: the store of this name

They are kept as they are from release to release: every later version must read them. Run this only for a store that
is new, or for a new major version of the format.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gradlog
from gradlog.errors import GradlogWarning
from gradlog.format.codec import round_mantissa
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED
from gradlog.recorder.rows.halves import half_norms
from gradlog.recorder.rows.row_builder import Row
from gradlog.sketching.projector import projector
from gradlog.storage.compact import compact

HERE = Path(__file__).resolve().parent
SHAPES: dict[str, tuple[int, ...]] = {"embed.weight": (210, 160), "h.0.weight": (6, 5), "h.0.bias": (5,), "head": (7,)}
"""``embed.weight`` has more entries than m = 32768, so that its sketch has a second row."""

Rows = dict[str, np.ndarray]


def gradient(t: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES, shift: int = 0) -> dict[str, np.ndarray]:
    """Gradient of step t: multiples of 1/8, the same on every machine and in every language."""
    found = {}
    for place, (name, shape) in enumerate(shapes.items()):
        j = np.arange(int(np.prod(shape)))
        found[name] = (((7 * t + 3 * j + 5 * place + shift) % 23 - 11) / 8).astype(np.float32).reshape(shape)
    return found


class Recorder:
    """A logger that also remembers what it was given, by segment."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]] = SHAPES, **options: Any) -> None:
        like = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        options = {"k": 8, "chunk": 8, "seed": 5, "hostname": False, "on_error": "raise", **options}
        self.log = gradlog.open(path, like, **options)
        header = self.log.header
        assert header is not None
        self.header, self.names = header, list(shapes)
        self._rows: list[tuple[int, int, np.ndarray, np.ndarray, dict[str, float]]] = []
        self._updates: list[np.ndarray] = []

    def step(
        self,
        t: int,
        grads: Mapping[str, np.ndarray | None],
        flags: int = 0,
        update: Mapping[str, np.ndarray] | None = None,
        **scalars: float,
    ) -> None:
        """Record and remember one step."""
        arrays = [grads[name] for name in self.names]
        scalars = {"wall_time": 1000.0 + t, **scalars}
        moves = None if update is None else [update[name] for name in self.names]
        project = projector(self.header.sketch, self.header.tensors, len(self.header.groups)).project
        change = None if moves is None else functools.partial(project, moves)
        self.log.recorder.record(lambda: Row(arrays, scalars, flags & SKIPPED, update=change), t)
        if t % self.header.every == 0:
            self._rows.append((t, flags, *reversed(self._sketched(arrays)), scalars))
            self._updates += [] if moves is None else [self._sketched(moves)[0]]

    def _sketched(self, arrays: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        G = len(self.header.groups)
        out, norm2 = np.empty((G, self.header.sketch.k), np.float32), np.empty(G)
        projector(self.header.sketch, self.header.tensors, G).project(arrays, out, norm2)
        round_mantissa(out, self.header.sketch_bits)
        return out, norm2

    def parameters(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Have the parameters sketched; return what that must give."""
        self.log.parameters(values)
        return self._sketched(list(values.values()))[0]

    def join(self, shapes: Mapping[str, tuple[int, ...]]) -> Recorder:
        """Let parameters join; return the recorder that remembers the segment which begins here."""
        self.log.join({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        other = copy.copy(self)
        assert self.log.header is not None
        other.header, other.names, other._rows, other._updates = self.log.header, [*self.names, *shapes], [], []
        return other

    def rows(self, stop: int | None = None) -> Rows:
        """Return the remembered rows as arrays: step, flags, norm2, sketch, names, scalars."""
        kept = self._rows[:stop]
        names = list(dict.fromkeys(name for *_, scalars in self._rows for name in scalars))
        return {
            "step": np.array([r[0] for r in kept], np.int64),
            "flags": np.array([r[1] for r in kept], np.uint32),
            "norm2": np.array([r[2] for r in kept]),
            "sketch": np.array([r[3] for r in kept], np.float32),
            "names": np.array(names),
            "scalars": np.array([[r[4].get(name, np.nan) for name in names] for r in kept]),
            **({"update": np.array(self._updates[:stop], np.float32)} if self._updates else {}),
        }


def sketched(path: Path) -> dict[str, Rows]:
    """Three groups, 21 scalars of which 18 come late, a non-finite, a skipped and a partial step, two snapshots."""
    groups = {"embed": "^embed", "body": r"^h\.", "head": "^head"}
    r = Recorder(path, groups=groups, notes={"batch_size": 32})
    theta = [r.parameters(gradient(1000))]
    for t in range(21):
        g: dict[str, np.ndarray | None] = dict(gradient(t))
        flags = 0
        if t == 4:
            g["h.0.bias"], flags = np.array([1, np.nan, np.inf, 0, 2], np.float32), NONFINITE
        if t == 9:
            flags = SKIPPED
        if t == 13:
            g["head"], flags = None, PARTIAL
        late = {f"late/{i}": float(i + t) for i in range(18)} if t > 11 else {}
        r.step(t, g, flags, loss=1 / (t + 1), lr=0.125, **late)
    theta.append(r.parameters(gradient(2000)))
    r.log.close()
    return {"seg-000000-r0000": {**r.rows(), "theta": np.stack(theta), "theta_step": np.array([0, 21])}}


def joined(path: Path, **options: Any) -> dict[str, Rows]:
    """A parameter joins after step 5; the run goes on in a second segment."""
    r = Recorder(path, **({"groups": {"embed": "^embed", "rest": "."}} | options))
    for t in range(6):
        r.step(t, gradient(t), loss=float(t))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradlogWarning)
        more = r.join({"h.1.weight": (6, 5)})
    for t in range(6, 12):
        more.step(t, gradient(t, {**SHAPES, "h.1.weight": (6, 5)}), loss=float(t))
    r.log.close()
    return {"seg-000000-r0000": r.rows(), "seg-000001-r0000": more.rows()}


def exact(path: Path) -> dict[str, Rows]:
    """Coordinates of a small model in two groups of different size, every second step."""
    shapes = {"a": (3, 4), "b": (5,)}
    r = Recorder(path, shapes, k="exact", groups="tensors", every=2, chunk=4)
    for t in range(20):
        r.step(t, gradient(t, shapes), loss=float(t))
    r.log.close()
    return {"seg-000000-r0000": r.rows()}


def ranks(path: Path) -> dict[str, Rows]:
    """Two ranks, closed after step 19 and both continued from step 12: steps 12 to 15 as before, later ones not."""
    found = {}
    for start, stop in ((0, 20), (12, 18)):
        for rank in (0, 1):
            r = Recorder(path, rank=rank, mode="a", stage="local", groups="all", first_step=start)
            for t in range(start, stop):
                again = 100 if start and t > 15 else 0
                r.step(t, gradient(t, shift=rank + again), loss=float(t + rank))
            r.log.close()
            found[f"seg-{1 if start else 0:06d}-r{rank:04d}"] = r.rows()
    return found


def compacted(path: Path) -> dict[str, Rows]:
    """Five chunks, the last one short, in shards of two; scalars of the second column only in later ones."""
    r = Recorder(path, groups="all")
    for t in range(37):
        r.step(t, gradient(t), loss=float(t), **({f"s/{i}": float(i) for i in range(16)} if t > 30 else {}))
    r.log.close()
    compact(path, shard_bytes=2 * 8 * 8 * 4)
    return {"seg-000000-r0000": r.rows()}


def rounded(path: Path) -> dict[str, Rows]:
    """Ten mantissa bits, compressed."""
    r = Recorder(path, sketch_bits=10, codec="bitshuffle-zstd", k=32)
    for t in range(20):
        r.step(t, gradient(t), loss=float(t))
    r.log.close()
    return {"seg-000000-r0000": r.rows()}


def killed(path: Path) -> dict[str, Rows]:
    """Killed at step 21 with two chunks committed; the journal's last row is cut in the middle."""
    return _killed(path)


def updates(path: Path) -> dict[str, Rows]:
    """Likewise, with the updates of momentum 1/2 and learning rate 1/4 beside the gradients, in 12 bits."""
    return _killed(path, what=("gradient", "update"), sketch_bits=12)


def _killed(path: Path, **options: Any) -> dict[str, Rows]:
    def update(t: int) -> Mapping[str, np.ndarray] | None:
        if "what" not in options:
            return None
        pairs = zip(gradient(t).items(), gradient(t - 1).values(), strict=True)
        return {name: -g / 4 - before / 8 for (name, g), before in pairs}

    r = Recorder(path, groups="all", mode="w-", **options)  # remembers, in a store of its own that is thrown away
    r.log.close()
    shutil.rmtree(path)
    for t in range(22):
        r.step(t, gradient(t), loss=float(t), update=update(t))
    child = os.fork()
    if child == 0:
        try:
            w = Recorder(path, groups="all", **options)
            for t in range(22):
                w.step(t, gradient(t), loss=float(t), update=update(t))
            deadline = time.monotonic() + 20  # chunks 0 and 1 are committed in the background
            while (path / "seg-000000-r0000/.journal-000001").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (journal,) = (path / "seg-000000-r0000").glob(".journal-*")
    with open(journal, "r+b") as file:
        file.truncate(journal.stat().st_size - 21)
    return {"seg-000000-r0000": r.rows(21)}


def halves(path: Path) -> dict[str, Rows]:
    """Batches in two halves from step 3 on, two groups; the gradient of the first half is another step's."""
    r = Recorder(path, groups={"embed": "^embed", "rest": "^h"})
    for t in range(20):
        mean, first = gradient(t), gradient(t + 1)
        far = half_norms(r.header, list(mean.values()), list(first.values())) if t > 2 else {}
        r.step(t, mean, loss=float(t), **far)
    r.log.close()
    return {"seg-000000-r0000": r.rows()}


def placed(path: Path) -> dict[str, Rows]:
    """Map ``fold-hash/2``: two groups of three are stored without error; a parameter joins the other one."""
    groups = {"embed": "^embed", "body": r"^h\.", "head": "^head"}
    return joined(path, groups=groups, sketch="fold-hash/2", k=36)


STORES = (sketched, joined, exact, ranks, compacted, rounded, killed, halves, updates, placed)


def main(folder: Path = HERE, names: Sequence[str] = ()) -> None:
    """Write every store, its rows, and the digests of all files; or those of these names only."""
    digests = json.loads((folder / "digests.json").read_text()) if names else {}
    for make in [make for make in STORES if not names or make.__name__ in names]:
        path = folder / f"{make.__name__}.zarr"
        shutil.rmtree(path, ignore_errors=True)
        found = make(path)
        arrays = {f"{segment}/{name}": a for segment, rows in found.items() for name, a in rows.items()}
        np.savez_compressed(folder / f"{make.__name__}.npz", **arrays)
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            data = file.read_bytes()
            digests[file.relative_to(folder).as_posix()] = hashlib.blake2b(data, digest_size=32).hexdigest()
    (folder / "digests.json").write_text(json.dumps(digests, indent=0) + "\n")


if __name__ == "__main__":
    chosen, sys.argv = sys.argv[1:], ["tests/golden/make.py"]
    main(names=chosen)
