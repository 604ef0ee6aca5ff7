"""How compiled code tells what it does: through an operator of its own, which Python runs when the graph runs.

``torch.compile`` traces hooks and patched functions with the code around them. With ``fullgraph=True`` it refuses
anything that it cannot trace, ``torch.compiler.disable`` included. An operator is a node of the graph, so nothing
breaks. It is handed tensors as they are at that place: inside a graph, ``p.grad`` itself is out of date.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

import torch

from gradlog.integrations.torch.types import Gradients, Tensors


class Listener(Protocol):
    """Who is told."""

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        """Note an event. It must not raise."""


_listeners: weakref.WeakValueDictionary[int, Listener] = weakref.WeakValueDictionary()
_token = torch.zeros((), device="cpu")
"""The operator claims to change this, so that no compiler leaves a call out or changes the order of two."""


def listen(listener: Listener) -> int:
    """Key under which :func:`tell` finds a listener, which is not kept alive."""
    key = max(_listeners, default=-1) + 1
    _listeners[key] = listener
    return key


def compiling() -> bool:
    """Whether this very code is being traced; the compiler takes the answer for a constant."""
    return bool(torch.compiler.is_compiling())


def plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether all are ordinary tensors: a subclass, such as DTensor, may not know our operator."""
    return all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)


def tell(key: int, event: str, params: Sequence[torch.Tensor], numbers: Sequence[torch.Tensor] = ()) -> None:
    """Put a call of the operator into the graph that is being traced."""
    grads = [p.grad for p in params]
    _told(event, key, [p.detach() for p in params], grads, list(numbers), _token)


def _run(event: str, key: int, params: Tensors, grads: Gradients, numbers: Tensors, token: torch.Tensor) -> None:
    listener = _listeners.get(key)
    if listener is not None:
        listener.told(event, params, grads, numbers)


_told = torch.library.custom_op(
    "gradlog::told",
    _run,
    mutates_args=("token",),
    schema="(str event, int key, Tensor[] params, Tensor?[] grads, Tensor[] numbers, Tensor(a!) token) -> ()",
    # a CUDA graph would replay the kernels and leave Python out
    tags=[tag] if (tag := getattr(torch.Tag, "cudagraph_unsafe", None)) is not None else None,
)
_told.register_fake(lambda *_: None)
