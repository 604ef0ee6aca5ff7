"""Small runs, and ways to make strangers' stores of them: one edit each, chosen by a random number generator."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

import gradlog
from gradlog.format import journal as records
from gradlog.format import layout
from gradlog.format.chain import NO_CHECK, digest, seal
from gradlog.format.header import ROOT_KEY, SEGMENT_KEY, RunHeader, SegmentHeader
from gradlog.format.names import JOURNAL, META
from gradlog.storage.compact import compact
from tests.helpers.json_edits import dump, places, put

KINDS = ("plain", "packed", "compact", "journal")
SPEC: dict[str, Any] = {"k": 8, "chunk": 8, "groups": "tensors", "seed": 3}


def grads(t: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(t)
    return {"a": rng.standard_normal((6, 5)), "b": rng.standard_normal(12)}


def write(path: Path, kind: str) -> Path:
    """A run of two segments; of kind "journal", the second one's writer was killed."""
    codec = "bitshuffle-zstd" if kind == "packed" else "raw"
    options = {"like": grads(0), "codec": codec, "on_error": "raise", **SPEC}
    with gradlog.open(path, **options) as log:
        for t in range(20):
            log.step(grads(t), loss=float(t), lr=0.1)
    log = gradlog.open(path, mode="a", **options)
    for t in range(20, 25):
        log.step(grads(t), loss=float(t))
    left = {f: f.read_bytes() for f in [path / "seg-000001-r0000" / META, *path.glob("*/.journal-*")]}
    log.close()
    if kind == "journal":
        shutil.rmtree(path / "seg-000001-r0000")
        for file, data in left.items():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data)
    if kind == "compact":
        compact(path)
    return path


HOSTILE: list[Any] = [
    None, True, -1, 0, 1, 2**20, 2**31, 2**40, 2**53, 2**62, 2**63, 10**30, 1e308, -0.5, "", "x" * 1000, "\x1b[31m\n",
    "../../outside", "seg-000000-r0000", [], [[]], {}, {"a": {}}, [1] * 300, ["a", 1, None], [[[[[[]]]]]],
    float("inf"), float("nan"), [f"s{i}" for i in range(10**5)], [2**62] * 3, "NaN", "gzip",
]  # fmt: skip


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def checked(data: bytes) -> bytes:
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def reseal(path: Path, arrays: bool = True) -> None:
    """Recompute every digest as far as the store has a place for it, and the arrays' metadata."""
    root = digest((path / META).read_bytes())
    for folder in sorted(path.glob("seg-*")):
        with contextlib.suppress(Exception):  # an edit may have left nothing to recompute
            _reseal_segment(path, folder, root, arrays)


def _reseal_segment(path: Path, folder: Path, root: str, arrays: bool) -> None:
    whole = folder / "manifest" / "all.jsonl"
    documents = whole.read_bytes().split(b"\n") if whole.exists() else [
        f.read_bytes() for f in sorted(folder.glob("manifest/*.json"))
    ]  # fmt: skip
    previous, chained = root, []
    for data in documents:
        document = json.loads(data)
        for key, entry in document["chunks"].items():
            if (file := folder / key).is_file():
                entry.update(size=file.stat().st_size, blake2b=digest(file.read_bytes()))
        document["prev"] = previous
        chained.append(dump(document))
        previous = digest(chained[-1])
    if whole.exists():
        whole.write_bytes(b"\n".join(chained))
    else:
        for file, data in zip(sorted(folder.glob("manifest/*.json")), chained, strict=True):
            file.write_bytes(data)
    meta = json.loads((folder / META).read_bytes())
    with contextlib.suppress(KeyError, TypeError):
        meta["attributes"][SEGMENT_KEY].update(root=root, head=previous, check=NO_CHECK)
    with contextlib.suppress(Exception):
        header = RunHeader.from_attrs(json.loads((path / META).read_bytes())["attributes"])
        segment = SegmentHeader.from_attrs(meta["attributes"])
        implied = layout.arrays(header, segment)
        if arrays:
            meta["consolidated_metadata"]["metadata"] = implied
            for name, array in implied.items():
                (folder / name / META).write_bytes(dump(array))
    (folder / META).write_bytes(seal(dump(meta)))


Harm = Callable[[Path, random.Random], None]


