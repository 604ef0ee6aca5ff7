"""What happens to a gradient between backward and step: norm clipping, and steps that a GradScaler skips.

torch has no hook for either. While a run that wants to know is attached, two functions of torch are wrapped; the
wrappers call through, tell the captures, and go with the last capture. ``clip_grad_norm_`` finds its second half by
name in its own module, so that it is seen however the caller imported it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad

from gradlog.errors import UnsupportedError


class Watcher(Protocol):
    """Who wants to know."""

    def clipping(self, parameters: list[Any], max_norm: Any, total_norm: Any) -> None:
        """Note that gradients are about to be scaled by ``max_norm / total_norm`` where that is below 1."""

    def stepping(self, optimizer: Any) -> Callable[[], None] | None:
        """Note that a GradScaler is about to decide on a step; the returned function is called afterwards."""


_watchers: list[Watcher] = []
_originals: dict[str, Any] = {}


def watch(watcher: Watcher) -> None:
    """Tell ``watcher`` from now on.

    Raises
    ------
    UnsupportedError
        This torch has another inside than the wrappers expect.
    """
    if not _watchers:
        clip = getattr(clip_grad, "_clip_grads_with_norm_", None)
        if clip is None:
            raise UnsupportedError(f"torch {torch.__version__}: clip_grad_norm_ cannot be watched, needs torch >= 2.6")
        _originals.update(clip=clip, step=torch.amp.GradScaler.step)
        clip_grad._clip_grads_with_norm_ = _clip
        torch.amp.GradScaler.step = _step
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Stop; with the last watcher torch is as it was, unless somebody wrapped the wrappers meanwhile."""
    if watcher in _watchers:
        _watchers.remove(watcher)
    if not _watchers and _originals:
        if clip_grad._clip_grads_with_norm_ is _clip:
            clip_grad._clip_grads_with_norm_ = _originals["clip"]
        if torch.amp.GradScaler.step is _step:
            torch.amp.GradScaler.step = _originals["step"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _clip(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    for watcher in _watchers:
        watcher.clipping(parameters, max_norm, total_norm)
    return _originals["clip"](parameters, max_norm, total_norm, *args, **kwargs)


@functools.wraps(torch.amp.GradScaler.step)
def _step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    after = [w.stepping(optimizer) for w in list(_watchers)]
    result = _originals["step"](self, optimizer, *args, **kwargs)
    for done in after:
        if done is not None:
            done()
    return result
