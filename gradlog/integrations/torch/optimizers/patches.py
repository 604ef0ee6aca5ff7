"""What happens around a step: backward passes, norm clipping, steps that a GradScaler skips, steps of other optimizers.

torch has no hook for the first three. While a run that wants to know is attached, functions of torch are wrapped; the
wrappers call through, tell the captures, and go with the last capture. ``clip_grad_norm_`` finds its second half by
name in its own module, so that it is seen however the caller imported it. All of it can be traced by ``torch.compile``.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradlog.errors import UnsupportedError
from gradlog.integrations.torch.optimizers.compiled import listen, plain, tell
from gradlog.integrations.torch.types import Args, Function, Gradients, Kwargs, Tensors

if TYPE_CHECKING:
    from gradlog.integrations.torch.capture import Capture


def norm_and_coef(max_norm: float, total_norm: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of the gradients that are clipped, and by what torch multiplies them."""
    norm = (total_norm.full_tensor() if hasattr(total_norm, "full_tensor") else total_norm).detach()
    return norm, torch.clamp(max_norm / (norm + 1e-6), max=1.0)


class Place:
    """An attribute of torch that holds a wrapper while somebody watches.

    Parameters
    ----------
    owner, name : object, str
        Where the function is found.
    tell : callable
        ``tell(original, *args)`` does the work.
    """

    def __init__(self, owner: object, name: str, tell: Function) -> None:
        self._owner, self._name = owner, name
        self._original: Function | None = None  # stays after take_off: another thread may be inside the wrapper
        self._inside = False

        def wrapper(*args: object, **kwargs: object) -> object:
            return tell(self._original, *args, **kwargs)

        self._wrapper = wrapper

    def put(self) -> None:
        """Wrap, unless the wrapper is still inside one of somebody else's."""
        now = getattr(self._owner, self._name)
        if not self._inside or now is self._original:
            self._original, self._inside = now, True
            functools.update_wrapper(self._wrapper, now)
            setattr(self._owner, self._name, self._wrapper)

    def take_off(self) -> None:
        """Put back what was there, unless somebody wrapped the wrapper: then it stays and only calls through."""
        if getattr(self._owner, self._name) is self._wrapper:
            setattr(self._owner, self._name, self._original)
            self._inside = False


_watchers: list[weakref.ref[Capture]] = []
_lock = threading.RLock()


def _alive() -> list[Capture]:
    return [w for ref in tuple(_watchers) if (w := ref()) is not None]


def watch(watcher: Capture) -> None:
    """Tell ``watcher`` from now on; it is not kept alive.

    Raises
    ------
    UnsupportedError
        This torch has another inside than the wrappers expect.
    """
    if not hasattr(torch.nn.utils, "clip_grads_with_norm_"):
        raise UnsupportedError(f"torch {torch.__version__}: clip_grad_norm_ cannot be watched, needs torch >= 2.6")
    with _lock:
        for place in _places:
            place.put()
        _watchers.append(weakref.ref(watcher))


def unwatch(watcher: Capture | None = None) -> None:
    """Forget a watcher, and those that are no more; with the last one torch is as it was."""
    with _lock:
        _watchers[:] = [ref for ref in _watchers if ref() not in (None, watcher)]
        if not _watchers:
            for place in _places:
                place.take_off()


class _Clipping:
    """Hears of clipping in compiled code and tells all watchers."""

    def __init__(self) -> None:
        self.key = listen(self)

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        for watcher in _alive():
            watcher.clipping_compiled(params, grads, *numbers)


_clipping = _Clipping()


def _clip(
    original: Function,
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    total_norm: torch.Tensor,
    *args: object,
    **kwargs: object,
) -> object:
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    if torch.compiler.is_compiling():
        if plain([*parameters, total_norm]):
            tell(_clipping.key, "clipping", parameters, norm_and_coef(max_norm, total_norm))
    else:
        for watcher in _alive():
            watcher.clipping(parameters, max_norm, total_norm)
    return original(parameters, max_norm, total_norm, *args, **kwargs)


def _step(
    original: Function, scaler: torch.amp.GradScaler, optimizer: Optimizer, *args: object, **kwargs: object
) -> object:
    after = [watcher.stepping(scaler, optimizer) for watcher in _alive()]
    result = original(scaler, optimizer, *args, **kwargs)
    for done in after:
        if done is not None:
            done()
    return result


def _anyone(optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
    if not torch.compiler.is_compiling():
        for watcher in _alive():
            watcher.anyone_steps(optimizer)


def _anyone_has(optimizer: Optimizer, args: Args, kwargs: Kwargs) -> None:
    if not torch.compiler.is_compiling():
        for watcher in _alive():
            watcher.loss.ends()


def _backward(
    original: Function, tensors: object, grad_tensors: object = None, *args: object, **kwargs: object
) -> object:
    # not inside another one, as where a checkpointed part is computed again
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
        for told in backward_passes.waiting:
            told()
        for watcher in _alive():
            watcher.backward(tensors, grad_tensors)
    return original(tensors, grad_tensors, *args, **kwargs)


class _Backward(Place):
    """``torch.autograd.backward``, which ``Tensor.backward`` finds by name; ``waiting`` are told of its calls, too."""

    def __init__(self) -> None:
        super().__init__(torch.autograd, "backward", _backward)
        self.waiting: list[Callable[[], None]] = []

    def take_off(self) -> None:
        """See the class above; not while somebody waits."""
        if not self.waiting:
            super().take_off()

    def wait(self, told: Callable[[], None], waits: bool) -> None:
        """Call ``told`` before every backward pass, or no more."""
        self.waiting = [one for one in self.waiting if one != told] + [told] * waits
        self.put()
        if not _watchers:
            self.take_off()


class _Global:
    """torch's hooks on the steps of all optimizers, while somebody watches."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._stays = 0

    def put(self) -> None:
        """Register them, unless they are."""
        if not self._handles:
            self._handles = [
                register_optimizer_step_pre_hook(_anyone), register_optimizer_step_post_hook(_anyone_has)
            ]  # fmt: skip

    def take_off(self) -> None:
        """Remove them, unless they shall stay."""
        if not self._stays:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def stay(self, stays: bool) -> None:
        """Keep it, or let it go again: torch does not bear that hooks come or go while it walks through them."""
        self._stays += 1 if stays else -1
        self.put()
        if not _watchers:
            self.take_off()


every_step, backward_passes = _Global(), _Backward()

_places = (
    Place(clip_grad, "_clip_grads_with_norm_", _clip),
    Place(torch.nn.utils, "clip_grads_with_norm_", _clip),
    Place(torch.amp.GradScaler, "step", _step),
    every_step,
    backward_passes,
)
