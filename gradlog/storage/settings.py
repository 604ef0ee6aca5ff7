"""How the storage of a run is opened, and how long it is waited for."""

from __future__ import annotations

import dataclasses
import os
import threading

from gradlog.errors import StoreUnavailableError
from gradlog.format.names import META
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
    open_wait : float
        That opening a run waits for the first answer of a store elsewhere, before its rows go to the spool.

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
    open_wait: float = 5.0

    def open(self, path: str | os.PathLike[str], durable: bool = False) -> Sink:
        """Sink for a local path or an fsspec URL."""
        return open_sink(path, durable, self.request_pauses)


def first_answer(path: str, storage: Storage, wait: float) -> bytes | None:
    """Ask a store elsewhere for a run's metadata, and take no longer than ``wait`` seconds; None: it has no run there.

    Clients of object stores try again by themselves, for half a minute where nobody listens and for longer where nobody
    answers. That goes on in a thread whose answer nobody reads.

    Raises
    ------
    StoreUnavailableError
        It refuses, or has not answered in time.
    """
    answers: list[bytes | Exception | None] = []

    def ask() -> None:
        try:
            answers.append(storage.open(path).get(META))
        except FileNotFoundError:
            answers.append(None)
        except Exception as error:
            answers.append(error)

    asking = threading.Thread(target=ask, name="gradlog-ask", daemon=True)
    asking.start()
    asking.join(wait)
    if not answers:
        raise StoreUnavailableError(f"the store does not answer: nothing came within {wait:g} s")
    answer = answers[0]
    if isinstance(answer, Exception):
        raise answer
    return answer
