"""Whether the rows of two runs can be compared: only those of one random map keep inner products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlog.errors import SpecMismatchError

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run


def require_same_map(a: Run, b: Run) -> None:
    """Refuse runs whose rows cannot be compared.

    Raises
    ------
    SpecMismatchError
        With the first thing that differs.
    """
    one, two = a.header, b.header
    facts = {
        **{name: (getattr(one.sketch, name), getattr(two.sketch, name)) for name in ("kind", "k", "seed", "m")},
        "groups": (one.groups, two.groups),
        "tensors": tuple([(t.name, t.shape, t.group) for t in h.tensors] for h in (one, two)),
        "what": (one.what, two.what),
        "stage": (one.stage, two.stage),
    }
    for name, (left, right) in facts.items():
        if left != right:
            shown = f": {left} and {right}" if len(f"{left}{right}") < 160 else ""
            raise SpecMismatchError(
                f"{a.where} and {b.where} differ in their {name}{shown}; their rows cannot be compared"
            )
