"""Gradients that are known in full: four real trainings recorded in exact mode, and five made ones.

``gradients(name, folder)`` trains on first use and keeps the run in the folder; ``sketches(known, k, seed)`` is what
the recorder would have written of them with another sketch.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for examples.paper

from examples.paper import mlp_tabular, session, tiny_transformer  # noqa: E402
from gradlog.analysis import open_run  # noqa: E402
from gradlog.format.header import TensorInfo  # noqa: E402
from gradlog.sketching.fold_hash import FoldHash  # noqa: E402
from gradlog.sketching.projector import projector  # noqa: E402

Float32 = NDArray[np.float32]
HALVES = {"embedding": "token|place", "layer.0": r"layers\.0", "layer.1": r"layers\.1", "head": "head"}


@dataclasses.dataclass(frozen=True)
class Known:
    """Full gradients: one array (T, size) a tensor."""

    tensors: tuple[TensorInfo, ...]
    groups: tuple[str, ...]
    arrays: list[Float32]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.arrays[0])

    def full(self, group: int) -> Float32:
        """Gradients of one group, (T, size)."""
        return np.concatenate([a for t, a in zip(self.tensors, self.arrays, strict=True) if t.group == group], axis=1)


def sketches(known: Known, k: int, seed: int) -> Float32:
    """Sketch every row with the recorder's own map: float32 (T, groups, k)."""
    into = projector(FoldHash(k, seed).spec, known.tensors, len(known.groups))
    out, norm2 = np.empty((known.steps, len(known.groups), k), np.float32), np.empty(len(known.groups))
    shapes = [t.shape for t in known.tensors]
    for t in range(known.steps):
        into.project([a[t].reshape(s) for a, s in zip(known.arrays, shapes, strict=True)], out[t], norm2)
    return out


def _trained(path: Path) -> Known:
    """Rows of a run recorded in exact mode, each group cut into its tensors."""
    run = open_run(path)
    rows = run.rows.read(0, len(run.steps)).reshape(len(run.steps), run.n_groups, run.k)
    place = [0] * run.n_groups
    arrays = []
    for t in run.header.tensors:
        arrays.append(np.ascontiguousarray(rows[:, t.group, place[t.group] : place[t.group] + t.size]))
        place[t.group] += t.size
    return Known(run.header.tensors, run.header.groups, arrays)


def _training(script: Callable[..., None], *flags: str, **options: object) -> Callable[[Path], Known]:
    def train(path: Path) -> Known:
        if not session.complete(path):
            script([*flags, "--threads=1", f"--out={path}"], k="exact", **options)
        return _trained(path)

    return train


def _made(rows: Callable[[np.random.Generator, int, int], NDArray[np.float64]]) -> Callable[[Path], Known]:
    """Two groups of 300 and 2,700 coordinates over 200 steps."""

    def make(_: Path) -> Known:
        G = rows(np.random.default_rng(0), 200, 3000).astype(np.float32)
        tensors = tuple(TensorInfo(name, (size,), "float32", i) for i, (name, size) in enumerate(
            [("small", 300), ("large", 2700)]))  # fmt: skip
        return Known(tensors, ("small", "large"), [np.ascontiguousarray(p) for p in np.split(G, [300], axis=1)])

    return make


def _noise(r: np.random.Generator, T: int, d: int) -> NDArray[np.float64]:
    return r.standard_normal((T, d))


def _rotating(r: np.random.Generator, T: int, d: int) -> NDArray[np.float64]:
    """A mean that turns by a quarter of a circle a hundred steps, as large as the noise."""
    plane = np.linalg.qr(r.standard_normal((d, 2)))[0] * np.sqrt(d)
    angle = np.arange(T)[:, None] * np.pi / 200
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1) @ plane.T + r.standard_normal((T, d))


def _opposing(r: np.random.Generator, T: int, d: int) -> NDArray[np.float64]:
    """A bounce of period 2 along one direction, four times the noise's energy."""
    sign = np.where(np.arange(T) % 2, -1.0, 1.0)[:, None]
    return 2 * sign * r.standard_normal(d) + r.standard_normal((T, d))


def _heavy(r: np.random.Generator, T: int, d: int) -> NDArray[np.float64]:
    """Steps of heavy-tailed size, one with most of the energy, and one coordinate with half of each step's."""
    G = r.standard_normal((T, d))
    G[:, 1000] *= np.sqrt(d)
    return np.asarray(G * np.abs(r.standard_t(2, (T, 1))) * np.where(np.arange(T) == 60, 40.0, 1.0)[:, None])


def _dominant(r: np.random.Generator, T: int, d: int) -> NDArray[np.float64]:
    """One random walk along one direction above faint noise: nearly all that is to be predicted has rank one."""
    walk = np.cumsum(r.standard_normal((T, 1)), axis=0)
    return np.asarray(walk * r.standard_normal(d) + 0.1 * r.standard_normal((T, d)))


KNOWN: dict[str, Callable[[Path], Known]] = {
    "transformer, RMSprop": _training(
        tiny_transformer.main, "--task=sort", "--optimizer=rmsprop", "--lr=1e-3", "--batch=32", "--steps=400",
        groups=HALVES,
    ),
    "transformer, AdamW": _training(tiny_transformer.main, "--optimizer=adamw", "--steps=200", groups=HALVES),
    "perceptron, AdamW": _training(mlp_tabular.main, "--optimizer=adamw", "--steps=1000"),
    "perceptron, SGD momentum": _training(mlp_tabular.main, "--optimizer=sgdmom", "--steps=200"),
    "noise": _made(_noise),
    "rotating mean": _made(_rotating),
    "opposing steps": _made(_opposing),
    "heavy tails": _made(_heavy),
    "one direction": _made(_dominant),
}  # fmt: skip


def gradients(name: str, folder: Path) -> Known:
    """One of ``KNOWN``; ``folder`` holds the recorded trainings."""
    return KNOWN[name](folder / f"{name.replace(', ', '_').replace(' ', '_')}.zarr")


def seeds(count: int) -> Iterator[int]:
    """Seeds of independent sketches, none of which a default uses."""
    return iter(range(1000, 1000 + count))
