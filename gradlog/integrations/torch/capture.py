"""What one optimizer consumes, step by step.

The gradient is taken where the optimizer is about to use it: in the last pre-hook of the innermost step, after
accumulation, averaging by DDP, unscaling and clipping. A step with a closure runs its backward passes inside, so the
gradient is also taken each time a closure returns. What was taken last becomes the step's row when the step is over.

A fused optimizer under ``GradScaler`` is handed scaled gradients together with ``grad_scale`` and ``found_inf``.
Nothing is stored on the model, and only the optimizer keeps a capture alive.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from gradlog.errors import GradientError
from gradlog.format.header import RunHeader
from gradlog.integrations.torch.compiled import listen
from gradlog.integrations.torch.patches import norm_and_coef, unwatch, watch
from gradlog.integrations.torch.sightings import Sightings
from gradlog.integrations.torch.sketchers import HostMeasure, Measure, divided, measure_for
from gradlog.integrations.torch.steps import StepHooks, closure_of, inside_another_step
from gradlog.integrations.torch.types import Args, Gradients, Instead, Kwargs, Named, Number, Tensors
from gradlog.recorder.logger import Logger
from gradlog.recorder.row_builder import Fill, Row

T = TypeVar("T")


class Capture:
    """Gradients of one optimizer, and what is known about each step.

    Parameters
    ----------
    optimizers : list of torch.optim.Optimizer
        Hooks go on them; the last one's settings count. See :func:`~gradlog.integrations.torch.steps.stepping`.
    params : list of Tensor
        In the order of the run's tensors.
    logger : Logger
        Takes the rows; on ranks that write nothing, an inactive one.
    header : RunHeader
        What the run records.
    measure : HostMeasure or Measure
        Makes sketches of gradients.
    names : callable
        Gives (name, parameter) of all that the optimizer trains now.
    """

    _early: Fill | None
    _clip: dict[str, Number]
    _clipped: set[int]
    _scale: Number | None
    _unscaled: bool
    _taken: Row | None
    _begun: bool
    _unread: bool
    _used: bool

    def __init__(
        self,
        optimizers: list[Optimizer],
        params: list[torch.Tensor],
        logger: Logger,
        header: RunHeader,
        measure: HostMeasure | Measure,
        names: Callable[[], Named],
    ) -> None:
        self._optimizers, self._optimizer = optimizers, optimizers[-1]
        self.params, self._logger = params, logger
        self._mine = set(map(id, params))
        self._measure, self._names = measure, names
        self._fixed = header.sketch.exact or header.stage == "local"
        self._share = float(dist.get_world_size()) if header.stage == "local" and _ranks() else None
        self._exchange = getattr(measure, "exchange", None)
        self._every, self._preclip = header.every, header.stage == "preclip"
        self._count: int | None = None
        self._writes = logger.active
        self._known = self._mine | self._trainable()
        self._pid, self._told_elsewhere = os.getpid(), False
        self._fired = True
        self._handed_over: tuple[Tensors, Gradients] | None = None  # parameters and gradients inside a graph
        self._sightings = Sightings(optimizers, params)
        self._forget()
        self.key = listen(self)
        watch(self)
        self._hooks = StepHooks(optimizers, self)
        this = weakref.ref(self)
        logger.recorder.on_close(
            lambda: capture.remove() if (capture := this()) else unwatch(),
            keep=lambda: capture.keep() if (capture := this()) else None,
            missing=lambda: capture.missing() if (capture := this()) else "",
        )
        self._begin()

    def _begin(self) -> None:
        """Look at the parameters as they are before the first step."""
        self.keep()

    def remove(self) -> None:
        """Take the hooks off; among several ranks, ask for it in the next exchange, after which they do nothing."""
        if self._exchange is not None and not self._exchange.over:
            self._exchange.leaving = True
            return
        self._hooks.remove()
        unwatch(self)

    def keep(self) -> None:
        """Hand in a sketch of the parameters: at the start, at checkpoints and at the end."""
        if self._exchange is None and self._here:
            self._logger.recorder.snapshot(lambda: self._measure.now(self.params))

    def missing(self) -> str:
        """Tell what is known about steps that were not seen; empty where nothing is missing."""
        return self._sightings.missing()

    def before(self, args: Args, kwargs: Kwargs) -> Instead:
        """Note that a step begins: take the gradient, or let the closure take it whenever it returns."""
        self._fired = True
        if not self._here:
            self._elsewhere()
            return None
        self._begun, self._unread, self._taken, self._used = True, True, None, False
        closure = closure_of(args, kwargs)
        if closure is None:
            self._take()
            return None
        if len(args) > 1:
            return (args[0], self._watched(closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._watched(closure)}

    def after(self) -> None:
        """Note that a step is over: its gradient becomes a row, unless it was part of a larger one."""
        if self._here and self._begun:
            self._used = True  # what a closure computes from here on is not what the optimizer consumed
            if not inside_another_step(self._optimizers):
                self._over()

    def told(self, event: str, params: Tensors, grads: Gradients, numbers: Tensors) -> None:
        """Note what a compiled step does, from inside its graph."""
        self._handed_over = params, grads
        try:
            if event == "before":
                self.before((self._optimizer,), {})
            elif self._here and self._begun:
                self._over()
        finally:
            self._handed_over = None

    def clipping(self, parameters: Tensors, max_norm: float, total_norm: torch.Tensor) -> None:
        """Norm clipping is about to happen: keep its coefficient and, for stage "preclip", the gradient."""
        ids = self._mine.intersection(map(id, parameters))
        if not ids or not self._here:
            return
        with self._logger.recorder.guarded():
            self._note_clipping(ids, *norm_and_coef(max_norm, total_norm))

    def clipping_compiled(self, parameters: Tensors, grads: Gradients, norm: torch.Tensor, coef: torch.Tensor) -> None:
        """Note the same inside a graph: a parameter is the one that lies at the same place in memory."""
        place = {p.data_ptr(): i for i, p in enumerate(self.params) if p.numel()}
        held = {place[p.data_ptr()]: g for p, g in zip(parameters, grads, strict=True) if p.data_ptr() in place}
        if not held or not self._here:
            return
        self._handed_over = self.params, [held.get(i, p.grad) for i, p in enumerate(self.params)]
        try:
            with self._logger.recorder.guarded():
                self._note_clipping({id(self.params[i]) for i in held}, norm, coef.clone())
        finally:
            self._handed_over = None

    def _note_clipping(self, ids: set[int], norm: torch.Tensor, coef: torch.Tensor) -> None:
        if ids & self._clipped:  # once more, or the first time was for a step that was never taken
            self._forget_clipping()
            self._logger.recorder.remark(self._sightings.clipped_again())
        nth = f"/{len(self._clip) // 2}" if self._clip else ""
        self._clipped |= ids
        self._clip[f"clip_norm{nth}"], self._clip[f"clip_coef{nth}"] = norm, coef
        if self._preclip and self._early is None and self._due():
            self._early = self._in_step(lambda: self._measure.now(self._gradients()))

    def stepping(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> Callable[[], None] | None:
        """Watch a GradScaler's step: if it does not call the optimizer, that step was skipped."""
        if not any(optimizer is one for one in self._optimizers) or not self._here or not scaler.is_enabled():
            return None
        with self._logger.recorder.guarded():
            scale = scaler._get_scale_async()
            self._scale = None if scale is None else _number(scale)
            self._unscaled = scaler._per_optimizer_states[id(optimizer)]["stage"].name != "READY"
        self._fired = False

        def done() -> None:
            if not self._fired:
                self._fired = True
                self._take(skipped=True)
                self._over()

        return done

    def anyone_steps(self, optimizer: Optimizer) -> None:
        """Note that some optimizer of this process is about to step, ours or not."""
        if self._here:
            self._logger.recorder.remark(self._sightings.another(optimizer, self._mine))

    @property
    def _here(self) -> bool:
        """Not in a forked child, and not after the ranks have agreed to stop."""
        return os.getpid() == self._pid and not (self._exchange is not None and self._exchange.over)

    def _elsewhere(self) -> None:
        """Say once in a forked child that its steps are not recorded."""
        if os.getpid() != self._pid and not self._told_elsewhere:
            self._told_elsewhere = True
            self._logger.recorder.warn(
                "a process that was forked after attach takes steps, and they are not recorded; call attach in the "
                "process that trains"
            )

    def _watched(self, closure: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(closure)
        def watched(*args: object, **kwargs: object) -> object:
            loss = closure(*args, **kwargs)
            if self._here and not self._used:
                self._take()
            return loss

        return watched

    def _forget(self) -> None:
        """Begin another step: nothing is known of it yet."""
        self._forget_clipping()
        self._scale, self._unscaled = None, True
        self._taken, self._begun, self._unread, self._used = None, False, False, False

    def _forget_clipping(self) -> None:
        self._early, self._clip, self._clipped = None, {}, set()

    def _gradients(self) -> Gradients:
        if self._handed_over is None:
            return [p.grad for p in self.params]
        grads = self._handed_over[1]
        return grads + [None] * (len(self.params) - len(grads))

    def _values(self) -> Tensors:
        return self.params if self._handed_over is None else self._handed_over[0]

    def _gradient(self) -> Fill:
        """Sketch of this step's gradient, free of the loss scale."""
        if self._early is not None:
            return divided(self._early, None if self._unscaled else self._scale)
        return divided(self._measure.now(self._gradients()), self._handed("grad_scale"))

    def _handed(self, name: str) -> Number | None:
        """Return what a GradScaler has put on a fused optimizer for this step, or None."""
        value = next((v for one in self._optimizers if (v := getattr(one, name, None)) is not None), None)
        return None if value is None else _number(value)

    def _row(self) -> Row:
        """Sketch, and what the optimizer knows about this step."""
        fill = divided(self._gradient(), self._share)
        scalars = {
            f"lr/{i}" if i else "lr": _number(g["lr"]) for i, g in enumerate(self._optimizer.param_groups) if "lr" in g
        }
        scalars.update(self._clip)
        scale = self._handed("grad_scale") if self._scale is None else self._scale
        if scale is not None:
            scalars["loss_scale"] = scale
        return Row(fill, scalars, skipped=self._handed("found_inf"), later=self._measure.later)

    def _take(self, skipped: bool = False) -> None:
        """Sketch what the optimizer consumes, as it is now; what is taken later in the same step replaces it."""
        self._look_for_new()
        self._unread, self._begun, self._taken = False, True, None
        if self._exchange is not None:
            self._exchange.leaving |= self._writes and not self._logger.active
        if self._due():
            with self._logger.recorder.guarded():
                row: Row = self._in_step(self._row)
                self._taken = row._replace(skipped=True) if skipped else row

    def _over(self) -> None:
        """End a step: hand its row over."""
        if self._unread:  # a closure that was never called
            self._take()
        taken = self._taken

        def row() -> Row:
            assert taken is not None
            return taken

        if taken is not None or not self._due():
            self._logger.recorder.record(row)  # which only counts a step that is not due
        self._count = (self._count or 0) + 1
        self._sightings.step()
        self._forget()

    def _in_step(self, make: Callable[[], T]) -> T:
        """Call ``make``; where it fails among several ranks, still take part in the exchange that they wait in."""
        done = self._exchange.rounds if self._exchange else 0
        try:
            return make()
        except Exception:
            if self._exchange is not None and self._exchange.rounds == done:
                assert isinstance(self._measure, Measure)
                self._exchange.leaving = True
                self._early = self._measure.total(self._measure.blank(), 0)
            raise

    def _due(self) -> bool:
        if self._exchange is None:
            return self._logger.due
        if self._count is None:
            # Only rank 0 knows where a continued run stands.
            number = [self._logger.state_dict().get("step", 0)]
            if self._every > 1:
                dist.broadcast_object_list(number)
            self._count = int(number[0])
        return self._count % self._every == 0

    def _trainable(self) -> set[int]:
        return {id(p) for g in self._optimizer.param_groups for p in g["params"] if p.requires_grad}

    def _look_for_new(self) -> None:
        """Let parameters that were added or unfrozen since join the run, where it can take them."""
        trainable = self._trainable()
        if trainable <= self._known or not self._logger.active:
            return
        with self._logger.recorder.guarded():
            new = [(name, p) for name, p in self._names() if id(p) not in self._known]
            self._known |= trainable
            if self._exchange is None and not (new := self._take_places(new)):
                return
            if self._fixed or self._exchange is not None:
                self._logger.recorder.warn(
                    f"{len(new)} parameters were added or unfrozen after attach and are not recorded, since the layout "
                    "of such a run is fixed; close() this logger and attach a new path to record them"
                )
            else:
                self._join(new)

    def _take_places(self, new: Named) -> Named:
        """Let parameters follow others of their name, as after a layer was made anew; return the rest."""
        assert self._logger.header is not None
        place = {t.name: i for i, t in enumerate(self._logger.header.tensors)}
        params = self.params[:]
        for name, p in new:
            if name in place:
                if p.shape != params[place[name]].shape:
                    raise GradientError(
                        f"{name}: expected a parameter of shape {tuple(params[place[name]].shape)}, got one of "
                        f"{tuple(p.shape)} in its place; close() this logger and attach a new path to record it"
                    )
                params[place[name]] = p
        self.params, self._mine = params, set(map(id, params))
        return [(name, p) for name, p in new if name not in place]

    def _join(self, new: Named) -> None:
        self._logger.join(new)
        if self._logger.header is not None:
            self.params = self.params + [p for _, p in new]
            self._mine = set(map(id, self.params))
            self._measure = measure_for(self._logger.header, self.params)
            self.keep()


def _ranks() -> bool:
    return bool(dist.is_available() and dist.is_initialized())


def _number(x: Number) -> Number:
    """Return a number, or a clone of a tensor, since its owner changes it in place."""
    return x.detach().clone() if isinstance(x, torch.Tensor) else float(x)
