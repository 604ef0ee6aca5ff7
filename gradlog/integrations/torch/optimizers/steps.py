"""Which optimizers take a step, and hooks around it that are the last to see the gradient.

An optimizer may hold another one that does the work (SAM, Lookahead, wrappers written by hand), and its ``step`` may
call that of its parent class, whose hooks fire then too. All of this is one step.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch.utils.hooks import RemovableHandle

from gradlog.errors import UnsupportedError
from gradlog.integrations.torch.optimizers.compiled import plain, tell
from gradlog.integrations.torch.types import Args, Instead, Kwargs, Optimizer

if TYPE_CHECKING:
    from gradlog.integrations.torch.optimizers.optimizer_steps import OptimizerSteps

OWN_GRADIENTS = {"deepspeed": "DeepSpeed", "megatron": "Megatron", "colossalai": "Colossal-AI"}
"""Top-level packages of optimizers that do not read ``p.grad`` of the model's parameters."""


def stepping(optimizer: Optimizer) -> list[torch.optim.Optimizer]:
    """Optimizers whose step hooks fire when ``optimizer`` steps: those inside it over the same parameters, and itself.

    The last one is the innermost; its settings are those that count.

    Raises
    ------
    UnsupportedError
        There is none with step hooks, or one that keeps gradients elsewhere.
    """
    held = list(nested(optimizer))
    for one in held:
        _refuse(one)
    hooked = {id(one._optimizer_step_pre_hooks): one for one in held if hasattr(one, "_optimizer_step_pre_hooks")}
    if not hooked:
        raise UnsupportedError(
            f"{type(optimizer).__name__} has no step hooks; attach to the torch.optim.Optimizer inside it, or call "
            "gradlog.open(...).step(grads)"
        )
    firing = [one for one in hooked.values() if getattr(type(one).step, "hooked", False)]
    if not firing:  # its class never called torch's __init__, which is what makes the hooks fire
        firing = [list(hooked.values())[-1]]
        firing[0]._patch_step_function()
    return firing


def nested(optimizer: Optimizer, seen: set[int] | None = None) -> Iterator[torch.optim.Optimizer]:
    """Walk from the optimizer to those in its attributes: wrappers of Accelerate, Fabric and Lightning look alike."""
    seen = set() if seen is None else seen
    if id(optimizer) in seen:
        return
    seen.add(id(optimizer))
    yield optimizer
    mine = _ids(optimizer)
    for name, held in getattr(optimizer, "__dict__", {}).items():
        steps = callable(getattr(type(held), "step", None)) and hasattr(held, "param_groups")
        if (
            held is not None
            and (name in ("optimizer", "_optimizer") or steps)
            and _ids(held) in (None, mine or _ids(held))
        ):
            yield from nested(held, seen)


def _ids(optimizer: object) -> set[int] | None:
    groups = getattr(optimizer, "param_groups", None)
    return {id(p) for group in groups for p in group["params"]} if groups else None


def _refuse(optimizer: object) -> None:
    packages = {c.__module__.partition(".")[0] for c in type(optimizer).__mro__}
    if kept := packages & OWN_GRADIENTS.keys():
        raise UnsupportedError(
            f"{OWN_GRADIENTS[kept.pop()]} keeps gradients in buffers of its own and leaves p.grad empty: a hook has "
            "nothing to read. Train with FSDP2 (torch.distributed.fsdp.fully_shard) to record a sharded run"
        )


class _Hook:
    """A hook that compiled code can hold."""

    def __init__(self, event: str, observer: OptimizerSteps) -> None:
        self.event, self.observer = event, observer
        eager = observer.before if event == "before" else lambda args, kwargs: observer.after()
        self.plainly: Callable[[Args, Kwargs], Instead] = torch.compiler.disable(eager)

    def __call__(self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Kwargs) -> Instead:
        if torch.compiler.is_compiling() and closure_of(args, kwargs) is None and plain(self.observer.params):
            tell(self.observer.key, self.event, self.observer.params)
            return None
        return self.plainly(args, kwargs)


class StepHooks:
    """Both hooks on each of some optimizers. Only the optimizers keep the observer alive."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], observer: OptimizerSteps) -> None:
        self._handles = []
        self._optimizers = optimizers
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(_Hook("before", observer)))
            self._handles.append(optimizer.register_step_post_hook(_Hook("after", observer)))
            vars(optimizer)["register_step_pre_hook"] = _Registering(optimizer)

    def remove(self) -> None:
        """Take them off; with the last of ours an optimizer is as it was."""
        for handle in self._handles:
            handle.remove()
        for optimizer in self._optimizers:
            if not is_recorded(optimizer):
                vars(optimizer).pop("register_step_pre_hook", None)


def is_recorded(optimizer: torch.optim.Optimizer) -> bool:
    """Whether hooks of ours are on an optimizer."""
    return any(isinstance(hook, _Hook) for hook in getattr(optimizer, "_optimizer_step_pre_hooks", {}).values())


class _Registering:
    """``register_step_pre_hook`` of one optimizer: hooks that come later go before ours, which read what they leave."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._hooks = optimizer._optimizer_step_pre_hooks
        self._register = type(optimizer).register_step_pre_hook.__get__(optimizer)

    def __call__(self, hook: Callable[..., Instead]) -> RemovableHandle:
        handle = self._register(hook)
        for key in [key for key, held in self._hooks.items() if isinstance(held, _Hook)]:
            self._hooks.move_to_end(key)
        return handle


def closure_of(args: Args, kwargs: Kwargs) -> Callable[..., object] | None:
    """Return the closure that a step was handed, or None; ``args[0]`` is the optimizer, and a loss is no closure."""
    handed = args[1] if len(args) > 1 else kwargs.get("closure")
    return handed if callable(handed) else None


def computes(closure: Callable[..., object] | None) -> bool:
    """Whether a closure may compute a gradient: not the one that Lightning hands to each step of a manual loop.

    >>> computes(None), computes(lambda: 0.5)
    (False, True)
    """
    parts = [closure, *(closure.args if isinstance(closure, functools.partial) else ())]
    return closure is not None and all(getattr(part, "__name__", "") != "do_nothing_closure" for part in parts)


def inside_another_step(optimizers: list[torch.optim.Optimizer]) -> bool:
    """Whether the hook that asks belongs to a step inside another step of these optimizers, further up the stack."""
    frame: FrameType | None = sys._getframe(1)
    here = 0
    while frame is not None:
        if frame.f_code is _STEP and any(frame.f_locals["self"] is one for one in optimizers):
            here += 1
            if here == 2:
                return True
        frame = frame.f_back
    return False


_STEP = torch.optim.Optimizer.profile_hook_step(lambda self: None).__code__
"""Code of the wrapper that torch puts around every optimizer's ``step`` to call its hooks."""
