"""Numbers over steps from files of experiment trackers: event files of TensorBoard, tables with a step column, MLflow.

The files are a stranger's: they are read once, in pieces of bounded size, and nothing in them is executed.
"""

from __future__ import annotations

import csv
import math
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c

from gradlog.errors import UnusableInputError

LARGEST, MOST_BYTES, MOST_POINTS, MOST_TAGS = 2**20, 2**32, 20_000_000, 1000
"""Bytes of a record or line and of a file, points and names that are read; longer records hold pictures and are passed
over."""

STEPS = ("step", "_step", "global_step", "global step", "iteration")
"""Headings of a column of steps, whatever their case."""

ADVICE = "read are event files of TensorBoard, .csv and .tsv with a column of steps, and metric files of MLflow"


Fields = list[tuple[int, int | bytes]]
"""Numbers of fields, and what they hold."""


class Points(NamedTuple):
    """Numbers under one name: their steps, and the numbers, in the order of the file."""

    steps: array[int]
    values: array[float]


def read_points(path: Path, tag: str) -> tuple[str, Points]:
    """Read the numbers of one name.

    Parameters
    ----------
    path : Path
        An event file or a folder of them, a table, or a file below ``metrics`` of an MLflow run.
    tag : str
        Name in the file, or the last part of it: ``loss`` finds ``train/loss`` where no other name ends so.

    Returns
    -------
    name : str
        The name in full.
    points : Points

    Raises
    ------
    UnusableInputError
        No such file, a kind that is not read, damage, no such name, or several.
    """
    found: dict[str, Points] = {}
    count = 0
    for name, step, value in _points(path):
        if name not in found and len(found) >= MOST_TAGS:
            continue
        own = found.setdefault(name, Points(array("q"), array("d")))
        if _ends(name, tag):
            own.steps.append(step)
            own.values.append(value)
            count += 1
            if count > MOST_POINTS:
                raise UnusableInputError(f"{path}: more than {MOST_POINTS:,} points under {tag!r}")
    fitting = [tag] if tag in found else [name for name in found if _ends(name, tag)]
    if len(fitting) != 1:
        names = ", ".join(repr(name) for name in (fitting or list(found))[:8]) or "no numbers at all"
        raise UnusableInputError(f"{path}: expected one name {tag!r}, found {names}; write FILE:NAME")
    return fitting[0], found[fitting[0]]


def _ends(name: str, tag: str) -> bool:
    return name == tag or name.endswith((f"/{tag}", f" - {tag}"))


def _points(path: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and number, in the order of the file."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if "tfevents" in p.name)
            if not files:
                raise UnusableInputError(f"{path}: a folder without event files; {ADVICE}")
            for file in files:
                yield from _points(file)
        elif not path.is_file():
            raise UnusableInputError(f"{path}: no such file; {ADVICE}")
        elif path.stat().st_size > MOST_BYTES:
            raise UnusableInputError(f"{path}: larger than {MOST_BYTES:,} bytes")
        elif "tfevents" in path.name:
            yield from _events(path)
        elif path.suffix in (".csv", ".tsv"):
            yield from _table(path)
        elif "metrics" in path.parts[:-1]:
            yield from _metric(path)
        else:
            raise UnusableInputError(f"{path}: no kind of file that is read; {ADVICE}")
    except OSError as error:
        raise UnusableInputError(f"{path}: {error.strerror or error}") from error


def _table(path: Path) -> Iterator[tuple[str, int, float]]:
    """Read a table whose first row has the names."""
    rows = csv.reader(_lines(path), delimiter="\t" if path.suffix == ".tsv" else ",")
    try:
        names = next(rows, [])
        at = next((i for i, name in enumerate(names) if name.strip().lower() in STEPS), None)
        if at is None:
            there = ", ".join(repr(name) for name in names[:8]) or "nothing"
            raise UnusableInputError(f"{path}: expected a column named step in the first row, found {there}")
        for row in rows:
            step = _number(row[at]) if len(row) > at else math.nan
            if step.is_integer() and abs(step) < 2**63:
                for i, (name, cell) in enumerate(zip(names, row, strict=False)):
                    if i != at and cell.strip():
                        yield name, int(step), _number(cell)
    except csv.Error as error:
        raise UnusableInputError(f"{path}: {error}") from error


def _metric(path: Path) -> Iterator[tuple[str, int, float]]:
    """Read lines of time, number and step."""
    for line in _lines(path):
        cells = line.split()
        step = _number(cells[2]) if len(cells) > 2 else math.nan
        if step.is_integer() and abs(step) < 2**63:
            yield path.name, int(step), _number(cells[1])


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        while line := file.readline(LARGEST):
            if len(line) == LARGEST:
                raise UnusableInputError(f"{path}: a line of more than {LARGEST:,} letters")
            yield line


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _events(path: Path) -> Iterator[tuple[str, int, float]]:
    """Read the records of an event file; a last one that is not complete is still being written."""
    with path.open("rb") as file:
        size = path.stat().st_size
        while len(head := file.read(12)) == 12:
            (length,), known = struct.unpack("<Q", head[:8]), head[8:]
            if masked_crc(head[:8]) != known:
                raise UnusableInputError(f"{path}: not an event file, or damaged before byte {file.tell():,}")
            if file.tell() + length + 4 > size:
                return
            if length > LARGEST:
                file.seek(length + 4, 1)
            else:
                yield from _record(path, file, length)


def _record(path: Path, file: BinaryIO, length: int) -> Iterator[tuple[str, int, float]]:
    data, known = file.read(length), file.read(4)
    if masked_crc(data) != known:
        raise UnusableInputError(f"{path}: damaged before byte {file.tell():,}")
    try:
        event = _fields(data)
        step = _whole(event, 2)
        for summary in _messages(event, 5):
            for value in map(_fields, _messages(_fields(summary), 1)):
                number = _scalar(value)
                if number is not None:
                    yield _bytes(value, 1).decode("utf-8", "replace"), step, number
    except (IndexError, struct.error) as error:
        raise UnusableInputError(f"{path}: a record that is no event before byte {file.tell():,}") from error


def _scalar(value: Fields) -> float | None:
    """Return the number of a summary: simple_value, or a tensor of one float or double; None for all else."""
    simple = _bytes(value, 2)
    if len(simple) == 4:
        return float(struct.unpack("<f", simple)[0])
    tensor = _fields(_bytes(value, 8))
    size, form = {1: (4, "<f"), 2: (8, "<d")}.get(_whole(tensor, 1), (0, ""))
    held = [data for field in (4, 5, 6) if len(data := _bytes(tensor, field)) == size]  # tensor_content, ..._val
    return float(struct.unpack(form, held[0])[0]) if size and held else None


def _fields(data: bytes) -> Fields:
    """Cut a protocol buffer into its fields: whole numbers as they stand, all else as bytes."""
    found: Fields = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            found.append((key >> 3, value))
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, len(data)), at)
        if at + length > len(data):
            raise IndexError(length)
        found.append((key >> 3, data[at : at + length]))
        at += length
    return found


def _messages(fields: Fields, number: int) -> list[bytes]:
    return [value for own, value in fields if own == number and isinstance(value, bytes)]


def _bytes(fields: Fields, number: int) -> bytes:
    return next(reversed(_messages(fields, number)), b"")


def _whole(fields: Fields, number: int) -> int:
    """Return a whole number of 64 bits, 0 where there is none."""
    value = next((value for own, value in reversed(fields) if own == number and isinstance(value, int)), 0)
    return value - 2**64 if value >= 2**63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise IndexError(at)


def masked_crc(data: bytes) -> bytes:
    """Checksum of records of event files."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
