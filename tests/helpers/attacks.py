"""Attacks: each yields damaged copies of one file's store."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.helpers.damaged_runs import Bytes, kind_of


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
