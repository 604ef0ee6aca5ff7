"""The journal's records: rows that are safe on disk but not yet in chunks. Layout only, no file is touched.

A journal has a head and then records, little-endian. The head is ``GLJ1 | chunk u32 | crc32c u32``, the checksum taken
over these eight bytes and the owner's name. No name is stored, but a journal of another segment or run is refused.
``chunk`` is the index of the chunk that the rows will become. A record is ``length u32 | crc32c u32 | payload``, where
``length`` counts the payload. Payload by its first byte:

====  ==========================================================================================
 N    scalar names, a JSON list; column i of the scalars from here on is name i (names only grow)
 R    a row: pad u8, n_scalars u16, flags u32, step i64, norm2 f64[G], scalars f64[n], sketch f32[G k]
 U    what the step of the row that follows did to the parameters: pad u8[3], update f32[G k]
 A    annotation: pad u8, n u16, row u32 (index in this journal), then n pairs (column u32, value f64)
====  ==========================================================================================

Records of another kind are ignored. A last record that is cut short (a killed process, a full disk) ends the
journal and is normal; anything else that is no whole record is damage. What stands before it counts either way.

A sketch of the parameters that waits for its flush has a file of its own. Older readers ignore it for its ``.partial``
name. It has a head with the sketch's number in the place of the chunk's, and one record: ``T`` pad u8[7], step i64,
theta f32[G k].
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gradlog.errors import CorruptRunError
from gradlog.format import fields, limits
from gradlog.format.layout import OPTIONAL
from gradlog.format.names import JOURNAL, JOURNAL_PATTERN, WAITING_PATTERN

_MAGIC = b"GLJ1"
_HEAD = struct.Struct("<4sII")
_FRAME = struct.Struct("<II")
_ROW = struct.Struct("<cxHIq")
_NOTE = struct.Struct("<cxHI")
_OPTIONAL = struct.Struct("<c3x")
_SNAPSHOT = struct.Struct("<c7xq")
_PAIR = np.dtype([("column", "<u4"), ("value", "<f8")])

_NAMES = {array.record: name for name, array in OPTIONAL.items()}
"""Optional arrays by the kind of their records, each of which stands before the row that it belongs to."""


def _crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def owner(uuid: str, segment: str) -> str:
    """Whose journal it is: a segment of the run with this uuid.

    >>> owner("0f", "seg-000000-r0000")
    '0f/seg-000000-r0000'
    """
    return f"{uuid}/{segment}"


def head(chunk: int, owner: str) -> bytes:
    """First bytes of the journal of chunk ``chunk``."""
    start = _HEAD.pack(_MAGIC, chunk, 0)[:8]
    return start + _crc(start + owner.encode()).to_bytes(4, "little")


def frame(payload: bytes) -> bytes:
    """Wrap a payload into a record."""
    return _FRAME.pack(len(payload), _crc(payload)) + payload


def names_record(names: list[str]) -> bytes:
    """Record of the scalar names known so far."""
    return frame(b"N" + json.dumps(names).encode())


def row_bytes(groups: int, k: int, scalars: int, optional: int = 0) -> int:
    """Bytes of the record of a row with so many scalars, and of those of its optional arrays.

    >>> row_bytes(2, 8, 3), row_bytes(2, 8, 3, optional=1)
    (128, 204)
    """
    sketch = 4 * groups * k
    row = _FRAME.size + _ROW.size + 8 * groups + 8 * scalars + sketch
    return row + optional * (_FRAME.size + _OPTIONAL.size + sketch)


def row_record(
    step: int,
    flags: int,
    norm2: NDArray[np.float64],
    sketch: NDArray[np.float32],
    scalars: NDArray[np.float64],
    optional: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> bytes:
    """Record of one row: ``norm2`` (G,), ``sketch`` (G, k), ``scalars`` (n,); ``optional`` (G, k) theirs before."""
    row = _record(_ROW.pack(b"R", len(scalars), flags, step), norm2, scalars, sketch)
    before = [piece for name, x in optional.items() for piece in _record(_OPTIONAL.pack(OPTIONAL[name].record), x)]
    return b"".join([*before, *row])


def _record(start: bytes, *values: NDArray[np.floating]) -> list[bytes | memoryview]:
    """Pieces of a record: the arrays, most of it, are checked where they lie and copied when all is joined."""
    crc, length = _crc(start), len(start)
    arrays = [np.ascontiguousarray(x, x.dtype.newbyteorder("<")).reshape(-1).view(np.uint8) for x in values]
    for array in arrays:
        crc, length = google_crc32c.extend(crc, array), length + len(array)
    return [_FRAME.pack(length, crc), start, *(array.data for array in arrays)]


def annotation_record(row: int, columns: list[int], values: list[float]) -> bytes:
    """Record that sets scalars of row ``row`` of this journal."""
    pairs = np.array(list(zip(columns, values, strict=True)), _PAIR)
    return frame(_NOTE.pack(b"A", len(columns), row) + pairs.tobytes())


def snapshot_file(number: int, owner: str, step: int, theta: NDArray[np.float32]) -> bytes:
    """File of the segment's ``number``-th sketch (G, k) of the parameters, taken before ``step``."""
    payload = _SNAPSHOT.pack(b"T", step) + np.ascontiguousarray(theta, "<f4").tobytes()
    return head(number, owner) + frame(payload)


