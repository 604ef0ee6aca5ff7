"""How the storage of a run is opened, and how long it is waited for."""

from __future__ import annotations

import dataclasses
import os

from gradlog.storage.sink import REQUEST_PAUSES, Sink, open_sink


@dataclasses.dataclass(frozen=True)
class Storage:
    """The storage of a run, and how long it is waited for, in seconds. Override :meth:`open` for a sink of your own.

    Attributes
    ----------
    request_pauses : tuple of float
        Before a failed request to an object store is made again.
    flush_pauses : tuple of float
        Before a store that refused a flush is asked again; the last one from then on. Training goes on meanwhile.
    step_wait : float
        That a step waits for a slow disk before rows are dropped, once for each time it is slow. For a store elsewhere
        that is slow; not for one that refuses, and what it does not take stays in the spool.
    close_wait : float
        That closing waits before it leaves the rest to the journal.

    Examples
    --------
    >>> import gradlog, tempfile
    >>> patient = gradlog.Storage(close_wait=600.0)
    >>> gradlog.open(tempfile.mkdtemp() + "/run.zarr", storage=patient).close()
    """

    request_pauses: tuple[float, ...] = REQUEST_PAUSES
    flush_pauses: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 30.0)
    step_wait: float = 5.0
    close_wait: float = 60.0

    def open(self, path: str | os.PathLike[str], durable: bool = False) -> Sink:
        """Sink for a local path or an fsspec URL."""
        return open_sink(path, durable, self.request_pauses)
