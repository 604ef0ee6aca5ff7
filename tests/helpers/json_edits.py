"""Edits of a JSON document at any of its places, as an attacker or an accident makes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every value inside a JSON document."""
    if path:
        yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = copy.deepcopy(value)  # a later edit may go inside it


def dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
