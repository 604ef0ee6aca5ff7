"""Write stores by the schema alone, so that any layout of segments, ranks and damage can be made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import zarr

from gradlog.format import layout
from gradlog.format.chain import NO_CHECK, digest, seal
from gradlog.format.header import SEGMENT_KEY, RunHeader, SegmentHeader, SketchSpec, TensorInfo
from gradlog.format.layout import group_metadata
from gradlog.format.names import META


def header(groups=2, k=8, chunk=16, exact=False, sizes=None, **fields) -> RunHeader:
    spec = SketchSpec("exact/1", k, 0, 0) if exact else SketchSpec("fold-hash/1", k, 2**15, 7)
    names = tuple(f"g{i}" for i in range(groups))
    sizes = sizes or [k if exact else 1000] * groups
    tensors = tuple(
        TensorInfo(f"{n}.weight", (s,), "float32", i) for i, (n, s) in enumerate(zip(names, sizes, strict=False))
    )
    return RunHeader(spec, names, tensors, chunk, created="2026-01-01T00:00:00Z", uuid="u", **fields)


def write_root(path: Path, head: RunHeader) -> None:
    path.mkdir(parents=True)
    (path / META).write_text(json.dumps(group_metadata(head.to_attrs())))


def write_meta(folder: Path, meta) -> None:
    (folder / META).write_bytes(seal(json.dumps(meta, separators=(",", ":")).encode()))


def write_segment(path, head, sketch, steps=None, flags=None, scalars=None, norm2=None, **fields) -> SegmentHeader:
    T = len(sketch)
    scalars = scalars or {}
    steps = np.arange(T) * head.every if steps is None else np.asarray(steps)
    values = {
        "sketch": np.asarray(sketch, np.float32),
        "group_norm2": np.square(np.asarray(sketch, np.float64)).sum(2) if norm2 is None else norm2,
        "scalars": np.stack([np.asarray(v, float) for v in scalars.values()], 1) if scalars else np.empty((T, 0)),
        "step": steps,
        "flags": np.zeros(T, np.uint32) if flags is None else np.asarray(flags, np.uint32),
    }
    root = digest((path / META).read_bytes())
    counts = {"rows": T, "flushes": -(-T // head.chunk)}
    seg = SegmentHeader(**{"status": "closed", "root": root, **counts, **fields, "scalars": tuple(scalars)})
    folder = path / seg.name
    folder.mkdir()
    arrays = layout.arrays(head, seg)
    write_meta(folder, group_metadata(seg.to_attrs(), arrays))
    group = zarr.open_group(folder, mode="r+", use_consolidated=True)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, data in values.items():
            if data.size:
                group[name][:] = data
    return seg


def write_run(path: Path, rows, *, exact=False, chunk=16, every=1, sizes=None, what="gradient", **segment) -> Path:
    """One closed segment of rows (T, groups, k)."""
    rows = np.asarray(rows, np.float32)
    head = header(rows.shape[1], rows.shape[2], chunk, exact, sizes, every=every, what=what)
    write_root(path, head)
    write_segment(path, head, rows, **segment)
    return path


def write_rewound(path: Path, rows, first: int, back: int) -> Path:
    """Two segments: the first rows, and the others from so many steps before their end on."""
    rows = np.asarray(rows, np.float32)
    head = header(rows.shape[1], rows.shape[2])
    write_root(path, head)
    again = first - back
    write_segment(path, head, rows[:first])
    steps = np.arange(again, again + len(rows) - first)
    write_segment(path, head, rows[first:], steps=steps, number=1, parent_step=again - 1)
    return path


def edit_segment(folder: Path, **fields) -> None:
    meta = json.loads((folder / META).read_text())
    attrs = meta["attributes"][SEGMENT_KEY]
    assert set(fields) <= {f.name for f in dataclasses.fields(SegmentHeader)}
    attrs.update(fields, check=NO_CHECK)
    write_meta(folder, meta)
