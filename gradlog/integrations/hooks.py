"""The interface between a framework and a run, which every integration uses.

An integration catches gradients where its framework shows them. It opens a run with :func:`gradlog.open` for the named
parameters, derives a class from :class:`Hooks`, and hands rows to ``self.recorder``, a
:class:`~gradlog.recorder.recorder.Recorder`. These are its verbs:

``record(source, step=None)``
    Write a row. ``source()`` gives a :class:`Row`: gradients in the order of ``self.header.tensors``, or a function
    that fills in sketches made elsewhere (:data:`Fill`), and scalars. It is called only for a step that is recorded.
``snapshot(source)``
    Keep a sketch of the parameters, which ``source()`` gives as a :data:`Fill`.
``guarded()``
    Context for all else that a hook does. What is raised inside ends the recording with a warning, not the training.
``remark(text)``, ``warn(text)``
    Say something, once: to the user and to readers of the run, or to the user alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from gradlog.format.header import RunHeader
from gradlog.recorder.recorder import Recorder
from gradlog.recorder.rows.row_builder import Fill, Row

__all__ = ["Fill", "Hooks", "Row", "described"]


class Hooks:
    """The hooks of one run on a framework's objects.

    The recorder holds this object weakly: whatever the hooks are on keeps it. A subclass overrides what its framework
    needs of :meth:`remove`, :meth:`drain`, :meth:`keep` and :meth:`missing`.

    Parameters
    ----------
    recorder : Recorder
        ``logger.recorder`` of the opened run.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        recorder.on_close(self)

    @property
    def header(self) -> RunHeader:
        """What the run has fixed: its tensors, groups and sketch."""
        assert self.recorder.recording is not None, "hooks need a run that is open"
        return self.recorder.recording.header

    @property
    def due(self) -> bool:
        """Whether the next step is one that is recorded: always, but for ``every=N``."""
        recording = self.recorder.recording
        return self.recorder.active and recording is not None and recording.due

    def join(self, new: object) -> None:
        """Go on in a new segment, whose rows have these parameters too; ``new`` as ``like`` of :func:`gradlog.open`."""
        self.recorder.join(new)

    def snapshot(self, params: object) -> None:
        """Keep a sketch of the parameters, which are named arrays as of :func:`gradlog.open`, as they are now."""
        self.recorder.parameters(params)

    def remove(self) -> None:
        """Take every hook off: the recording has ended."""

    def drain(self) -> None:
        """Hand in rows that are under way: the recording is about to end."""

    def keep(self) -> None:
        """Hand in a snapshot of the parameters: at a checkpoint, and at the end."""

    def missing(self) -> str:
        """Tell which steps were not seen; empty where all were."""
        return ""

    @staticmethod
    def gone() -> None:
        """Clean up at the end of a recording whose hooks went with what they were on."""


def described(optimizer: object, settings: Mapping[str, object]) -> dict[str, object]:
    """Class and settings of an optimizer, as a run keeps them.

    >>> described({}, {"lr": 0.1})
    {'class': 'builtins.dict', 'settings': {'lr': 0.1}}
    """
    kind = type(optimizer)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "settings": settings}