def read_snapshot(data: bytes, number: int, owner: str, groups: int, k: int) -> tuple[int, NDArray[np.float32]] | None:
    """Step and sketch (groups, k) in such a file; None where a kill cut it short, or it is another's."""
    found, at = _chunk(data, owner)
    whole = _HEAD.size + _FRAME.size + _SNAPSHOT.size + 4 * groups * k
    payload = _payload(data, at) if found == number and len(data) == whole else None
    if payload is None or payload[:1] != b"T":
        return None
    theta = np.frombuffer(payload, "<f4", offset=_SNAPSHOT.size).reshape(groups, k)
    return int(_SNAPSHOT.unpack_from(payload)[1]), theta.astype(np.float32)


@dataclasses.dataclass
class Journal:
    """Rows read back from one journal file.

    Attributes
    ----------
    step : (rows,) int64
    flags : (rows,) uint32
    norm2 : (rows, G) float64
    sketch : (rows, G, k) float32
    optional : dict of str to (rows, G, k) float32, NaN where not recorded; of the arrays that some row has
    scalars : (rows, names) float64, NaN where not logged
    names : list of str
    unread : int
        Bytes after the last whole record, which were left aside.
    chunk : int
        Index of the chunk that these rows become; -1 where the head itself is damaged.
    damaged : bool
        Whether the unread bytes are anything but one last record that was cut short.
    """

    step: NDArray[np.int64]
    flags: NDArray[np.uint32]
    norm2: NDArray[np.float64]
    sketch: NDArray[np.float32]
    scalars: NDArray[np.float64]
    names: list[str]
    unread: int
    chunk: int
    damaged: bool = False
    optional: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    @property
    def torn(self) -> bool:
        """Whether the journal ends in an incomplete or damaged record."""
        return self.unread > 0

    def __len__(self) -> int:
        return len(self.step)


