"""Lightning: a callback for ``Trainer``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from gradlog.errors import UnsupportedError
from gradlog.integrations import missing
from gradlog.recorder import earlier_runs

try:
    import torch
    from lightning.pytorch import Callback
except ImportError as error:
    raise missing("lightning", error) from error

from gradlog.recorder.logger import Logger
from gradlog.recorder.options import HookKeywords, RecordingOptions
from gradlog.recorder.provenance import ended_by
from gradlog.storage.paths import absolute, of_optimizer

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


State = Mapping[str, object]
"""Place in one run, as :meth:`gradlog.Logger.state_dict` gives it."""


class GradlogCallback(Callback):  # type: ignore[misc]  # Any where the framework is not installed
    """Records every optimizer step of a Lightning ``Trainer``; each optimizer gets a run of its own.

    The place in the run is kept in Lightning's checkpoints: ``fit(ckpt_path=...)`` continues there. Any other ``fit``
    is a run of its own, ``run-2.zarr`` where ``run.zarr`` is there already.

    Parameters
    ----------
    path : str or path-like
        Store of the first optimizer's run, a folder or a URL; those of others get ``.optimizer2``, ``.optimizer3``
        before the suffix.
    options, **keywords
        As for :func:`gradlog.attach`, with ``mode="new"`` as the default.

    Attributes
    ----------
    logs : list of Logger
        While training.

    Examples
    --------
    >>> trainer = Trainer(callbacks=[GradlogCallback("run.zarr")])            # doctest: +SKIP
    """

    def __init__(
        self, path: str | os.PathLike[str], *, options: RecordingOptions | None = None, **keywords: Unpack[HookKeywords]
    ) -> None:
        self._path, self._options = absolute(path), RecordingOptions.of(options, keywords).filled(mode="new")
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
        from gradlog.integrations.torch.attachment import attach

        if self._options.stage == "preclip" and trainer.gradient_clip_algorithm == "value":
            raise UnsupportedError(
                "stage='preclip': clipping by value goes unnoticed; clip by norm, or record 'consumed'"
            )

        self._close("training began again")
        options, path = self._options, self._path
        if self._restored:
            options = dataclasses.replace(options, mode="a")
            path = earlier_runs.with_uuid(path, str(self._restored[0].get("uuid")))
        elif len(trainer.optimizers) == 1:
            options = options.filled(first_step=trainer.global_step)
        elif options.mode == "new":
            path = earlier_runs.first_free(path)
        for n, optimizer in enumerate(trainer.optimizers, start=1):
            self.logs.append(attach(optimizer, of_optimizer(path, n), pl_module, options=options))
            path = self.logs[0].path or path
        for log, state in zip(self.logs, self._restored, strict=False):
            log.load_state_dict(state)
        self._restored, self._losses, self._steps = [], [], trainer.global_step

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
        self._ended = [log.state_dict() for log in self.logs] or self._ended
        for log in self.logs:
            log.close(reason)
        self.logs = []
