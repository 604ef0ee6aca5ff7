"""Hugging Face Transformers: a callback for ``Trainer``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Unpack

from gradlog.integrations import missing
from gradlog.recorder import earlier_runs

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", error) from error

from gradlog.recorder.logger import Logger
from gradlog.recorder.options import HookKeywords, RecordingOptions
from gradlog.storage.paths import absolute

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer
    from transformers import TrainerControl, TrainerState, TrainingArguments


class GradlogCallback(TrainerCallback):  # type: ignore[misc]  # Any where the framework is not installed
    """Records every optimizer step of a ``Trainer``.

    Steps are numbered by the trainer's own ``global_step``, so that ``train(resume_from_checkpoint=...)`` continues the
    run where the checkpoint was taken; rows logged after it stay in the store as an abandoned branch. Any other
    ``train()`` is a run of its own, ``run-2.zarr`` where ``run.zarr`` is there already.

    Parameters
    ----------
    path : str or path-like
        The run's store.
    options, **keywords
        As for :func:`gradlog.attach`, with ``mode="new"`` as the default.

    Attributes
    ----------
    log : Logger or None
        While training.

    Examples
    --------
    >>> trainer = Trainer(..., callbacks=[GradlogCallback("run.zarr")])       # doctest: +SKIP
    """

    def __init__(
        self, path: str | os.PathLike[str], *, options: RecordingOptions | None = None, **keywords: Unpack[HookKeywords]
    ) -> None:
        self.path, self.options = absolute(path), RecordingOptions.of(options, keywords).filled(mode="new")
        self.log: Logger | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Module,
        optimizer: Optimizer,
        **kwargs: object,
    ) -> None:
        """Attach to the optimizer that the trainer has prepared."""
        from gradlog.integrations.torch.attachment import attach

        per_step = args.gradient_accumulation_steps
        batches = _length(kwargs.get("train_dataloader"))
        options, path = self.options.filled(first_step=state.global_step), self.path
        options = options.noting(
            batch_size=args.train_batch_size * per_step * args.world_size,
            steps_per_epoch=None if batches is None else -(-batches // per_step),
        )
        key = f"gradlog:{os.path.basename(path)}"  # where the trainer's checkpoints keep which run this is
        if state.global_step:
            options = dataclasses.replace(options, mode="a")
            known = state.stateful_callbacks.get(key)
            path = earlier_runs.with_uuid(path, str(known["uuid"])) if known else earlier_runs.newest(path)
        elif self.log is not None and self.log.rows == 0 and self.log.active:
            # an attempt that ended before its first step
            options, path = dataclasses.replace(options, mode="a"), self.log.path
        self._close("training began again")
        self.log = attach(optimizer, path, model, options=options)
        if self.log.header is not None:
            state.stateful_callbacks[key] = {"uuid": self.log.header.uuid}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Take the training loss: as ``loss`` where it is this step's own, else as ``mean_loss`` of the last steps."""
        if self.log is not None and logs and "loss" in logs:
            own = args.logging_strategy == "steps" and args.logging_steps == 1
            self.log.annotate(**{"loss" if own else "mean_loss": float(logs["loss"])})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Take how far the epochs have come, from which the analysis knows which steps share one."""
        if self.log is not None and state.epoch is not None:
            self.log.annotate(epoch=float(state.epoch))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the run."""
        self._close()

    def _close(self, reason: str = "") -> None:
        if self.log is not None:
            self.log.close(reason)
            self.log = None


def _length(loader: object) -> int | None:
    """Batches of an epoch; None where a loader does not know."""
    try:
        return (len(loader) or None) if isinstance(loader, Sized) else None
    except TypeError:  # of a loader of an iterable data set
        return None
