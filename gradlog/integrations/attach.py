"""``gradlog.attach``: one line for a torch optimizer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gradlog.integrations.hooks import Option
from gradlog.recorder.api import disabled
from gradlog.recorder.logger import Logger

if TYPE_CHECKING:
    from gradlog.integrations.torch.types import Models, Optimizer


def attach(optimizer: Optimizer, path: str | os.PathLike[str], model: Models = None, **options: Option) -> Logger:
    """Record every step of a torch optimizer; one line in a training script.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Its hooks are used; nothing is stored on the model.
    path : str or path-like
        The run's store.
    model : torch.nn.Module or dict of str to Module, optional
        Gives parameters their names, and groups by module. Where one optimizer trains several models, a dict of them:
        names then begin with its keys. Without it they are named by position.
    **options
        As for :func:`gradlog.open`.

    Returns
    -------
    Logger
        ``annotate(loss=...)`` before or after ``optimizer.step()``; ``close()`` removes the hooks.

    Examples
    --------
    >>> log = gradlog.attach(optimizer, "run.zarr", model=model)          # doctest: +SKIP
    """
    if disabled():
        return Logger(None)
    from gradlog.integrations.torch.attachment import attach as attach_torch

    return attach_torch(optimizer, path, model, **options)
