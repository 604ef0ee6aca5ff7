"""An honest little training run, and somebody who rewrites what it recorded and recomputes every digest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradlog
from gradlog.analysis import open_run
from gradlog.format.chain import digest
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.names import MANIFEST, META
from gradlog.storage.block import Block
from gradlog.storage.commit import Commit, SegmentWriter, create_root
from gradlog.storage.sink import LocalSink

SHAPES = {"body.weight": (40, 30), "head.weight": (30, 20), "head.bias": (20,)}
RATE, STEPS = 0.05, 96


@dataclasses.dataclass
class Training:
    """Plain SGD on a noisy quadratic, or SGD with momentum; everything repeats from the seed."""

    seed: int = 0
    momentum: float = 0.0

    def start(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}

    def gradient(self, step: int, theta: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self.seed, step])
        return {n: (x + 0.3 * rng.standard_normal(x.shape)).astype(np.float32) for n, x in theta.items()}

    def walk(self, steps: int = STEPS):
        """Yield (step, parameters before it, gradient, update)."""
        theta, speed = self.start(), {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
        for t in range(steps):
            g = self.gradient(t, theta)
            speed = {n: np.float32(self.momentum) * speed[n] + g[n] for n in g}
            new = {n: theta[n] - np.float32(RATE) * speed[n] for n in g}
            yield t, theta, g, {n: new[n] - theta[n] for n in g}
            theta = new
        yield steps, theta, None, None


def norm_of(g: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(x.astype(float) ** 2) for x in g.values())))


def record(path: Path, training: Training, what: str = "gradient", **options: Any) -> list[tuple[int, Path]]:
    """Record a training run and keep three checkpoints of it; return (step, file)."""
    kept = []
    defaults = {"k": 64, "chunk": 32, "groups": "tensors", "what": what, "on_error": "raise"}
    log = gradlog.open(path, like=training.start(), **{**defaults, **options})
    for t, theta, g, u in training.walk():
        if t in (0, STEPS // 2, STEPS):
            file = path.with_suffix(f".{t}.npz")
            np.savez(file, **theta)
            kept.append((t, file))
        if g is not None:
            log.step(g if what == "gradient" else u, loss=1.0 / (t + 1), lr=RATE, grad_norm=norm_of(g))
    log.close()
    return kept


def replay_of(training: Training) -> Callable[[int], dict[str, np.ndarray]]:
    rows = {t: g for t, _, g, _ in training.walk()}
    return lambda step: rows[step]


@dataclasses.dataclass
class Rows:
    """A segment in memory, to be edited."""

    header: SegmentHeader
    step: np.ndarray
    flags: np.ndarray
    norm2: np.ndarray
    sketch: np.ndarray
    scalars: np.ndarray
    earlier: dict[int, tuple[tuple[int, int, str], ...]] = dataclasses.field(default_factory=dict)
    """Gaps that a manifest, by its number, declares instead of those of the header."""

    def take(self, index: Any) -> None:
        for name in ("step", "flags", "norm2", "sketch", "scalars"):
            setattr(self, name, getattr(self, name)[index])

    def column(self, name: str) -> np.ndarray:
        return self.scalars[:, self.header.scalars.index(name)]


def load(path: Path) -> tuple[RunHeader, list[Rows]]:
    run = open_run(path, view="all")
    found = []
    for s in run.segments:
        sketch = np.empty((len(s.steps), run.n_groups, run.k), np.float32)
        s.read_rows(0, len(s.steps), sketch)
        columns = [s.scalars[n] for n in s.header.scalars]
        scalars = np.stack(columns, 1) if columns else np.empty((len(s.steps), 0))
        found.append(Rows(s.header, s.steps.copy(), s.flags.copy(), s.norm2.copy(), sketch, scalars))
    return run.header, found


def dated(commit: Commit, time: str) -> Commit:
    """A flush as it was written at another time."""
    *chunks, (key, [data]) = commit.objects
    manifest = json.dumps(json.loads(data) | {"time": time}, separators=(",", ":")).encode()
    return Commit([*chunks, (key, [manifest])], dataclasses.replace(commit.after, head=digest(manifest)))


def forge(path: Path, edit: Callable[[list[Rows]], list[Rows] | None], header: RunHeader | None = None) -> None:
    """Rewrite a run with edited rows: fresh chunks, manifests, chain and metadata, all in agreement."""
    old, rows = load(path)
    rows = edit(rows) or rows
    times = {str(f.relative_to(path)): json.loads(f.read_text())["time"] for f in path.glob("*/manifest/*.json")}
    shutil.rmtree(path)
    sink = LocalSink(path)
    header, _ = create_root(sink, header or old)
    root = digest((path / META).read_bytes())
    for r in rows:
        h = dataclasses.replace(r.header, rows=0, flushes=0, root=root, head=root, status="recording")
        writer = SegmentWriter(sink, header, h)
        assert writer.create()
        for i, start in enumerate(range(0, len(r.step), header.chunk)):
            part = slice(start, min(start + header.chunk, len(r.step)))
            block = Block(header).reuse(i)
            block.rows, block.names = part.stop - start, list(r.header.scalars)
            block.widen(len(block.names))
            inside = slice(0, block.rows)
            for name, own in (("step", "step"), ("flags", "flags"), ("norm2", "norm2"), ("sketch", "sketch")):
                getattr(block, own)[inside] = getattr(r, name)[part]
            block.scalars[inside, : r.scalars.shape[1]] = r.scalars[part]
            commit = writer.prepare(block, r.earlier.get(i, r.header.dropped))
            writer.perform(dated(commit, times[f"{h.name}/{MANIFEST.format(i)}"]))
        told = {name: getattr(r.header, name) for name in ("status", "closed", "dropped")}
        last = dataclasses.replace(writer.segment, **told)
        writer.publish(last)


def edit(path: Path, change: Callable[..., list[Rows] | None]) -> None:
    """``forge`` with an edit that takes the rows of each segment as an argument of its own."""
    forge(path, lambda rows: change(*rows))
