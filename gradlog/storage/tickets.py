"""A run whose store did not answer when it was opened: what the spool keeps of it, beside its rows, until one does.

The ticket holds what a later process needs to open the run in this one's place. It is written before the first row and
deleted once a segment is claimed, whose ``process.spool`` then tells where the rows wait.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from gradlog.errors import CorruptRunError, StoreUnavailableError
from gradlog.format import fields, limits
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.names import temporary
from gradlog.storage import spool
from gradlog.storage.commit import SegmentWriter
from gradlog.storage.sink import write_new

log = logging.getLogger("gradlog")

NAME = "opening.json"


@dataclasses.dataclass(frozen=True)
class Ticket:
    """What is to be opened.

    Attributes
    ----------
    path : str
        URL of the run.
    joins : bool
        Whether it goes on in a run that is there (mode "a"), where its rows fit behind that run's.
    header : RunHeader
        Of the run, if it becomes a new one.
    segment : SegmentHeader
        The first one of that run, with the process that recorded.
    follows : mapping or None
        Checkpoint whose run the rows go on from; {} where the loop numbered them itself, None where they were counted
        from 0 for want of an answer.
    """

    path: str
    joins: bool
    header: RunHeader
    segment: SegmentHeader
    follows: Mapping[str, object] | None = None

    @property
    def owner(self) -> str:
        """Whose the rows in the spool are, and the folder there."""
        return str(self.segment.process["spool"])

    @property
    def folder(self) -> Path:
        """Where the rows wait, and the ticket."""
        return spool.top() / self.owner

    def write(self) -> None:
        """Keep it, in the place of one that stood there."""
        document = {
            "path": self.path,
            "joins": self.joins,
            "follows": None if self.follows is None else dict(self.follows),
            **self.header.to_attrs(),
            **self.segment.to_attrs(),
        }
        begun = self.folder / temporary(NAME)
        write_new(str(begun), [json.dumps(document).encode()])
        begun.replace(self.folder / NAME)

    def discard(self) -> None:
        """Delete it."""
        (self.folder / NAME).unlink(missing_ok=True)


def read(folder: Path) -> Ticket | None:
    """Ticket in a folder of the spool; None where there is none, or none that can be read."""
    try:
        document = limits.parse_object(limits.read_plain(folder, NAME), str(folder / NAME))
        path = fields.text(document.get("path"), "path")
        header, segment = RunHeader.from_attrs(document), SegmentHeader.from_attrs(document)
        segment.require_bounds(header, str(folder))
        follows = document.get("follows")
        if follows is not None:
            follows = fields.mapping(follows, "follows")
        ticket = Ticket(path, document.get("joins") is True, header, segment, follows)
        if ticket.owner != f"{folder.parent.name}/{folder.name}":
            raise CorruptRunError(f"{folder / NAME}: it is of {ticket.owner!r}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, OSError) as error:
        log.warning("passed over in the spool: %s", error)
        return None
    return ticket


def waiting(path: str) -> list[Ticket]:
    """Tickets of the run at a URL, the oldest first; none from a spool that is another user's."""
    top = spool.top()
    if not top.is_dir() or not spool.is_ours(top):
        return []
    found = [read(place.parent) for place in sorted(top.glob(f"*/*/{NAME}"))]
    return sorted((t for t in found if t is not None and t.path == path), key=lambda t: t.segment.opened)


class Opening:
    """A segment that is claimed once the store answers; until then nobody else can know of it but from its ticket.

    Parameters
    ----------
    ticket : Ticket
    claim : callable
        Claims a segment for it.
    refusal : StoreUnavailableError
        Why that did not happen at once.
    """

    def __init__(
        self, ticket: Ticket, claim: Callable[[Ticket], SegmentWriter], refusal: StoreUnavailableError
    ) -> None:
        self.ticket, self.refusal, self._claim = ticket, refusal, claim

    def follow(self, state: Mapping[str, object]) -> None:
        """Note before the first row that the loop numbers them itself, or goes on from a checkpoint."""
        if not self.ticket.follows:
            self.ticket = dataclasses.replace(self.ticket, follows=state)

    def claim(self) -> SegmentWriter:
        """Claim a segment.

        Raises
        ------
        StoreUnavailableError
            The store still refuses.
        """
        writer = self._claim(self.ticket)
        self.ticket.discard()
        return writer
