"""The steps of one optimizer: when its gradient is read, and when a step is over.

The gradient is read in the last pre-hook of the innermost step, after accumulation, averaging by DDP, unscaling and
clipping. A step with a closure runs its backward passes inside, so the gradient is also read each time a closure
returns. What was read last is what the step consumed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.optim import Optimizer

from gradlog.integrations.torch.optimizers.compiled import listen
from gradlog.integrations.torch.optimizers.optimizer import parameters
from gradlog.integrations.torch.optimizers.steps import StepHooks, closure_of, inside_another_step
from gradlog.integrations.torch.types import Args, Function, Gradients, Instead, Kwargs, Number, Tensors

if TYPE_CHECKING:
    from gradlog.integrations.torch.capture import Capture

HANDED = ("grad_scale", "found_inf")
"""What a GradScaler puts on a fused optimizer for the time of a step."""


class Moment(NamedTuple):
    """What an optimizer is handed, at the moment when it is about to step.

    Attributes
    ----------
    tensors : dict of int to (Tensor, Tensor or None)
        Value and gradient of each parameter, by its id.
    rates : list of number or None
        Learning rate of each parameter group.
    handed : dict of str to number
        What a GradScaler has put on the optimizer.
    """

    tensors: dict[int, tuple[torch.Tensor, torch.Tensor | None]]
    rates: list[Number | None]
    handed: dict[str, Number]

    @classmethod
    def of(cls, optimizer: Optimizer) -> Moment:
        """Copy all of it, for a run that begins only after the step."""
        grads = ((p, None if p.grad is None else p.grad.detach().clone()) for p in parameters(optimizer))
        return cls(
            {id(p): (p.detach().clone(), g) for p, g in grads},
            rates_of(optimizer),
            {name: copied(value) for name in HANDED if (value := getattr(optimizer, name, None)) is not None},
        )


class OptimizerSteps:
    """Notes the steps of one optimizer and tells the capture of its run.

    Parameters
    ----------
    name : str
        What the run calls the optimizer.
    optimizers : list of torch.optim.Optimizer
        Hooks go on them; the last one's settings count. See ``optimizers.steps.stepping``.
    capture : Capture
        Is told.

    Attributes
    ----------
    places : list of int
        Which of the run's tensors it trains; ``params`` are they.
    scale, unscaled : number or None, bool
        Loss scale of this step, and whether the gradient is free of it.
    """

    params: Tensors
    places: list[int]
    scale: Number | None
    closure: Function | None

    def __init__(self, name: str, optimizers: list[Optimizer], capture: Capture) -> None:
        self.name, self.optimizers, self.innermost = name, optimizers, optimizers[-1]
        self._capture = capture
        self._fired = True
        self.moment: Moment | None = None  # where it is not now: inside a graph, or held
        self._forget()
        self.key = listen(self)
        self._hooks = StepHooks(optimizers, self)

    def remove(self) -> None:
        """Take the hooks off."""
        self._hooks.remove()

    def before(self, args: Args, kwargs: Kwargs) -> Instead:
        """Note that a step begins: read the gradient, or let the closure read it whenever it returns."""
        self._fired = True
        if not self._capture.begins(self):
            return None
        self._begun, self._unread, self._used = True, True, False
        self.closure = closure_of(args, kwargs)
        if not self._capture.reads_first:
            return None
        if self.closure is None:
            self._read()
            return None
        watched = self._watched(self.closure)
        return ((args[0], watched, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": watched})

    def after(self) -> None:
        """Note that a step is over, unless it was part of a larger one."""
        if self._capture.here and self._begun:
            self._used = True  # what a closure computes from here on is not what the optimizer consumed
            if not inside_another_step(self.optimizers):
                self._end()

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        """Note what a compiled step does, from inside its graph."""
        held = {id(p): (value, g) for p, value, g in zip(self.params, params, grads, strict=False)}
        now = {name: value for name in HANDED if (value := self.handed(name)) is not None}
        self.moment = Moment(held, rates_of(self.innermost), now)
        try:
            if event == "before":
                self.before((self.innermost,), {})
            elif self._capture.here and self._begun:
                self._end()
        finally:
            self.moment = None

    def replay(self) -> None:
        """Take a step that was held: it was taken before there was a run."""
        self.before((self.innermost,), {})
        self.moment = None
        if self._begun:
            self._end()

    def scaled(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> Callable[[], None]:
        """Watch a GradScaler decide on a step: if it does not call the optimizer, that step was skipped."""
        with self._capture.recorder.guarded():
            scale = scaler._get_scale_async()
            self.scale = None if scale is None else copied(scale)
            self.unscaled = scaler._per_optimizer_states[id(optimizer)]["stage"].name != "READY"
        self._fired = False

        def done() -> None:
            if not self._fired:
                self._fired = True
                if self._capture.begins(self):
                    self._read(skipped=True)
                    self._end()

        return done

    def handed(self, name: str) -> Number | None:
        """Return what a GradScaler has put on a fused optimizer for this step, or None."""
        if self.moment is not None:
            return self.moment.handed.get(name)
        value = next((v for one in self.optimizers if (v := getattr(one, name, None)) is not None), None)
        return None if value is None else copied(value)

    def rates(self) -> list[Number | None]:
        """Learning rate of each parameter group, as it is now."""
        return rates_of(self.innermost) if self.moment is None else self.moment.rates

    def gradients(self) -> Gradients:
        """Gradients of ``params``, as they are now."""
        if self.moment is None:
            return [p.grad for p in self.params]
        return [self.moment.tensors.get(id(p), (p, None))[1] for p in self.params]

    def values(self) -> Tensors:
        """Values of ``params``, as they are now."""
        if self.moment is None:
            return self.params
        return [self.moment.tensors.get(id(p), (p, None))[0] for p in self.params]

    def held(self) -> Tensors:
        """Parameters that the optimizer has now, frozen ones too: they may be trained again."""
        return parameters(self.innermost)

    def _read(self, skipped: bool = False) -> None:
        self._unread, self._begun = False, True
        self._capture.read(self, skipped)

    def _end(self) -> None:
        if self._unread:  # a closure that was never called
            self._read()
        self._capture.ends(self)
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the next step yet."""
        self.scale, self.unscaled, self.closure = None, True, None
        self._begun, self._unread, self._used = False, False, False

    def _watched(self, closure: Function) -> Function:
        @functools.wraps(closure)
        def watched(*args: object, **kwargs: object) -> object:
            loss = closure(*args, **kwargs)
            if self._capture.here and not self._used:
                self._read()
                self._capture.loss.ends()
            return loss

        return watched


def copied(x: Number) -> Number:
    """Return a number, or a clone of a tensor, since its owner changes it in place."""
    return x.detach().clone() if isinstance(x, torch.Tensor) else float(x)


def rates_of(optimizer: Optimizer) -> list[Number | None]:
    """Learning rate of each parameter group."""
    return [copied(group["lr"]) if "lr" in group else None for group in optimizer.param_groups]
