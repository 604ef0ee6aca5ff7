"""A reader of format 1 written from ``docs/format.md`` alone: numpy, the standard library, and two decompressors.

Neither zarr nor gradlog is imported. It is slow, and says ``Refused`` where the document says "must".
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = {"sketch": "<f4", "group_norm2": "<f8", "scalars": "<f8", "step": "<i8", "flags": "<u4"}
UPDATE = {"update": "<f4"}


class Refused(Exception):  # noqa: N818
    """The store is not what the document describes."""


def must(condition: object, why: str) -> None:
    if not condition:
        raise Refused(why)


# --- checksums ---------------------------------------------------------------------------------------------


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def unseal(data: bytes) -> bytes:
    must(len(data) >= 4 and data[-4:] == struct.pack("<I", crc32c(data[:-4])), "crc32c")
    return data[:-4]


# --- section 8: sketches -----------------------------------------------------------------------------------


def words(key: str, n: int) -> np.ndarray:
    return np.frombuffer(hashlib.shake_256(key.encode("utf-8")).digest(8 * n), "<u8")


def sign(u: np.ndarray) -> np.ndarray:
    return np.where(u % 2 == 1, -1, 1).astype(np.float32)


def fold_hash(spec: dict[str, Any], tensors: dict[str, np.ndarray], places: dict[str, int] | None = None) -> np.ndarray:
    """Sketch of one group: its tensors by name, in order, and the places of those that have one."""
    k, m = spec["k"], spec["m"]
    base = f"{spec['kind']}|seed={spec['seed']}|m={m}"
    t, e = sign(words(f"{base}|t", m)), words(f"{base}|k={k}", m)
    blocks = k if spec["kind"] == "fold-hash/2" else m
    order = sorted(range(m), key=lambda i: (i // blocks, int(e[i]) // 2, i))
    w = np.zeros(2 * m, np.float32)
    for name, x in tensors.items():
        flat = x.astype(np.float32).reshape(-1)
        r = words(f"{base}|tensor={name}", -(-len(flat) // m))
        for q in range(len(r)):
            row = flat[q * m : (q + 1) * m]
            a, s = sign(r)[q], int(r[q]) // 2 % m
            if q == 0 and spec["kind"] == "fold-hash/2":
                s = (places or {}).get(name, s)
            w[s : s + len(row)] += a * t[: len(row)] * row
    v = (w[:m] + w[m:]) * sign(e)
    rows = np.zeros((-(-m // k), k), np.float32)
    rows.reshape(-1)[:m] = v[order]
    n = len(rows)
    while n > 1:
        rows[: n // 2] += rows[n - n // 2 : n]
        n -= n // 2
    return rows[0]


def round_bits(x: np.ndarray, bits: int) -> np.ndarray:
    """Nearest float32 with that many mantissa bits, ties to even."""
    if bits == 23:
        return x
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1).astype(np.float32)


# --- section 4 and 7: chunks -------------------------------------------------------------------------------


def decode(array: str, codec: str, data: bytes) -> bytes:
    data = unseal(data)
    wide = array in ("sketch", "update")
    if wide and codec == "raw":
        return data
    if wide:
        from numcodecs.blosc import Blosc

        return bytes(Blosc().decode(data))
    from numcodecs.zstd import Zstd

    return bytes(Zstd().decode(data))


class Segment:
    """One writer's rows: ``rows`` is {array: values}, ``names`` the scalar columns."""

    def __init__(self, folder: Path, header: dict[str, Any], root: bytes) -> None:
        self.folder, self.run = folder, header
        data = (folder / "zarr.json").read_bytes()
        check = re.search(rb'"check":"([0-9a-f]{64})"', data)
        must(check and digest(data.replace(check[1], b"0" * 64, 1)) == check[1].decode(), "seal")
        meta = json.loads(data)
        self.header = meta["attributes"]["gradlog_segment"]
        must(folder.name == f"seg-{self.header['number']:06d}-r{self.header['rank']:04d}", "name")
        must(self.header["root"] == digest(root), "root")
        self.names: list[str] = list(self.header["scalars"])
        self.digests = self.chain(digest(root))
        G, k = len(header["groups"]), header["sketch"]["k"]
        self.tails = {
            "sketch": (G, k),
            "group_norm2": (G,),
            "scalars": (16,),
            "step": (),
            "flags": (),
            "update": (G, k),
        }
        self.types = ARRAYS | (UPDATE if self.header.get("update") else {})
        for name, array in meta["consolidated_metadata"]["metadata"].items():
            width = len(self.names) if name == "scalars" else None
            if name not in self.types:
                continue  # of the parameters, or of a newer minor version
            tail = [width] if name == "scalars" else list(self.tails[name])
            must(array["shape"] == [self.header["rows"], *tail], f"shape of {name}")
            must(np.dtype(array["data_type"]) == np.dtype(self.types[name]), f"type of {name}")
        self.rows = {name: self.read(name) for name in self.types}
        self.snapshots = {
            int(np.frombuffer(decode("theta_step", "", self.plain(f"theta_step/c.{i}")), "<i8")[0]): np.frombuffer(
                unseal(self.plain(f"theta/c.{i}.0.0")), "<f4"
            ).reshape(G, k)
            for i in range(self.header.get("snapshots", 0))
        }
        if self.header["status"] in ("recording", "failed"):
            self.overlay()
            self.snapshots |= self.waiting()
        must((np.diff(self.rows["step"]) > 0).all(), "steps increase")

    def waiting(self) -> dict[int, np.ndarray]:
        """Section 6, sketches of the parameters that no flush has taken."""
        found, number = {}, self.header.get("snapshots", 0)
        owner = f"{self.run['uuid']}/{self.folder.name}".encode()
        while (file := self.folder / f".theta-{number:06d}.partial").exists():
            data = file.read_bytes()
            start, payload = struct.pack("<4sI", b"GLJ1", number), data[20:]
            whole = struct.pack("<II", len(payload), crc32c(payload))
            if data[:20] != start + struct.pack("<I", crc32c(start + owner)) + whole or payload[:1] != b"T":
                break
            step = struct.unpack_from("<q", payload, 8)[0]
            found[step] = np.frombuffer(payload, "<f4", offset=16).reshape(self.tails["sketch"])
            number += 1
        return found

    def chain(self, previous: str) -> dict[str, str]:
        """Digest of each chunk, from the manifests."""
        if self.header["shard"]:
            manifests = (self.folder / "manifest/all.jsonl").read_bytes().split(b"\n")
        else:
            manifests = [(self.folder / f"manifest/{i:06d}.json").read_bytes() for i in range(self.header["flushes"])]
        must(len(manifests) == self.header["flushes"], "flushes")
        found: dict[str, str] = {}
        for i, data in enumerate(manifests):
            manifest = json.loads(data)
            must((manifest["prev"], manifest["flush"]) == (previous, i), "chain")
            found |= {key: entry["blake2b"] for key, entry in manifest["chunks"].items()}
            previous = digest(data)
        must(previous == self.header["head"], "head")
        return found

    def plain(self, key: str) -> bytes:
        data = (self.folder / key).read_bytes()
        must(digest(data) == self.digests[key], f"digest of {key}")
        return data

    def chunk(self, array: str, row: int, *rest: int) -> bytes | None:
        key = f"{array}/c." + ".".join(map(str, (row, *rest)))
        if key not in self.digests:
            return None
        if not self.header["shard"]:
            return self.plain(key)
        count = self.header["shard"]
        place = "/".join(map(str, (row // count, *rest)))
        shard = (self.folder / array / "c" / place).read_bytes()
        index = unseal(shard[-16 * count - 4 :])
        offset, length = struct.unpack_from("<QQ", index, 16 * (row % count))
        data = shard[offset : offset + length]
        must(digest(data) == self.digests[key], f"digest of {key}")
        return data

    def read(self, array: str) -> np.ndarray:
        C, rows, tail = self.run["chunk"], self.header["rows"], self.tails[array]
        columns = -(-len(self.names) // 16) if array == "scalars" else 1
        parts = []
        for row in range(-(-rows // C)):
            across = []
            for column in range(columns):
                rest = {"sketch": (0, 0), "update": (0, 0), "group_norm2": (0,), "scalars": (column,)}.get(array, ())
                data = self.chunk(array, row, *rest)
                must(data is not None or array == "scalars", f"chunk {row} of {array}")
                if data is None:
                    across.append(np.full((C, 16), np.nan))
                else:
                    plain = decode(array, self.run["codec"], data)
                    across.append(np.frombuffer(plain, self.types[array]).reshape(C, *tail))
            parts.append(np.concatenate(across, axis=1) if array == "scalars" and columns else across[0])
        whole = np.concatenate(parts)[:rows] if parts else np.empty((0, *tail), self.types[array])
        return whole[:, : len(self.names)] if array == "scalars" else whole

    def overlay(self) -> None:
        for file in sorted(self.folder.glob(".journal-*")):
            n = int(file.name[-6:])
            if n * self.run["chunk"] < len(self.rows["step"]):
                continue
            owner = f"{self.run['uuid']}/{self.folder.name}"
            names, rows = read_journal(file.read_bytes(), owner, n, len(self.run["groups"]), self.run["sketch"]["k"])
            if not rows:
                continue
            must(n * self.run["chunk"] == len(self.rows["step"]), "hole before a journal")
            everything = list(dict.fromkeys([*self.names, *names]))
            old = np.full((len(self.rows["step"]), len(everything)), np.nan)
            old[:, : len(self.names)] = self.rows["scalars"]
            new = np.full((len(rows), len(everything)), np.nan)
            for i, row in enumerate(rows):
                for column, value in row["scalars"].items():
                    new[i, everything.index(names[column])] = value
            self.names = everything
            for array in self.types.keys() - {"scalars"}:
                self.rows[array] = np.concatenate([self.rows[array], np.array([row[array] for row in rows])])
            self.rows["scalars"] = np.concatenate([old, new])


def read_journal(data: bytes, owner: str, n: int, G: int, k: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Section 6."""
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    update = unknown = np.full((G, k), np.nan, np.float32)
    if len(data) < 12:
        return names, rows
    must(
        data[:4] == b"GLJ1" and struct.unpack_from("<II", data, 4) == (n, crc32c(data[:8] + owner.encode())),
        "journal head",
    )
    at = 12
    while len(data) - at >= 8:
        length, crc = struct.unpack_from("<II", data, at)
        payload = data[at + 8 : at + 8 + length]
        if len(payload) < length:
            must(_fits(payload, length, G, k), "journal record")
            break
        must(length and crc32c(payload) == crc, "journal record")
        if payload[:1] == b"N":
            names = json.loads(payload[1:])
        elif payload[:1] == b"U":
            must(length == 4 + 4 * G * k, "length of an update")
            update = np.frombuffer(payload, "<f4", offset=4).reshape(G, k)
        elif payload[:1] == b"R":
            count, flags, step = struct.unpack_from("<HIq", payload, 2)
            must(length == 16 + 8 * (G + count) + 4 * G * k, "length of a row")
            rows.append(
                {
                    "step": step,
                    "flags": flags,
                    "group_norm2": np.frombuffer(payload, "<f8", G, 16),
                    "scalars": dict(enumerate(np.frombuffer(payload, "<f8", count, 16 + 8 * G).tolist())),
                    "sketch": np.frombuffer(payload, "<f4", G * k, 16 + 8 * (G + count)).reshape(G, k),
                    "update": update,
                }
            )
            update = unknown
        elif payload[:1] == b"A":
            count, row = struct.unpack_from("<HI", payload, 2)
            for i in range(count):
                column, value = struct.unpack_from("<Id", payload, 8 + 12 * i)
                rows[row]["scalars"][column] = value
        at += 8 + length
    return names, rows


def _fits(payload: bytes, length: int, G: int, k: int) -> bool:
    if len(payload) < 8:
        return True
    (count,) = struct.unpack_from("<H", payload, 2)
    if payload[:1] == b"R":
        return length == 16 + 8 * (G + count) + 4 * G * k
    if payload[:1] == b"U":
        return length == 4 + 4 * G * k
    return length == 8 + 12 * count if payload[:1] == b"A" else payload[:1] == b"N"


# --- section 2 and 9: the run ------------------------------------------------------------------------------


class Run:
    """``header``, ``segments`` by name, and the two views."""

    def __init__(self, path: Path) -> None:
        root = (path / "zarr.json").read_bytes()
        self.header = json.loads(root)["attributes"]["gradlog"]
        must(int(self.header["format"].split(".")[0]) == 1, "major version")
        folders = sorted(p for p in path.iterdir() if re.fullmatch(r"seg-\d{6}-r\d{4}", p.name))
        self.segments = {p.name: Segment(p, self.header, root) for p in folders}

    def launches(self) -> list[list[Segment]]:
        """Segments that one launch of the job recorded; the newest launch first."""
        left = sorted(self.segments.values(), key=lambda s: (s.header["rank"], s.header["number"]))
        found = []
        while left:
            newest = {s.header["rank"]: s for s in left}
            leader = max(newest.values(), key=lambda s: s.header["number"])
            before = [s for s in left if s.header["rank"] == leader.header["rank"] and s is not leader]
            members = []
            for s in newest.values():
                together = s.header["number"] == leader.header["number"]
                if not together and before:
                    here, there, then = (np.datetime64(x.header["opened"][:23]) for x in (s, leader, before[-1]))
                    same = not (len(s.rows["step"]) and len(leader.rows["step"])) or (
                        s.rows["step"][0] == leader.rows["step"][0]
                    )
                    together = bool(abs(here - there) < abs(here - then)) and same
                if together:
                    members.append(s)
            left = [s for s in left if s not in members]
            found.append(members)
        return found

    def view(self, name: str = "latest") -> dict[str, np.ndarray]:
        """Step and sketch (sum over ranks) of the rows of a view."""
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        horizon = None
        for members in self.launches():
            common = sorted(set.intersection(*(set(m.rows["step"].tolist()) for m in members)))
            if not common:
                continue
            steps = np.array([t for t in common if name == "all" or horizon is None or t < horizon], np.int64)
            picked = [m.rows["sketch"][np.searchsorted(m.rows["step"], steps)] for m in members]
            total = picked[0].copy()
            for other in picked[1:]:
                total += other
            kept.append((steps, total))
            first = common[0]
            parent_step = members[0].header["parent_step"]
            first = first if parent_step is None else min(first, parent_step + 1)
            horizon = first if horizon is None else min(horizon, first)
        kept.reverse()
        return {"step": np.concatenate([s for s, _ in kept]), "sketch": np.concatenate([x for _, x in kept])}