def edit_json(path: Path, rng: random.Random) -> None:
    """Another value somewhere in a metadata file or manifest, all digests recomputed, or none."""
    file = rng.choice([f for f in files_of(path) if f.suffix == ".json"])
    document = json.loads(file.read_bytes())
    put(document, rng.choice(list(places(document))), rng.choice(HOSTILE))
    file.write_bytes(dump(document))
    if rng.random() < 0.9:
        reseal(path, rng.random() < 0.7)


def edit_header(path: Path, rng: random.Random) -> None:
    """One to three other fields of a header, all digests recomputed."""
    segment = rng.random() < 0.6
    file = rng.choice(sorted(path.glob("seg-*/zarr.json"))) if segment else path / META
    document = json.loads(file.read_bytes())
    fields = document["attributes"][SEGMENT_KEY if segment else ROOT_KEY]
    for _ in range(rng.randint(1, 3)):
        put(fields, rng.choice(list(places(fields))), rng.choice(HOSTILE))
    file.write_bytes(dump(document))
    reseal(path)


def declare(path: Path, rng: random.Random) -> None:
    """Far more rows, scalars, tensors, groups, flushes, snapshots or chunks to a shard than there are."""
    root = json.loads((path / META).read_bytes())
    header = root["attributes"][ROOT_KEY]
    file = rng.choice(sorted(path.glob("seg-*/zarr.json")))
    meta = json.loads(file.read_bytes())
    segment = meta["attributes"][SEGMENT_KEY]
    what = rng.choice(["rows", "flushes", "scalars", "tensors", "groups", "snapshots", "shard", "chunk", "k"])
    many = rng.choice([10**5, 10**6, 2**31, 2**48, 2**62])
    if what in ("rows", "flushes", "snapshots", "shard"):
        segment[what] = many
        if what == "rows":
            segment["flushes"] = max(1, many // 8)
    elif what == "scalars":
        segment["scalars"] = [f"s{i}" for i in range(min(many, 20_000))]
    elif what == "tensors":
        header["tensors"] = [{"name": f"t{i}", "shape": [3], "dtype": "float32", "group": 0} for i in range(20_000)]
    elif what == "groups":
        header["groups"] = [f"g{i}" for i in range(20_000)]
    elif what == "chunk":
        header["chunk"] = min(many, 2**20)
    else:
        header["sketch"]["k"] = min(many, 2**31)
    (path / META).write_bytes(dump(root))
    file.write_bytes(dump(meta))
    reseal(path)


def other_kind(path: Path, rng: random.Random) -> None:
    """A pipe, link, folder or sparse file in the place of any file, or a link in the place of a folder."""
    outside = path.parents[1] / "outside"
    file = rng.choice([*files_of(path), *(p for p in path.rglob("*") if p.is_dir())])
    name = rng.choice(["pipe", "device", "link", "loop", "folder", "sparse", "empty", "elsewhere"])
    if file.is_dir() or name == "elsewhere":
        shutil.move(file, outside / "moved")
    else:
        file.unlink()
    if name == "pipe":
        os.mkfifo(file)
    elif name == "folder":
        file.mkdir()
    elif name in ("sparse", "empty"):
        with open(file, "wb") as sparse:
            sparse.truncate(rng.choice([2**28, 2**40]) if name == "sparse" else 0)
    else:
        targets = {"device": "/dev/zero", "link": outside / "kept.txt", "loop": file, "elsewhere": outside / "moved"}
        file.symlink_to(targets[name])


def damage(path: Path, rng: random.Random) -> None:
    """Bytes of a file flipped, cut, added, exchanged; its digests recomputed, or not."""
    file = rng.choice(files_of(path))
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data) + 1)
    kind = rng.choice(["flip", "cut", "append", "noise", "zeros", "swap", "delete", "nested"])
    if kind == "flip" and data:
        data[at % len(data)] ^= rng.randrange(1, 256)
    new = {
        "cut": bytes(data[:at]), "append": bytes(data) + rng.randbytes(rng.randrange(1, 60)), "zeros": bytes(len(data)),
        "noise": rng.randbytes(len(data)), "swap": rng.choice(files_of(path)).read_bytes(), "nested": b"[" * 10**5,
    }.get(kind, bytes(data))  # fmt: skip
    if kind == "delete":
        file.unlink()
    else:
        file.write_bytes(new)
    if rng.random() < 0.5 and (path / META).exists():
        reseal(path)


