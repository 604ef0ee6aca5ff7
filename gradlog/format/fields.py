"""Values of a stranger's JSON, taken only if they are of the kind and size that the format says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def whole_number(value: object, least: int, most: int, what: str) -> int:
    """Return a whole number within bounds.

    Raises
    ------
    ValueError
        It is of another kind, or out of bounds.

    Examples
    --------
    >>> whole_number(16, 1, 2**20, "chunk")
    16
    """
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} must be a whole number from {least:,} to {most:,}, got {shown(value)}")
    return value


def truth(value: object, what: str) -> bool:
    """Return true or false; ValueError for anything else."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false, got {shown(value)}")
    return value


def text(value: object, what: str) -> str:
    """Return a text; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, got {shown(value)}")
    return value


def sequence(value: object, what: str, most: int = 2**20) -> Sequence[object]:
    """Return a list of bounded length; ValueError for anything else."""
    if not isinstance(value, list | tuple) or len(value) > most:
        raise ValueError(f"{what} must be a list of at most {most:,}, got {shown(value)}")
    return value


def mapping(value: object, what: str) -> Mapping[str, object]:
    """Return an object; ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be an object, got {shown(value)}")
    return value


def names(value: object, most: int, what: str) -> tuple[str, ...]:
    """Return different texts, at most so many; ValueError for anything else."""
    found = tuple(text(name, f"a name in {what}") for name in sequence(value, what, most))
    if len(set(found)) < len(found):
        raise ValueError(f"{what} must be different names, got {shown(list(found))}")
    return found


def step(value: object, what: str) -> int:
    """Return a step number; ValueError for anything else."""
    return whole_number(value, -(2**62), 2**62, what)


def dropped(value: object) -> tuple[tuple[int, int, str], ...]:
    """Return intervals of steps that were not kept, as (first, last, reason); ValueError for anything else."""
    found = [sequence(gap, "a gap in dropped", 3) for gap in sequence(value, "dropped")]
    if any(len(gap) != 3 for gap in found):
        raise ValueError(f"dropped must hold first step, last step and reason, got {shown(value)}")
    return tuple((step(a, "a dropped step"), step(b, "a dropped step"), text(c, "a reason")) for a, b, c in found)


def provenance(value: object) -> dict[str, object]:
    """Return what is recorded about where a run comes from; ValueError for anything else."""
    found = dict(mapping(value, "provenance"))
    for name in ("versions", "notes"):
        mapping(found.get(name, {}), f"provenance.{name}")
    sequence(found.get("argv", ()), "provenance.argv")
    text(mapping(found.get("git", {}), "provenance.git").get("commit", ""), "provenance.git.commit")
    return found


def shown(value: object) -> str:
    """Show a stranger's value in a message, in few characters.

    >>> shown([1, 2]), shown("x" * 100)[:8]
    ('[1, 2]', "'xxxxxxx")
    """
    if isinstance(value, list | tuple | Mapping) and len(repr(value)) > 80:
        return f"a {type(value).__name__} of {len(value):,} values"
    if type(value) is int and abs(value) > 10**18:
        return f"a number of {value.bit_length():,} bits"
    words = repr(value)
    return words if len(words) <= 80 else words[:77] + "..."
