"""Event files of TensorBoard, written without it.

A file is a sequence of records: length (8 bytes), masked CRC-32C of the length, data, masked CRC-32C of the data. The
data are protocol buffers ``Event``; the few fields that are used stand below with their numbers, as in TensorFlow's
``event.proto`` and ``summary.proto``.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gradlog.analysis.common.text import stem, writable
from gradlog.analysis.reading.run import Run
from gradlog.analysis.reading.scalar_files import masked_crc
from gradlog.analysis.trackers.curves import OVERVIEW, Results
from gradlog.analysis.trackers.destination import Destination, Tracker
from gradlog.errors import UnusableInputError

WALL_TIME, STEP, FILE_VERSION, SUMMARY = 1, 2, 3, 5
"""Fields of Event."""
VALUE = 1
"""Of Summary."""
TAG, SIMPLE_VALUE, IMAGE = 1, 2, 4
"""Of Summary.Value."""
HEIGHT, WIDTH, COLORSPACE, ENCODED = 1, 2, 3, 4
"""Of Summary.Image."""
RGBA = 4
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5
"""Wire types of protocol buffers."""
LARGEST = (2 - 2**-23) * 2.0**127
"""Largest number in single precision."""


class TensorBoard(Tracker):
    """Adds one event file to a log folder."""

    def __init__(self, to: Destination, run: Run) -> None:
        super().__init__(to, run)
        to.refuse("TensorBoard", project="name a log folder instead", into="name the run's log folder instead")
        self.folder = Path(to.place or f"{stem(run.where)}.tensorboard")
        if "://" in str(to.place):
            raise UnusableInputError(f"{to.place}: expected a folder of this machine; write there, then copy the file")
        if (self.folder / "zarr.json").exists():
            raise UnusableInputError(f"{self.folder} is a stored run or array; name a log folder of TensorBoard")
        self.earlier = sorted(self.folder.glob(f"events.out.tfevents.*.gradlog.{run.header.uuid}"))
        if self.earlier and not to.force:
            raise FileExistsError(f"{self.earlier[0]} exists; --force replaces it")

    def write(self, results: Results) -> str:
        """See the class above."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names: the newest comes last
        target = self.folder / f"events.out.tfevents.{int(time.time()):010d}.gradlog.{results.uuid}"
        descriptor, fresh = tempfile.mkstemp(prefix=".gradlog-", dir=self.folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(map(record, events(results)))
            os.chmod(fresh, 0o644)
            for path in self.earlier:
                path.unlink()
            os.replace(fresh, target)
        except BaseException:
            os.unlink(fresh)
            raise
        return str(target)


of = TensorBoard


def events(results: Results) -> Iterator[bytes]:
    """Yield the messages of a file: its version, then a number or the picture each."""
    began = _field(WALL_TIME, DOUBLE, struct.pack("<d", results.created))
    yield began + _text(FILE_VERSION, "brain.Event:2")
    for curve in results.curves:
        name = _text(TAG, curve.tag)
        for step, value in curve.points:
            yield began + _summary(step, name + _field(SIMPLE_VALUE, FLOAT, _float(value)))
    png = results.picture.read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    image = _whole(HEIGHT, height) + _whole(WIDTH, width) + _whole(COLORSPACE, RGBA) + _bytes(ENCODED, png)
    yield began + _summary(results.last_step, _text(TAG, OVERVIEW) + _bytes(IMAGE, image))


def record(data: bytes) -> bytes:
    """Frame a message as a record of the file.

    >>> record(b"ab").hex()
    '020000000000000078270b3461621cb0f0f4'
    """
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def _summary(step: int, value: bytes) -> bytes:
    return _whole(STEP, step) + _bytes(SUMMARY, _bytes(VALUE, value))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, writable(text).encode())


def _float(value: float) -> bytes:
    """Write a number in single precision, infinite where it is too large for it."""
    return struct.pack("<f", value if abs(value) <= LARGEST else math.copysign(math.inf, value))


def _whole(field: int, number: int) -> bytes:
    return _field(field, VARINT, _varint(number))


def _bytes(field: int, data: bytes) -> bytes:
    return _field(field, BYTES, _varint(len(data)) + data)


def _field(number: int, wire_type: int, data: bytes) -> bytes:
    return _varint(number << 3 | wire_type) + data


def _varint(number: int) -> bytes:
    """Write a whole number, 7 bits a byte, the lowest first; a negative one as its 64-bit complement."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
