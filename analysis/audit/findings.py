"""Lines of an audit, and what they add up to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

Status = Literal["PASS", "FAIL", "SKIP", "WARN"]

MOST_LINES = 20
"""Findings of one check that get a line of their own; the rest are counted."""

MOST_TEXT = 400
"""Characters of a line: names inside a store may be of any length."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One finding.

    Attributes
    ----------
    status : {"PASS", "FAIL", "SKIP", "WARN"}
        Holds; contradicts; could not be looked at; odd, with honest explanations that the auditor must judge.
    check : str
        Name of the check.
    text : str
        For the reader.
    facts : dict
        The same for a program; plain JSON values.
    """

    status: Status
    check: str
    text: str
    facts: dict[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Report:
    """Findings of an audit in the order of the checks.

    Attributes
    ----------
    path : str
        What was audited.
    lines : list of Line
    """

    path: str
    lines: list[Line] = dataclasses.field(default_factory=list)

    def run(self, check: str, findings: Iterable[Line]) -> bool:
        """Take in the findings of a check; tell whether none of them is a FAIL.

        A hostile store can make a library raise anything; here, and only here, that becomes a finding.
        """
        found: list[Line] = []
        try:
            for line in findings:
                found.append(line)  # noqa: PERF402  (what came before an error counts)
        except Exception as error:
            found.append(Line("FAIL", check, f"stopped at {type(error).__name__}: {error}"))
        self.lines += [dataclasses.replace(line, text=_cut(line.text)) for line in found]
        return all(line.status != "FAIL" for line in found)

    def count(self, status: Status) -> int:
        """Lines of a status."""
        return sum(line.status == status for line in self.lines)

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return self.count("FAIL") > 0

    def to_json(self) -> dict[str, object]:
        """Plain values for ``json.dumps``, schema ``gradlog.audit/1``."""
        return {
            "schema": "gradlog.audit/1",
            "path": self.path,
            "passed": not self.failed,
            "counts": {s.lower(): self.count(s) for s in ("PASS", "FAIL", "SKIP", "WARN")},
            "lines": [dataclasses.asdict(line) for line in self.lines],
        }


def problems(check: str, found: Iterable[str], sound: str, status: Status = "FAIL") -> Iterator[Line]:
    """One line a problem, at most 20 and a count of the others; or PASS with the text ``sound``."""
    texts = list(found)
    for text in texts[:MOST_LINES]:
        yield Line(status, check, text)
    if len(texts) > MOST_LINES:
        more = len(texts) - MOST_LINES
        yield Line(status, check, f"and {more:,} more of this kind", {"problems": [_cut(t) for t in texts[:1000]]})
    if not texts:
        yield Line("PASS", check, sound)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " ..."
