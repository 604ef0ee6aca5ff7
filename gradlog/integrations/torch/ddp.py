"""One rank's own gradient under DistributedDataParallel, taken from its buckets before they are averaged.

DDP offers one place that sees them, its communication hook, and that place can be taken once in a DDP's life and not
given back. The hook here averages exactly as DDP does without one; when the recording ends, that is all it does.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gradlog.errors import UnsupportedError
from gradlog.integrations.torch.capture import Capture
from gradlog.integrations.torch.optimizers.optimizer_steps import OptimizerSteps
from gradlog.integrations.torch.sketching.sketchers import Measure, divided
from gradlog.integrations.torch.types import Tensors


def averaging(params: list[torch.Tensor]) -> list[DistributedDataParallel]:
    """Find every DDP in this process that averages gradients of these parameters."""
    held = set(map(id, params))
    # type(), since isinstance() would wake lazy proxies that pretend to be of another class
    found = [m for m in gc.get_objects() if issubclass(type(m), DistributedDataParallel)]
    return [m for m in found if any(id(p) in held for p in m.parameters())]


class _Listener:
    """The state of the hook. Copies of a DDP and pickles of it leave it behind."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.capture: weakref.ref[LocalCapture] | None = None

    def __reduce__(self) -> tuple[type[_Listener], tuple[None]]:
        return _Listener, (None,)


def _average(state, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations with its own
    capture = state.capture and state.capture()
    if capture is not None:
        capture.bucket(bucket.parameters(), bucket.gradients())
    # As torch.distributed.algorithms.ddp_comm_hooks.default_hooks.allreduce_hook, which DDP documents as its default.
    averaged = bucket.buffer().div_(state.group.size())
    return dist.all_reduce(averaged, group=state.group, async_op=True).get_future().then(lambda f: f.value()[0])


def listen(ddp: DistributedDataParallel) -> _Listener:
    """Take DDP's communication hook, or find the one that an earlier recording left there.

    Raises
    ------
    UnsupportedError
        Somebody else has it, or DDP is compiled in a mode that hands hooks no buckets.
    """
    for hook, state in ddp._comm_hooks:
        if hook is _average and isinstance(state, _Listener) and state.group is not None:
            return state
    reason = "the model's DistributedDataParallel has a communication hook already, and takes only one"
    if getattr(ddp, "_use_python_reducer", False):
        reason = "DistributedDataParallel with the python reducer hands its communication hook no buckets"
    elif not ddp._comm_hooks:
        state = _Listener(ddp.process_group)
        try:
            ddp.register_comm_hook(state, _average)
        except RuntimeError:  # a built-in hook, of which the Python side knows nothing
            ddp._comm_hooks.pop()
        else:
            return state
    raise UnsupportedError(
        f"stage='local': {reason}; record the averaged gradient (stage='consumed') or remove the other hook"
    )


class LocalCapture(Capture):
    """A rank's share of the gradient: its own over the number of ranks, so that all rows add up to the average.

    Backward passes under ``no_sync()`` add up in ``p.grad`` and come with the next average.
    """

    in_parts = True
    _measure: Measure  # what measure_for gives a run in parts
    _seen: set[int]
    _told = False
    _listeners: Sequence[_Listener] = ()

    def _begin(self) -> None:
        self._listeners = [listen(ddp) for ddp in averaging(self.params)]
        for listener in self._listeners:
            listener.capture = weakref.ref(self)
        super()._begin()

    def remove(self) -> None:
        """Take the hooks off; DDP's only averages from now on."""
        super().remove()
        for listener in self._listeners:
            listener.capture = None

    def bucket(self, params: Tensors, gradients: Tensors) -> None:
        """DDP is about to average some gradients."""
        named = {id(p): g for p, g in zip(params, gradients, strict=True)}
        seen = self._mine & named.keys()
        if not seen or not self.here or not self._due():
            return
        with self.recorder.guarded():
            if seen & self._seen:
                self._again()
            self._seen |= seen
            self._measure.add(self._added, [named.get(id(p)) for p in self.params])

    def _again(self) -> None:
        """Averaged once more before a step: what this average is made of replaces the last."""
        self._added, self._seen = self._measure.begin(), set()
        if not self._told:
            self._told = True
            self.recorder.warn(
                "DDP averages more than once before a step: what was averaged earlier is the same on all ranks and "
                "counts as each rank's own; accumulate under no_sync() to keep the ranks apart"
            )

    def _forget(self) -> None:
        super()._forget()
        self._added, self._seen = self._measure.begin(), set()

    def _gather(self, steps: OptimizerSteps) -> None:
        missing = len(self.params) - len(self._seen)
        self._fills[None] = divided(self._measure.total(self._measure.end(self._added), missing), steps.scale)
