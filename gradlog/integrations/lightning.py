"""Lightning: a callback for ``Trainer``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack, get_args

from gradlog.errors import UnsupportedError
from gradlog.integrations import missing
from gradlog.recorder import earlier_runs

try:
    import torch
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing("lightning", error) from error

from gradlog.integrations.torch.attachment import record
from gradlog.integrations.torch.optimizers.arrivals import Arrivals
from gradlog.integrations.torch.optimizers.optimizer import named_optimizers
from gradlog.integrations.torch.optimizers.together import Choice, First
from gradlog.recorder.logger import Logger
from gradlog.recorder.messages import tell
from gradlog.recorder.options import HookKeywords, RecordingOptions
from gradlog.recorder.provenance import ended_by
from gradlog.storage.paths import absolute, of_optimizer

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


State = Mapping[str, object]
"""Place in one run, as :meth:`gradlog.Logger.state_dict` gives it."""


class GradlogCallback(Callback):  # type: ignore[misc]  # Any where the framework is not installed
    """Records every optimizer step of a Lightning ``Trainer``; optimizers that step together make one run.

    The place in the run is kept in Lightning's checkpoints: ``fit(ckpt_path=...)`` continues there. Any other ``fit``
    is a run of its own, ``run-2.zarr`` where ``run.zarr`` is there already.

    Parameters
    ----------
    path : str or path-like
        Store of the first run, a folder or a URL; those of others get ``.optimizer2``, ``.optimizer3`` before the
        suffix.
    optimizers : {"auto", "together", "separate"}
        Which of several optimizers (manual optimization) make one run: those that step between the same backward
        passes; all of them; or each its own.
    options, **keywords
        As for :func:`gradlog.attach`, with ``mode="new"`` as the default.

    Attributes
    ----------
    logs : list of Logger
        While training, in the order of their first steps.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[GradlogCallback("run.zarr")])            # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        optimizers: Choice = "auto",
        *,
        options: RecordingOptions | None = None,
        **keywords: Unpack[HookKeywords],
    ) -> None:
        if optimizers not in get_args(Choice):
            raise ValueError(f"optimizers must be one of {', '.join(map(repr, get_args(Choice)))}, got {optimizers!r}")
        self._path, self._options = absolute(path), RecordingOptions.of(options, keywords).filled(mode="new")
        self._choice = optimizers
        self._arrivals: Arrivals | None = None
        self._restored: list[State] = []
        self._ended: list[State] = []
        self._losses: list[torch.Tensor] = []
        self._steps = 0
        self.logs: list[Logger] = []

    @property
    def state_key(self) -> str:
        """Where Lightning keeps this callback's state in a checkpoint."""
        return f"gradlog:{os.path.basename(self._path)}"

    def state_dict(self) -> dict[str, list[State]]:
        """Place in each run; after training, where it ended."""
        return {"runs": [log.state_dict() for log in self.logs] or self._ended}

    def load_state_dict(self, state_dict: dict[str, list[State]]) -> None:
        """Remember the places until the optimizers are there."""
        self._restored = list(state_dict["runs"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizers.

        Raises
        ------
        UnsupportedError
            ``stage="preclip"`` while the trainer clips by value, which cannot be noticed.
        """
        if self._options.stage == "preclip" and trainer.gradient_clip_algorithm == "value":
            raise UnsupportedError(
                "stage='preclip': clipping by value goes unnoticed; clip by norm, or record 'consumed'"
            )

        self._close("training began again")
        options, path = self._options.noting(**_facts(trainer, pl_module)), self._path
        if self._restored:
            options = dataclasses.replace(options, mode="a")
            path = earlier_runs.with_uuid(path, str(self._restored[0].get("uuid")))
        elif len(trainer.optimizers) == 1:
            options = options.filled(first_step=trainer.global_step)
        elif options.mode == "new":
            path = earlier_runs.first_free(path)
        states, self._restored = self._restored, []
        self._losses, self._steps = [], trainer.global_step
        begin = functools.partial(self._begin, path, pl_module, options, states)
        together, optimizers = self._choice == "together", trainer.optimizers
        if states and len(states) in (1, len(optimizers)):  # as they were recorded
            together = len(states) == 1
        elif self._choice == "auto" and len(optimizers) > 1:
            # in manual optimization, which several need, the closure of a step does nothing
            self._arrivals = Arrivals(self._choice, begin, optimizers)
            return
        for one in [optimizers] if together else [[optimizer] for optimizer in optimizers]:
            begin([First(optimizer, 0) for optimizer in one])

    def _begin(
        self, path: str, model: LightningModule, options: RecordingOptions, states: list[State], run: Sequence[First]
    ) -> None:
        """Attach to the optimizers of a run, which goes on where its state says."""
        state = states[len(self.logs)] if len(self.logs) < len(states) else {}
        path = self.logs[0].path or path if self.logs else path
        if self._arrivals is not None and state:  # its first row may be there before it could be told
            options = dataclasses.replace(options, first_step=int(str(state["step"])))
        optimizers = [first.optimizer for first in run]
        named = named_optimizers(optimizers if len(run) > 1 else optimizers[0])
        try:
            log = record(named, of_optimizer(path, len(self.logs) + 1), model, options, [one.moment for one in run])
        except Exception as error:
            if self._arrivals is None or options.on_error == "raise":
                raise
            tell(path, f"{' and '.join(type(one).__name__ for one in optimizers)}: not recorded: {error}")
            log = Logger(None)
        if self._arrivals is None:
            log.load_state_dict(state)
        self.logs.append(log)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: torch.Tensor | Mapping[str, object] | None,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Add the loss of the step, over its micro-batches; Lightning has divided it by their number already."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
        if trainer.global_step > self._steps and self._losses:
            self._steps = trainer.global_step
            loss = sum(self._losses) / len(self._losses)
            if pl_module.automatic_optimization:
                loss = loss * trainer.accumulate_grad_batches
            self._losses = []
            for log in self.logs:
                log.annotate(loss=loss, epoch=trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the runs."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the runs, and keep in them what ended the training."""
        self._close(ended_by(exception))

    def _close(self, reason: str = "") -> None:
        if self._arrivals is not None:
            self._arrivals.close()
        self._ended = [log.state_dict() for log in self.logs] or self._ended
        for log in self.logs:
            log.close(reason)
        self.logs, self._arrivals = [], None


def _facts(trainer: Trainer, model: LightningModule) -> dict[str, int | None]:
    """Facts of a step's batch and of an epoch that the trainer knows, where one optimizer steps by itself."""
    batch, batches = getattr(trainer.train_dataloader, "batch_size", None), trainer.num_training_batches
    if not model.automatic_optimization or not isinstance(batch, int):
        return {}
    per_step = trainer.accumulate_grad_batches
    whole = trainer.limit_train_batches == 1.0 and 0 < batches < float("inf")
    return {
        "batch_size": batch * per_step * trainer.world_size,
        "steps_per_epoch": -(-int(batches) // per_step) if whole else None,
    }
