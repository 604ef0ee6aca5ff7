"""Which rank writes, where every rank holds whole parameters and nobody knows whether they are the same ones.

Ranks learn it from each other's notes in the store that they met by. That is no collective operation: a rank that never
calls ``attach`` holds nobody up for longer than :data:`WAIT`.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import warnings

import torch
import torch.distributed as dist

from gradlog.errors import GradlogWarning, UnsupportedError
from gradlog.format.chain import digest

WAIT = 10.0
"""Seconds that a rank waits for the notes of the others."""

_calls = itertools.count()


def world_size() -> int:
    """Return how many processes train together, 1 where torch does not know of several."""
    return int(dist.get_world_size()) if dist.is_available() and dist.is_initialized() else 1


def writes(path: str | os.PathLike[str], named: list[tuple[str, torch.Tensor]]) -> bool:
    """Whether this rank writes a run: the first of those that share a path does, for all of them.

    Ranks without a path, "", share that of rank 0.

    Raises
    ------
    UnsupportedError
        Ranks that share a path hold other parameters, as the stages of a pipeline do.
    """
    me = int(dist.get_rank())
    layout = digest(json.dumps([(name, list(p.shape)) for name, p in named]).encode())
    notes = _exchange(next(_calls), [os.fspath(path), layout])
    if notes is None:
        warnings.warn(
            f"{os.fspath(path)}: not every rank called gradlog.attach within {WAIT:.0f} seconds, so that nobody knows "
            "whether they hold the same parameters; rank 0 records its own",
            GradlogWarning,
            stacklevel=2,
        )
        return me == 0
    notes = [[place or notes[0][0], shapes] for place, shapes in notes]
    mine = notes[me]
    together = [rank for rank, note in enumerate(notes) if note[0] == mine[0]]
    if odd := [rank for rank in together if notes[rank] != notes[together[0]]]:
        raise UnsupportedError(
            f"rank {odd[0]} holds other parameters than rank {together[0]}, as in a pipeline, and both would record to "
            f"{mine[0]}; give each rank a path of its own, and each records its part"
        )
    return me == together[0]


def _exchange(call: int, note: list[str]) -> list[list[str]] | None:
    """Return the notes of all ranks, in order; None where some rank left none."""
    store = dist.distributed_c10d._get_default_store()
    if store is None:  # MPI has its own way to meet
        return None
    keys = [f"gradlog/{call}/{rank}" for rank in range(dist.get_world_size())]
    store.set(keys[dist.get_rank()], json.dumps(note))
    try:
        store.wait(keys, datetime.timedelta(seconds=WAIT))
    except (dist.DistStoreError, RuntimeError):
        return None
    return [json.loads(store.get(key)) for key in keys]
