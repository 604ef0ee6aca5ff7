"""Speed of an audit against reading and hashing the same bytes, in one run.

``OPENBLAS_NUM_THREADS=1 python benchmarks/bench_audit.py [--bytes 1e9] [--times 3]`` writes a run below ``--folder``
and deletes it. Prints wall and processor seconds and the share of the floor's speed in processor time, which a busy
machine does not spoil; the floor is reading every file and taking its BLAKE2b.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from gradlog.analysis import audit_run  # noqa: E402
from gradlog.analysis.audit.files import Folder  # noqa: E402
from gradlog.analysis.audit.integrity import examine  # noqa: E402
from gradlog.analysis.audit.listing import tree_digest  # noqa: E402
from gradlog.format.chain import digest  # noqa: E402
from gradlog.format.header import RunHeader, SegmentHeader, SketchSpec, TensorInfo  # noqa: E402
from gradlog.format.layout import chunk_rows  # noqa: E402
from gradlog.storage.block import Block  # noqa: E402
from gradlog.storage.commit import SegmentWriter, create_root, now  # noqa: E402
from gradlog.storage.compact import compact  # noqa: E402
from gradlog.storage.sink import LocalSink  # noqa: E402

GROUPS, K = 16, 256
SIZE = float(os.environ.get("GRADLOG_BENCH_BYTES", "5e8"))


def write(path: Path, size: float) -> int:
    """Write a run of about ``size`` bytes whose sketches fit their norms; return its rows."""
    tensors = tuple(TensorInfo(f"g{i}.weight", (1000, 1000), "float32", i) for i in range(GROUPS))
    names = tuple(f"g{i}" for i in range(GROUPS))
    header = RunHeader(SketchSpec("fold-hash/1", K, 2**15, 0), names, tensors, chunk_rows(GROUPS * K * 4), uuid="bench")
    sink = LocalSink(path)
    _, root = create_root(sink, header)
    writer = SegmentWriter(sink, header, SegmentHeader(root=digest(root), head=digest(root), opened=now()))
    writer.create()
    rng = np.random.default_rng(0)
    block = Block(header)
    chunks = max(1, round(size / block.sketch.nbytes))
    for i in range(chunks):
        block.reuse(i)
        block.rows, block.names = header.chunk, ["wall_time", "lr"]
        rng.standard_normal(out=block.sketch, dtype=np.float32)
        block.norm2[:] = K * (1 + 0.05 * rng.standard_normal(block.norm2.shape))
        block.step[:] = np.arange(i * header.chunk, (i + 1) * header.chunk)
        block.scalars[:, 0], block.scalars[:, 1] = time.time() + np.arange(header.chunk) * 1e-6, 0.1
        writer.commit(block)
    writer.finish("closed")
    return chunks * header.chunk


def floor(path: Path) -> None:
    """Read and hash every file."""
    for file in path.rglob("*"):
        if file.is_file():
            digest(file.read_bytes())


def best(work: Callable[[], Any], times: int) -> tuple[float, float]:
    """Least wall and processor seconds of several runs."""
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(w for w, _ in found), min(c for _, c in found)


def test_audit_against_hashing(benchmark: Any, tmp_path: Path) -> None:
    """Processor time of the integrity check and of the whole audit over that of reading and hashing every file."""
    path = tmp_path / "run.zarr"
    write(path, SIZE)
    work = {"integrity": lambda: examine(Folder(path)).problems, "audit": lambda: audit_run(path)}
    floors, found = [], {name: [] for name in work}
    for _ in range(3):
        floors.append(best(lambda: floor(path), 1)[1])
        for name, call in work.items():
            found[name].append(best(call, 1)[1])
    benchmark.pedantic(work["audit"], rounds=1)
    for name, seconds in found.items():
        benchmark.extra_info[f"ratio_{name}"] = min(seconds) / min(floors)
        print(f"\n{name}: {min(seconds) / min(floors):.2f} x reading and hashing {SIZE / 1e6:.0f} MB", end="")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=float, default=1e9)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--compacted", action="store_true", help="also after compaction")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "run.zarr"
        rows = write(path, options.bytes)
        print(f"{rows:,} rows of {GROUPS} x {K}; load {os.getloadavg()[0]:.1f}", flush=True)
        for label in ("as recorded", "compacted")[: 1 + options.compacted]:
            wall, unit = best(lambda: floor(path), options.times)
            print(f"{label}: floor, read and hash: {wall:.2f} s, {unit:.2f} s of processor time", flush=True)
            for what, work in (
                ("integrity alone", lambda: examine(Folder(path)).problems),
                ("the whole audit", lambda: audit_run(path)),
                ("--digest", lambda: tree_digest(path)),
            ):
                wall, seconds = best(work, options.times)
                share = 100 * unit / seconds
                print(f"{label}: {what:18s} {wall:6.2f} s, {seconds:6.2f} s: {share:4.0f} % of that speed", flush=True)
            assert not audit_run(path).failed
            compact(path)


if __name__ == "__main__":
    main()
