"""Hugging Face Transformers: a callback for ``Trainer``."""

from __future__ import annotations

import os
from typing import Any

from gradlog.integrations import missing

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise missing("transformers", error) from error

from gradlog.logger import Logger


class GradlogCallback(TrainerCallback):  # type: ignore[misc]  # Any where the framework is not installed
    """Records every optimizer step of a ``Trainer``.

    Steps are numbered by the trainer's own ``global_step``, so that ``train(resume_from_checkpoint=...)`` continues the
    run where the checkpoint was taken; rows logged after it stay in the store as an abandoned branch.

    Parameters
    ----------
    path : str or path-like
        The run's store.
    **options
        As for :func:`gradlog.attach`.

    Attributes
    ----------
    log : Logger or None
        While training.

    Examples
    --------
    >>> trainer = Trainer(..., callbacks=[GradlogCallback("run.zarr")])       # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self.path, self.options = path, options
        self.log: Logger | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach to the optimizer that the trainer has prepared."""
        from gradlog.integrations.torch import attach

        self._close()
        options = dict(self.options)
        if state.global_step:
            options["mode"] = "a"
        self.log = attach(kwargs["optimizer"], self.path, kwargs["model"], first_step=state.global_step, **options)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the training loss: as ``loss`` where it is this step's own, else as ``mean_loss`` of the last steps."""
        if self.log is not None and logs and "loss" in logs:
            own = args.logging_strategy == "steps" and args.logging_steps == 1
            self.log.annotate(**{"loss" if own else "mean_loss": float(logs["loss"])})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run."""
        self._close()

    def _close(self) -> None:
        if self.log is not None:
            self.log.close()
            self.log = None