def bomb(path: Path, rng: random.Random) -> None:
    """A chunk that unpacks to more than it should, or a shard whose chunks overlap, with digests recomputed."""
    shards = [f for f in files_of(path) if "/c/" in str(f)]
    if shards and rng.random() < 0.5:
        file = rng.choice(shards)
        data, count = file.read_bytes(), 3
        entry = rng.choice([(0, 2**62), (2**63, 2**63), (0, len(data)), (2**64 - 1, 2**64 - 1)])
        file.write_bytes(data[: -16 * count - 4] + checked(struct.pack("<QQ", *entry) * count))
    else:
        chunks = [f for f in files_of(path) if f.name.startswith("c.")] or [path / META]
        size = rng.choice([2**20, 2**24, 2**27])
        rng.choice(chunks).write_bytes(checked(bytes(Zstd(level=1).encode(np.zeros(size, np.uint8)))))
    reseal(path)


def journal(path: Path, rng: random.Random) -> None:
    """A journal of sound records that say too much: names, rows, columns, numbers."""
    folder = path / "seg-000001-r0000"
    uuid = json.loads((path / META).read_bytes())["attributes"][ROOT_KEY]["uuid"]
    names = records.names_record([f"s{i}" for i in range(rng.choice([1, 500, 65_000]))])
    step = rng.choice([0, 25, 2**62, -(2**63), 2**63 - 1])
    norm2 = np.full(2, rng.choice([1.0, np.nan, np.inf, -1.0]))
    row = records.row_record(step, rng.choice([0, 7, 2**32 - 1]), norm2, np.ones((2, 8), np.float32), np.ones(1))
    note = records.annotation_record(rng.choice([0, 2**31]), [rng.choice([0, 65_535, 2**32 - 1])], [1.0])
    index = rng.choice([0, 1, 2, 999_999])
    data = records.head(index, records.owner(uuid, folder.name)) + row * rng.choice([1, 9, 2_000]) + names + note
    folder.mkdir(exist_ok=True)
    (folder / JOURNAL.format(index)).write_bytes(data + rng.choice([b"", b"N", rng.randbytes(30)]))


def names(path: Path, rng: random.Random) -> None:
    """Files and folders of odd names beside those of the run."""
    name = rng.choice(
        ["\x1b[2J", "n" * 255, "seg-999999-r9999", ".theta-000000.partial", ".torn-000001", "a\nb", "c.0",
         "\u202e.json", "x.partial"]
    )  # fmt: skip
    folder = rng.choice([path, *(p for p in path.rglob("*") if p.is_dir())])
    if (folder / name).is_file():
        return
    if rng.random() < 0.5:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "zarr.json").write_bytes(b"{}")
    elif not (folder / name).exists():
        (folder / name).write_bytes(rng.randbytes(20))


HARMS: dict[str, tuple[Harm, int]] = {
    "edit_json": (edit_json, 25), "edit_header": (edit_header, 25), "declare": (declare, 12),
    "other_kind": (other_kind, 15), "damage": (damage, 10), "bomb": (bomb, 6), "journal": (journal, 6),
    "names": (names, 4),
}  # fmt: skip
"""Each way to harm, and how often it is taken."""


def pack(path: Path, rng: random.Random) -> Path:
    """The run in an archive that is odd itself: members twice, large, of another packing, or a forged directory."""
    target = path.with_suffix(".zip")
    files = files_of(path)
    odd = rng.choice(["", "", "twice", "large", "bzip2", "cut", "flip", "folder"])
    with zipfile.ZipFile(target, "w") as archive:
        for file in files:
            name = f"{'deep/' if odd == 'folder' else ''}{file.relative_to(path)}"
            method = zipfile.ZIP_BZIP2 if odd == "bzip2" else zipfile.ZIP_DEFLATED
            archive.writestr(name, file.read_bytes(), method)
        if odd == "large":
            archive.writestr(f"seg-000000-r0000/step/c.{rng.choice([0, 9])}", bytes(2**26), zipfile.ZIP_DEFLATED)
    data = bytearray(target.read_bytes())
    if odd == "cut":
        data = data[: rng.randrange(len(data))]
    elif odd == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif odd == "twice" and files:
        data = data.replace(b"/step/", b"/flag/")
    target.write_bytes(data)
    return target