def read_journal(data: bytes, owner: str, groups: int, k: int) -> Journal:
    """Read every whole record of a journal's bytes.

    Never raises on damaged data: the first record that is short, or that its checksum contradicts, ends it, as does
    one with which the scalars would take much more memory than the file has bytes.

    Parameters
    ----------
    data : bytes
        The file's content.
    owner : str
        Of whom :func:`owner` says that it is; another's journal counts as damaged at its head.
    groups, k : int
        Shape of a row, from the run's header.
    """
    names: list[str] = []
    rows: list[tuple[int, int]] = []
    norm2, sketch, scalars = [], [], []
    optional: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in OPTIONAL}
    notes: list[tuple[int, NDArray[np.void]]] = []
    width = row_bytes(groups, k, 0) - _FRAME.size
    most = (len(data) + limits.WIDENED) // 8
    chunk, at = _chunk(data, owner)
    while chunk >= 0 and at < len(data):
        payload = _payload(data, at)
        if payload is None:
            break
        kind = payload[:1]
        if kind == b"R" and len(payload) >= width:
            _, n, flags, step = _ROW.unpack_from(payload)
            if len(payload) != width + 8 * n or (len(rows) + 1) * len(names) > most:
                break
            rows.append((step, flags))
            norm2.append(np.frombuffer(payload, "<f8", groups, _ROW.size))
            scalars.append(np.frombuffer(payload, "<f8", n, _ROW.size + 8 * groups))
            sketch.append(np.frombuffer(payload, "<f4", groups * k, _ROW.size + 8 * (groups + n)))
        elif kind in _NAMES:
            if len(payload) != _OPTIONAL.size + 4 * groups * k:
                break
            values = np.frombuffer(payload, "<f4", offset=_OPTIONAL.size).reshape(groups, k)
            optional[_NAMES[kind]][len(rows)] = values
        elif kind == b"N":
            told = _names(payload)
            if told is None or len(rows) * len(told) > most:
                break
            names = told
        elif kind == b"A" and len(payload) >= _NOTE.size:
            _, n, row = _NOTE.unpack_from(payload)
            if row >= len(rows) or len(payload) != _NOTE.size + n * _PAIR.itemsize:
                break
            notes.append((row, np.frombuffer(payload, _PAIR, n, _NOTE.size)))
        elif kind in b"RA":
            break
        at += _FRAME.size + len(payload)
    unread = len(data) - at
    return Journal(
        step=np.array([s for s, _ in rows], np.int64),
        flags=np.array([f for _, f in rows], np.uint32),
        norm2=np.array(norm2, np.float64).reshape(len(rows), groups),
        sketch=np.array(sketch, np.float32).reshape(len(rows), groups, k),
        scalars=_table(scalars, notes, len(names)),
        names=names,
        unread=unread,
        chunk=chunk,
        damaged=unread > 0 and not _cut_short(data[at:], width if chunk >= 0 else 0, 4 * groups * k),
        optional=_tables(optional, (len(rows), groups, k)),
    )


def _tables(
    known: dict[str, dict[int, NDArray[np.float32]]], shape: tuple[int, int, int]
) -> dict[str, NDArray[np.float32]]:
    """Return the optional arrays that some row has, (rows, groups, k), NaN where a row has none."""
    tables = {}
    for name, sketches in known.items():
        there = [row for row in sketches if row < shape[0]]  # one may wait for a row that was cut off
        if there:
            tables[name] = np.full(shape, np.nan, np.float32)
        for row in there:
            tables[name][row] = sketches[row]
    return tables


def _chunk(data: bytes, owner: str) -> tuple[int, int]:
    """Chunk index of a journal and where its records begin; -1 and 0 where the head is damaged."""
    if len(data) < _HEAD.size:
        return -1, 0
    magic, chunk, crc = _HEAD.unpack_from(data)
    return (chunk, _HEAD.size) if magic == _MAGIC and crc == _crc(data[:8] + owner.encode()) else (-1, 0)


def _cut_short(data: bytes, width: int, sketch: int) -> bool:
    """Whether the last bytes of a journal look like the beginning of one record (``width`` 0: of the head)."""
    if width == 0:
        return len(data) < _HEAD.size and _MAGIC.startswith(data[:4])
    begun = data[_FRAME.size :]
    if len(data) < _FRAME.size or len(begun) < _NOTE.size:
        return True
    length: int = _FRAME.unpack_from(data)[0]
    if begun[:1] == b"N":
        return len(begun) < length and not _begins_with_list(begun[1:])
    n: int = _ROW.unpack_from(begun + bytes(_ROW.size))[1]
    sizes = {b"R": width + 8 * n, b"A": _NOTE.size + n * _PAIR.itemsize}
    expected = (sizes | dict.fromkeys(_NAMES, _OPTIONAL.size + sketch)).get(begun[:1])
    return length == expected and len(begun) < length


