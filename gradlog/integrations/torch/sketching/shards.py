"""Which coordinates of a DTensor this rank holds, and the sum of all ranks' sketches.

Under fully sharded training no rank sees the whole gradient. The sketch is linear, and its random numbers are keyed by
(tensor name, offset). So each rank sketches its own shard where it belongs, and one all-reduce of groups x k
floats gives what an unsharded run would have recorded. A shard that is replicated over a dimension of the mesh is
counted by the first of its holders only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from gradlog.errors import UnsupportedError
from gradlog.format.header import RunHeader
from gradlog.integrations.sketch_tables import Part
from gradlog.integrations.torch.sketching.flats import Flat, flat
from gradlog.integrations.torch.sketching.sketch import fetch
from gradlog.integrations.torch.types import Floats


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor (FSDP2 ``fully_shard``, tensor parallel)."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def require_agreement(header: RunHeader, named: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Check that all ranks hold parts of the same parameters; every rank must call this.

    Raises
    ------
    UnsupportedError
        On every rank, if one of them holds other parameters than rank 0.
    """
    mine = [(t.name, t.shape) for t in header.tensors] == [(name, tuple(p.shape)) for name, p in named]
    all_of_them: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(all_of_them, mine)
    if not all(all_of_them):
        raise UnsupportedError(
            f"rank {all_of_them.index(False)} holds other parameters than rank 0: sketches are summed over all ranks, "
            "so each parameter must be on all of them (pipeline parallel runs are not recorded)"
        )


class Shard:
    """Part of one parameter that this rank holds.

    Parameters
    ----------
    p : Tensor or DTensor
        The parameter. A plain one beside sharded ones is the same on all ranks, and rank 0 counts it.
    """

    def __init__(self, p: torch.Tensor) -> None:
        self._like = p
        self._sharded = is_sharded(p)
        self._box: tuple[slice, ...] | None = None
        self._counted = dist.get_rank() == 0
        self._offset, self._size = 0, p.numel()
        if self._sharded:
            self._locate(p)

    def _locate(self, p: torch.Tensor) -> None:
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        mesh = p.device_mesh
        where = mesh.get_coordinate()
        # On a mesh of some of the ranks, the others hold copies on meshes of their own: the one with rank 0 counts.
        self._counted = bool((mesh.mesh == 0).any()) and all(
            c == 0 for c, place in zip(where, p.placements, strict=True) if place.is_replicate()
        )
        shape, offset = compute_local_shape_and_global_offset(p.shape, mesh, p.placements)
        self._size = math.prod(shape)
        if self._size == 0:
            return
        split = next((d for d in range(p.ndim) if shape[d] != p.shape[d]), p.ndim)
        inside = all(shape[d] == p.shape[d] for d in range(split + 1, p.ndim))
        if inside and math.prod(p.shape[:split]) == 1:
            self._offset = offset[split] * math.prod(p.shape[split + 1 :]) if split < p.ndim else 0
        else:
            # No contiguous range of the full tensor: lay it out with zeros around it.
            self._box = tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))
            self._size = p.numel()

    def part(self, name: str, group: int) -> Part:
        """Name it for the sketch; complex coordinates count twice."""
        n = 2 if self._like.is_complex() else 1
        return Part(name, group, n * self._size, n * self._offset)

    def flat(self, tensor: torch.Tensor | None) -> Flat:
        """Coordinates of this rank's part of a gradient or parameter; None where another rank counts them."""
        if tensor is None:
            return None
        if self._sharded:
            if any(place.is_partial() for place in tensor.placements):
                tensor = tensor.redistribute(placements=self._like.placements)
            tensor = tensor.to_local()
        if not self._counted:
            return None
        tensor = tensor.detach()
        if self._box is not None:
            whole = tensor.new_zeros(self._like.shape)
            whole[self._box] = tensor
            tensor = whole
        return flat(tensor)


class Exchange:
    """Adds up the ranks' sketches, and lets any rank end the recording for all.

    A rank that stopped taking part would leave the others waiting in the all-reduce. So a rank that wants to leave
    says so in one more exchange, and all ranks go together at the step after.
    """

    def __init__(self) -> None:
        self.leaving = False
        self.rounds = 0
        self._votes: Callable[[], Floats] | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether some rank has asked to leave; the same on all ranks. Waits for the last exchange at most."""
        if self._votes is not None:
            self._over = self._over or float(self._votes()[0]) > 0
            self._votes = None
        return self._over or not dist.is_initialized()

    def add(self, sketch: torch.Tensor, norm2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over ranks: (groups, k) and (groups,)."""
        vote = norm2.new_full((1,), float(self.leaving))
        row = torch.cat([sketch.to(norm2.dtype).reshape(-1), norm2, vote])
        self.rounds += 1
        dist.all_reduce(row)
        groups = len(norm2)
        self._votes = fetch(row[-1:])
        return row[: -1 - groups].view(groups, -1), row[-1 - groups : -1]
