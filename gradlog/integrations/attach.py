"""``gradlog.attach``: one line for torch optimizers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

from gradlog.recorder.api import disabled
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import HookKeywords, RecordingOptions, takes_options

if TYPE_CHECKING:
    from gradlog.integrations.torch.types import Models, Optimizer


@takes_options
def attach(
    optimizer: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer],
    path: str | os.PathLike[str],
    model: Models = None,
    *,
    options: RecordingOptions | None = None,
    **keywords: Unpack[HookKeywords],
) -> Logger:
    """Record every step of a torch optimizer; one line in a training script.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer, or a list or dict of them
        Its hooks are used; nothing is stored on the model. Several that step once per iteration make one run, with one
        row per iteration, ``lr/NAME`` for each and groups ``NAME/group``. A dict names them; in a list they are named
        by their classes.
    path : str or path-like
        The run's store.
    model : torch.nn.Module or dict of str to Module, optional
        Gives parameters their names, and groups by module. Where several models are trained, a dict of them: names then
        begin with its keys. Without it they are named by position.
    options : RecordingOptions, optional
        How to record, as one object.
    **keywords
        The same, one by one, as for :func:`gradlog.open`.

    Returns
    -------
    Logger
        ``annotate(loss=...)`` before or after ``optimizer.step()``; ``close()`` removes the hooks.

    Examples
    --------
    >>> log = gradlog.attach(optimizer, "run.zarr", model=model)          # doctest: +SKIP
    >>> log = gradlog.attach([muon, adamw], "run.zarr", model=model)      # doctest: +SKIP
    """
    if disabled():
        return Logger(None)
    from gradlog.integrations.torch.attachment import attach as attach_torch

    return attach_torch(optimizer, path, model, options=options, **keywords)