def _begins_with_list(data: bytes) -> bool:
    """Whether a whole JSON list stands here: then its record is not cut short, but its length is wrong."""
    try:
        json.JSONDecoder().raw_decode(data[: limits.METADATA].decode("latin-1"))
    except (ValueError, RecursionError):
        return False
    return True


def _names(payload: bytes) -> list[str] | None:
    try:
        return list(fields.names(limits.parse_json(payload[1:], "names"), limits.COLUMNS, "names"))
    except (CorruptRunError, ValueError):
        return None


def _payload(data: bytes, at: int) -> bytes | None:
    if at + _FRAME.size > len(data):
        return None
    length, crc = _FRAME.unpack_from(data, at)
    start = at + _FRAME.size
    if not 0 < length <= len(data) - start:
        return None
    payload = data[start : start + length]
    return payload if _crc(payload) == crc else None


def _table(
    scalars: list[NDArray[np.float64]], notes: list[tuple[int, NDArray[np.void]]], columns: int
) -> NDArray[np.float64]:
    """Scalars (rows, columns): what each row was logged with, then what was set later; NaN elsewhere."""
    table = np.full((len(scalars), columns), np.nan)
    for i, values in enumerate(scalars):
        table[i, : len(values)] = values[:columns]
    for row, pairs in notes:
        for column, value in pairs[pairs["column"] < columns]:
            table[row, column] = value
    return table


def following(journals: Mapping[int, Journal], rows: int, chunk: int) -> Iterator[tuple[Journal, str]]:
    """Walk over the journals that hold rows which no chunk has, oldest first.

    Parameters
    ----------
    journals : mapping of int to Journal
        Journals of one segment by the number in their file name.
    rows : int
        Rows that chunks hold.
    chunk : int
        Rows of a chunk.

    Yields
    ------
    journal : Journal
    fault : str
        Why its rows cannot be shown as the next ones, for an error message; empty for a sound journal. A last record
        that was cut short is none: that is how a kill looks.

    Examples
    --------
    >>> list(following({}, rows=16, chunk=16))
    []
    """
    for index, journal in sorted(journals.items()):
        start, name = index * chunk, JOURNAL.format(index)
        if start < rows:
            continue  # a chunk took its rows over
        if journal.chunk >= 0 and journal.chunk != index:
            yield journal, f"{name}: holds rows of chunk {journal.chunk}"
        elif journal.damaged or len(journal) > chunk:
            yield journal, f"{name}: damaged behind row {rows + len(journal)} of the segment"
        elif len(journal) and start > rows:
            missing = JOURNAL.format(rows // chunk)
            yield journal, f"{name}: rows {rows} to {start - 1} before it are missing; {missing} held them"
        elif len(journal):
            yield journal, ""
        rows = max(rows, start + len(journal))


def read_all(
    files: Mapping[str, bytes | None], owner: str, groups: int, k: int
) -> tuple[dict[int, Journal], dict[int, tuple[int, NDArray[np.float32]]]]:
    """Read a segment's journals, by the number of their chunk, and the sketches of the parameters by their own.

    ``files`` are those of the segment by name, the newest first; None for what is gone.
    """
    found, waiting = {}, {}
    for name, data in files.items():
        match = JOURNAL_PATTERN.fullmatch(name) or WAITING_PATTERN.fullmatch(name)
        if match is None or data is None:
            continue
        number = int(match[1])
        if match.re is JOURNAL_PATTERN:
            found[number] = read_journal(data, owner, groups, k)
        elif (kept := read_snapshot(data, number, owner, groups, k)) is not None:
            waiting[number] = kept
    return found, waiting
