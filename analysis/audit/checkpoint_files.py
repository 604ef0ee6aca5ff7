"""Parameters from a model checkpoint, without running anything that it contains.

Read are safetensors, numpy's npz (no pickled objects) and torch files (``weights_only``: tensors, numbers, strings).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import CorruptRunError, GradientError, MissingDependencyError, SpecMismatchError
from gradlog.format.header import FULL_BITS, TensorInfo
from gradlog.sketching.groups import canonical
from gradlog.sketching.pytree import as_numpy

_STATE = {"uuid", "segment", "rows", "head", "step"}
_HEADER = 100 * 2**20
_SAFE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "C64": "<c8"}

_BITS = {"float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}
"""Mantissa bits of the types below float32."""


Parameters = NDArray[np.inexact]
"""Of a tensor: float64 or complex128."""


class Checkpoint(NamedTuple):
    """Arrays by name, logger states that the file carries, and dtypes in the file of arrays that were widened."""

    path: Path
    arrays: Mapping[str, object]
    states: Sequence[Mapping[str, object]]
    stored: Mapping[str, str] = MappingProxyType({})


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; the format is told by the ending (.safetensors, .npz, anything else: torch).

    Raises
    ------
    CorruptRunError
        It cannot be read, or it holds objects other than data.
    MissingDependencyError
        A torch file, and torch is not installed.
    """
    try:
        if path.suffix == ".safetensors":
            stored: dict[str, str] = {}
            return Checkpoint(path, dict(_safetensors(path, stored)), [], stored)
        if path.suffix == ".npz":
            return Checkpoint(path, dict(_npz(path)), [])
        tree = _torch(path)
        return Checkpoint(path, dict(_arrays(tree, "")), list(_states(tree)))
    except MissingDependencyError:
        raise
    except Exception as error:
        raise CorruptRunError(f"{path}: no checkpoint of plain arrays that can be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Say why a file is none, and what would be one; torch's own text advises to execute what is in the file."""
    first = str(error).partition("\n")[0] or type(error).__name__
    if "allow_pickle" in first:
        return "it holds Python objects, which are not loaded; expected arrays of numbers"
    if not isinstance(error, pickle.UnpicklingError):
        return first
    found = re.search(r"GLOBAL (\S{1,80}) was not", str(error))
    what = f"it holds {found[1]}" if found else "no torch file, or one of other objects than tensors"
    return (
        f"{what}; expected tensors, numbers and text alone, as torch.load(..., weights_only=True) takes them: "
        "save model.state_dict(), and vars(args) for a Namespace"
    )


def rounded(checkpoint: Checkpoint, tensors: Sequence[TensorInfo]) -> str:
    """Say where a checkpoint holds fewer digits than the run's parameters had; empty where it holds them all.

    Raises
    ------
    SpecMismatchError
        A tensor is missing.
    """
    for t, name in zip(tensors, _places(checkpoint, tensors), strict=True):
        held = checkpoint.stored.get(name) or str(getattr(checkpoint.arrays[name], "dtype", "")).removeprefix("torch.")
        if _BITS.get(held, FULL_BITS) < _BITS.get(t.dtype, FULL_BITS):
            return (
                f"{checkpoint.path.name}: {t.name} is {held} there, the run trained it in {t.dtype}: rounding hides "
                f"what would be compared; save a checkpoint in {t.dtype}"
            )
    return ""


def parameters(checkpoint: Checkpoint, tensors: Sequence[TensorInfo]) -> list[Parameters]:
    """Values of the run's tensors, float64 or complex128, in order, wherever in the checkpoint they stand together.

    Raises
    ------
    SpecMismatchError
        A tensor is missing or has another shape.
    """
    found = []
    for t, name in zip(tensors, _places(checkpoint, tensors), strict=True):
        try:
            a = as_numpy(checkpoint.arrays[name], t.name)
        except GradientError as error:  # numpy's own files do not keep the name of bfloat16
            raise SpecMismatchError(f"{checkpoint.path}: {error}; save it as {t.dtype}") from error
        if a is None or a.shape != t.shape:
            shape = None if a is None else a.shape
            raise SpecMismatchError(f"{checkpoint.path}: {t.name} is {shape}, the run has {t.shape}")
        found.append(np.asarray(a, np.complex128 if np.iscomplexobj(a) else np.float64))
    return found


def _places(checkpoint: Checkpoint, tensors: Sequence[TensorInfo]) -> list[str]:
    """Names in the checkpoint of the run's tensors, in order; SpecMismatchError where one is missing."""
    names = {canonical(name): name for name in checkpoint.arrays}
    wanted = tensors[0].name
    prefixes = sorted({n.removesuffix(wanted) for n in names if n == wanted or n.endswith("." + wanted)}, key=len)
    for prefix in prefixes:
        if all(prefix + t.name in names for t in tensors):
            return [names[prefix + t.name] for t in tensors]
    missing = next((t.name for t in tensors if not any(n == t.name or n.endswith("." + t.name) for n in names)), wanted)
    raise SpecMismatchError(f"{checkpoint.path}: no array named {missing!r}; it has {sorted(names)[:4]} ...")


def _torch(path: Path) -> object:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(f"{path}: reading a torch file needs torch: pip install torch") from error
    return torch.load(path, map_location="cpu", weights_only=True)


def _arrays(tree: object, path: str) -> Iterator[tuple[str, object]]:
    if hasattr(tree, "__array__"):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _arrays(value, f"{path}.{key}" if path else str(key))


def _states(tree: object) -> Iterator[Mapping[str, object]]:
    if isinstance(tree, Mapping):
        if tree.keys() >= _STATE and isinstance(tree["head"], str):
            yield tree
        else:
            for value in tree.values():
                yield from _states(value)


def _npz(path: Path) -> Iterator[tuple[str, NDArray[np.generic]]]:
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as file:
        for name in file.files:
            info = archive.getinfo(name if name in archive.namelist() else name + ".npy")
            if info.file_size > 1024 * max(info.compress_size, 2**16):
                raise ValueError(f"{name} unpacks {info.file_size / max(info.compress_size, 1):.0f}-fold")
            yield name, file[name]


def _safetensors(path: Path, stored: dict[str, str]) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Read a u64 length, a JSON header of that length, then the data (the format that safetensors documents).

    ``stored`` gets the dtype of what is widened.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _HEADER):
            raise ValueError(f"a header of {length} bytes")
        for name, entry in json.loads(file.read(length)).items():
            if name == "__metadata__" or entry["dtype"] not in _SAFE:
                continue
            (start, stop), shape = entry["data_offsets"], tuple(entry["shape"])
            dtype = np.dtype(_SAFE[entry["dtype"]])
            if not 0 <= start <= stop <= size - 8 - length or stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} lies outside the file")
            file.seek(8 + length + start)
            data = np.frombuffer(file.read(stop - start), dtype).reshape(shape)
            if entry["dtype"] == "BF16":
                stored[name], data = "bfloat16", _widen(data)
            yield name, data


def _widen(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
