"""What the optimizers of one run consume, row by row.

One optimizer makes a row per step. Several that step once per iteration make one row together: each gradient is read
when its optimizer is about to use it, and the row is over with the last of them. Nothing is stored on the model, and
only the optimizers keep a capture alive.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from gradlog.format.header import RunHeader
from gradlog.integrations.hooks import Fill, Hooks, Row
from gradlog.integrations.torch.norms import Norms
from gradlog.integrations.torch.optimizers.loss import Loss, unscaled
from gradlog.integrations.torch.optimizers.modules import replaced
from gradlog.integrations.torch.optimizers.optimizer import MOST_NAMES
from gradlog.integrations.torch.optimizers.optimizer_steps import Moment, OptimizerSteps
from gradlog.integrations.torch.optimizers.patches import norm_and_coef, unwatch, watch
from gradlog.integrations.torch.optimizers.sightings import Sightings
from gradlog.integrations.torch.ranks import world_size
from gradlog.integrations.torch.sketching.sketchers import Measure, Sums, divided, measure_for, summed
from gradlog.integrations.torch.types import Gradients, Named, Number, Tensors
from gradlog.recorder.recorder import Recorder

T = TypeVar("T")


@dataclasses.dataclass
class Job:
    """What is recorded together.

    Attributes
    ----------
    optimizers : list of (str, list of torch.optim.Optimizer)
        The name of each in the run, and where its hooks go. See ``optimizers.steps.stepping``.
    params : list of Tensor
        In the order of the run's tensors.
    header : RunHeader
        What the run has fixed; known also on ranks that write nothing.
    names : callable
        Gives (name, parameter) of all that the optimizers train now.
    moments : sequence of Moment or None
        For each optimizer that took its first step already, what it was handed.
    """

    optimizers: list[tuple[str, list[Optimizer]]]
    params: Tensors
    header: RunHeader
    names: Callable[[], Named]
    moments: Sequence[Moment | None] = ()


class Capture(Hooks):
    """Gradients of the optimizers of a run, and what is known about each row.

    Parameters
    ----------
    recorder : Recorder
        Takes the rows; on ranks that write nothing, an inactive one.
    job : Job
        What is recorded.
    """

    reads_first = True
    """Whether a gradient is read before the step that consumes it."""
    in_parts = False
    """Whether a row of one optimizer too is added up from parts."""

    _early: Fill | None
    _clip: dict[str, Number]
    _clipped: set[int]
    _loss: torch.Tensor | None

    def __init__(self, recorder: Recorder, job: Job) -> None:
        header, self.params, self._names = job.header, job.params, job.names
        self._alone = len(job.optimizers) == 1
        self._many = len(job.optimizers) > MOST_NAMES
        self._measure = measure_for(recorder, header, self.params, self.in_parts or self._many)
        self._fixed = header.stage == "local" or header.sketch.exact or all(t.place is not None for t in header.tensors)
        self._share = float(world_size()) if header.stage == "local" else None
        self._exchange = self._measure.exchange
        self._every, self._preclip = header.every, header.stage == "preclip"
        self._count: int | None = None
        self._writes, self._pid, self._told_elsewhere = recorder.active, os.getpid(), False
        self._sightings = Sightings([one for _, nested in job.optimizers for one in nested], self.params)
        self._steps: list[OptimizerSteps] = []
        self._place_parameters()
        self._forget()
        watch(self)
        super().__init__(recorder)
        self.loss, self._norms = Loss(), Norms(self)
        self._steps = [OptimizerSteps(name, nested, self) for name, nested in job.optimizers]
        self._place_parameters()
        self._known = self._mine | self._trained()
        for steps, moment in zip(self._steps, job.moments, strict=False):
            steps.moment = moment
        self._begin()
        for steps in [one for one in self._steps if one.moment is not None]:
            steps.replay()

    def _begin(self) -> None:
        """Look at the parameters as they are before the first step."""
        self.keep()

    def remove(self) -> None:
        """Take the hooks off; among several ranks, ask for it in the next exchange, after which they do nothing."""
        if self._exchange is not None and not self._exchange.over:
            self._exchange.leaving = True
            return
        for steps in self._steps:
            steps.remove()
        unwatch(self)

    @staticmethod
    def gone() -> None:
        """Put torch's own functions back."""
        unwatch()

    def drain(self) -> None:
        """Hand in a row that some optimizer has no part in."""
        if self._over and self.here:
            self._end_row()

    def keep(self) -> None:
        """Hand in a sketch of the parameters: at the start, at checkpoints and at the end."""
        if self._exchange is None and self.here:
            self.recorder.snapshot(lambda: self._measure.now(self._values()))

    def missing(self) -> str:
        """Tell what is known about steps that were not seen; empty where nothing is missing."""
        return self._sightings.missing()

    def begins(self, steps: OptimizerSteps) -> bool:
        """Note that a step begins; tell whether it is one to record."""
        if not self.here:
            self._elsewhere()
            return False
        if not steps.places:
            self._look_for_new()
        if not steps.places:  # all that it has is frozen or was not chosen: no row waits for it
            return False
        if steps in self._over:
            late = ", ".join(one.name for one in self._steps if one.places and one not in self._over)
            self.recorder.remark(  # nothing where Ctrl-C came before the row was over
                late
                and f"{steps.name} stepped again before {late}: rows without a gradient of the latter are marked "
                "as partial; optimizers that take turns belong into runs of their own"
            )
            self._end_row()
        self._norms.begins(steps)
        return True

    def read(self, steps: OptimizerSteps, skipped: bool) -> None:
        """Sketch what an optimizer consumes, as it is now; what is read later in the same step replaces it."""
        self._look_for_new()
        if self._exchange is not None:
            self._exchange.leaving |= self._writes and not self.recorder.active
        self._taken = False
        if self._due():
            with self.recorder.guarded():
                self._in_step(lambda: self._gather(steps))
                self._note(steps, skipped)
                self._taken = True

    def ends(self, steps: OptimizerSteps) -> None:
        """Note that a step is over; the row is, if it was the last one."""
        self._norms.ends(steps)
        self._loss = self.loss.used(self._loss)
        self._over.append(steps)
        if len(self._over) == self._parts:
            self._end_row()

    def backward(self, tensors: object, gradients: object) -> None:
        """Note that ``backward`` is called on tensors, with gradients of them or None."""
        if self.here:
            with self.recorder.guarded():
                self.loss.add(tensors, gradients, self.params)

    def clipping(self, parameters: Tensors, max_norm: float, total_norm: torch.Tensor) -> None:
        """Norm clipping is about to happen: keep its coefficient and, for stage "preclip", the gradient."""
        ids = self._mine.intersection(map(id, parameters))
        if ids and self.here:
            with self.recorder.guarded():
                self._note_clipping(ids, norm_and_coef(max_norm, total_norm), self._gradients(self._steps))

    def clipping_compiled(self, parameters: Tensors, grads: Gradients, norm: torch.Tensor, coef: torch.Tensor) -> None:
        """Note the same inside a graph: a parameter is the one that lies at the same place in memory."""
        place = {p.data_ptr(): i for i, p in enumerate(self.params) if p.numel()}
        held = {place[p.data_ptr()]: g for p, g in zip(parameters, grads, strict=True) if p.data_ptr() in place}
        if held and self.here:
            with self.recorder.guarded():
                found = [held.get(i, p.grad) for i, p in enumerate(self.params)]
                self._note_clipping({id(self.params[i]) for i in held}, (norm, coef.clone()), found)

    def _note_clipping(self, ids: set[int], norm_and_coef: tuple[Number, Number], gradients: Gradients) -> None:
        if ids & self._clipped:  # once more, or the first time was for a step that was never taken
            self._forget_clipping()
            self.recorder.remark(self._sightings.clipped_again())
        nth = f"/{len(self._clip) // 2}" if self._clip else ""
        self._clipped |= ids
        self._clip[f"clip_norm{nth}"], self._clip[f"clip_coef{nth}"] = norm_and_coef
        if self._preclip and self._early is None and self._due():
            for i in {i for steps in self._over for i in steps.places}:
                gradients[i] = None  # it has been read
            self._absent -= {i for i, g in enumerate(gradients) if g is not None}
            self._early = self._in_step(lambda: self._measure.now(gradients))

    def stepping(self, scaler: torch.amp.GradScaler, optimizer: Optimizer) -> Callable[[], None] | None:
        """Watch a GradScaler's step: if it does not call the optimizer, that step was skipped."""
        mine = (steps for steps in self._steps if any(optimizer is one for one in steps.optimizers))
        steps = next(mine, None) if self.here and scaler.is_enabled() else None
        return None if steps is None else steps.scaled(scaler, optimizer)

    def anyone_steps(self, optimizer: Optimizer) -> None:
        """Note that some optimizer of this process is about to step, ours or not."""
        if self.here:
            self.recorder.remark(self._sightings.another(optimizer, self._mine))

    @property
    def here(self) -> bool:
        """Not in a forked child, and not after the ranks have agreed to stop."""
        return os.getpid() == self._pid and not (self._exchange is not None and self._exchange.over)

    def _elsewhere(self) -> None:
        """Say once in a forked child that its steps are not recorded."""
        if os.getpid() != self._pid and not self._told_elsewhere:
            self._told_elsewhere = True
            self.recorder.warn(
                "a process that was forked after attach takes steps, and they are not recorded; call attach in the "
                "process that trains"
            )

    def _forget(self) -> None:
        """Begin another row: nothing is known of it yet."""
        self._forget_clipping()
        self._over: list[OptimizerSteps] = []
        self._fills: dict[OptimizerSteps | None, Fill] = {}
        self._sums: dict[bool, tuple[Sums, Number | None]] = {}
        self._absent = set(range(len(self.params)))
        self._scalars: dict[str, Number] = {}
        self._loss_scale: dict[str, Number] = {}
        self._skipped: Number | None = None
        self._loss, self._taken = None, False

    def _forget_clipping(self) -> None:
        self._early, self._clip, self._clipped = None, {}, set()

    def _gradients(self, those: list[OptimizerSteps]) -> Gradients:
        """Gradients of what some of the optimizers train, in the order of the run's tensors."""
        found: Gradients = [None] * len(self.params)
        for steps in those:
            for i, g in zip(steps.places, steps.gradients(), strict=True):
                found[i] = g
        return found

    def _values(self) -> Tensors:
        values = self.params[:]
        for steps in self._steps:
            for i, value in zip(steps.places, steps.values(), strict=True):
                values[i] = value
        return values

    def _gather(self, steps: OptimizerSteps) -> None:
        """Sketch an optimizer's gradient, free of the loss scale."""
        scale = steps.handed("grad_scale")
        mine = None if self._alone else steps
        if self._early is not None:
            self._fills.pop(mine, None)
            self._fills[None] = divided(self._early, None if steps.unscaled else steps.scale)
            return
        gradients = self._gradients([steps])
        self._absent -= {i for i, g in enumerate(gradients) if g is not None}
        if self._many and not steps.closure and len(steps.optimizers) == 1:  # it is read once in a step
            assert isinstance(self._measure, Measure)
            if (scale is None) not in self._sums:
                self._sums[scale is None] = self._measure.begin(), scale
            self._measure.add(self._sums[scale is None][0], gradients)
        else:
            self._fills[mine] = divided(self._measure.now(gradients), scale)

    def _gathered(self) -> Fill:
        """Sketch of the whole row."""
        fills = list(self._fills.values())
        for sums, scale in self._sums.values():
            assert isinstance(self._measure, Measure)
            fills.append(divided(self._measure.total(self._measure.end(sums), 0), scale))
        return fills[0] if self._alone else summed(fills, len(self._absent))

    def _note(self, steps: OptimizerSteps, skipped: bool) -> None:
        """Keep what the optimizer knows about this step."""
        own = "lr" if self._alone or not steps.name else f"lr/{steps.name}"
        self._scalars |= {f"{own}/{i}" if i else own: r for i, r in enumerate(steps.rates()) if r is not None}
        scale = steps.handed("grad_scale") if steps.scale is None else steps.scale
        if scale is not None:
            self._loss_scale = {"loss_scale": scale}
        found = True if skipped else steps.handed("found_inf")
        if found is not None:
            self._skipped = found if self._skipped is None else self._skipped + found

    def _exchanges(self) -> int:
        """Count the exchanges among ranks in which a row ends."""
        return len(self._sums)

    def _row(self) -> Row:
        fill = divided(self._gathered(), self._share)
        scalars = {**self._scalars, **self._clip, **self._loss_scale, **self._norms.scalars()}
        observed = unscaled(self._loss, self._loss_scale.get("loss_scale"))
        return Row(fill, scalars, skipped=self._skipped, later=self._measure.later, observed=observed)

    def _end_row(self) -> None:
        """Hand the row over."""
        row: Row | None = None
        if self._taken:
            with self.recorder.guarded():
                row = self._in_step(self._row, self._exchanges())

        def source() -> Row:
            assert row is not None
            self._forget()  # the row has its number: where Ctrl-C comes from here on, it is not handed in once more
            return row

        if row is not None or not self._due():
            self.recorder.record(source)  # which only counts a step that is not due
        self._count = (self._count or 0) + 1
        self._sightings.step()
        self._forget()

    def _in_step(self, make: Callable[[], T], exchanges: int = 1) -> T:
        """Call ``make``; where it fails among several ranks, still take part in the exchanges that they wait in."""
        done = self._exchange.rounds if self._exchange else 0
        try:
            return make()
        except Exception:
            if self._exchange is not None:
                self._exchange.leaving = True
            while self._exchange is not None and self._exchange.rounds < done + exchanges:
                assert isinstance(self._measure, Measure)
                self._early = self._measure.total(self._measure.blank(), 0)
            raise

    def _due(self) -> bool:
        if self._exchange is None:
            return self.due
        if self._count is None:
            # Only rank 0 knows where a continued run stands.
            number = [self.recorder.state().get("step", 0)]
            if self._every > 1:
                dist.broadcast_object_list(number)
            self._count = int(number[0])
        return self._count % self._every == 0

    def _trained(self) -> set[int]:
        return {id(p) for steps in self._steps for p in steps.held() if p.requires_grad}

    def _place_parameters(self) -> None:
        """Tell every optimizer which of the run's tensors are its own."""
        self._mine = set(map(id, self.params))
        self._absent = set(range(len(self.params)))
        for steps in self._steps:
            held = self._mine if self._alone else set(map(id, steps.held()))
            steps.places = [i for i, p in enumerate(self.params) if id(p) in held]
            steps.params = [self.params[i] for i in steps.places]
        self._parts = sum(1 for steps in self._steps if steps.places)

    def _look_for_new(self) -> None:
        """Between two rows, let parameters that were added or unfrozen since join the run, where it can take them."""
        if self._over or self._fills or self._sums or not self.recorder.active:
            return
        trained = self._trained()
        if trained <= self._known:
            return
        with self.recorder.guarded():
            new = [(name, p) for name, p in self._names() if id(p) not in self._known]
            self._known |= trained
            if self._exchange is None:
                self.params, new = replaced([t.name for t in self.header.tensors], self.params, new)
                self._place_parameters()
            if not new:
                return
            if self._fixed or self._exchange is not None:
                self.recorder.remark(
                    f"{len(new)} parameters were added or unfrozen after attach and are not recorded, since the layout "
                    "of such a run is fixed; close() this logger and attach a new path to record them"
                )
            else:
                self._join(new)

    def _join(self, new: Named) -> None:
        self.join(new)
        self.params = self.params + [p for _, p in new]
        self._place_parameters()
        self._measure = measure_for(self.recorder, self.header, self.params, self.in_parts or self._many)
        self.keep()
