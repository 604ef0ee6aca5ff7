"""Every kind of file, every kind of damage: reading or the audit notices, in errors of our own."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradlogError
from tests.helpers.attacks import ATTACKS, flips, replaced
from tests.helpers.damaged_runs import BASES, KINDS, SECOND, SEGMENT, Bytes, InMemory, kind_of, read


def test_every_file_is_of_a_known_kind_and_every_kind_occurs(stores: Any) -> None:
    assert {kind_of(key) for base in BASES for key in stores[base][0]} == set(KINDS)


@pytest.mark.parametrize("base", BASES)
def test_the_stores_are_sound_to_begin_with(stores: Any, base: str) -> None:
    files, _ = stores[base]
    assert examine(InMemory(files)).problems == []
    expected = {"closed": 39, "compact": 38, "unfinished": 29, "recovered": 29}[base]
    assert len(read(files)["step"]) == expected


def outcome(files: Bytes) -> str:
    """Which of the two notices: reading, audit, or neither. Anything but our own errors goes through."""
    try:
        read(files)
    except GradlogError:
        return "reading"
    return "audit" if examine(InMemory(files)).problems else "neither"


def excused(key: str, attack: str) -> bool:
    """Section 11: the end of the last journal of an unfinished segment may vanish."""
    return key.endswith(".journal-000003") and attack in ("truncations", "deletion")


def table(results: dict[tuple[str, str], Counter[str]]) -> str:
    """Kinds down, attacks across: damaged stores, and how many of them reading noticed already."""
    attacks = list(dict.fromkeys(attack for _, attack in results))
    lines = ["kind".ljust(18) + "".join(a.rjust(14) for a in attacks)]
    for kind in KINDS:
        cells = [results.get((kind, a), Counter()) for a in attacks]
        lines.append(kind.ljust(18) + "".join(f"{c['reading']}/{c.total()}".rjust(14) for c in cells))
    return "\n".join(lines)


@pytest.mark.slow
def test_every_damage_to_every_kind_of_file_is_noticed(stores: Any) -> None:
    rng = random.Random(0)
    results: dict[tuple[str, str], Counter[str]] = {}
    missed = []
    foreign = stores["other"][0]
    for base in BASES:
        files, history = stores[base]
        by_kind: dict[str, list[str]] = {}
        for key in files:
            by_kind.setdefault(kind_of(key), []).append(key)
        for kind, keys in by_kind.items():
            for key in keys if kind == "journal" else rng.sample(keys, 1):
                damaged = {name: list(attack(files, key, rng)) for name, attack in ATTACKS.items()}
                damaged["replaced"] = list(replaced(files, key, rng, foreign))
                damaged["old version"] = [files | {key: old} for old in history.get(key, []) if old != files[key]]
                if kind == "segment":
                    damaged["old version"] = damaged["old version"][:-1]  # the last one is the same but not closed
                for attack, copies in damaged.items():
                    if excused(key, attack):
                        continue
                    for copy in copies:
                        found = outcome(copy)
                        results.setdefault((kind, attack), Counter())[found] += 1
                        if found == "neither":
                            missed.append((base, key, attack))
    print("\n" + table(results))
    assert missed == []
    assert sum(c.total() for c in results.values()) > 700


def test_two_thousand_changed_bits_anywhere(stores: Any) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        files = stores[rng.choice(BASES)][0]
        key = rng.choice(list(files))
        (damaged,) = flips(files, key, rng, 1)
        assert examine(InMemory(damaged)).problems, key


def test_reading_alone_notices_changed_bits_in_whatever_it_uses(stores: Any) -> None:
    """Every chunk has a checksum, headers a seal: reading refuses them without the audit."""
    rng = random.Random(2)
    files = stores["closed"][0]
    for key in files:
        if kind_of(key) not in ("array", "manifest"):
            for damaged in flips(files, key, rng, 2):
                with pytest.raises(GradlogError):
                    read(damaged)


def test_what_is_refused_as_a_whole_is_explained(stores: Any) -> None:
    files = stores["unfinished"][0]
    gone = {k: v for k, v in files.items() if not k.endswith(".journal-000002")}
    with pytest.raises(GradlogError, match=r"rows 16 to 23 before it are missing; \.journal-000002 held them"):
        read(gone)
    without = {k: v for k, v in stores["closed"][0].items() if not k.startswith(SEGMENT)}
    assert examine(InMemory(without)).problems == [f"{SECOND}/zarr.json: continues {SEGMENT}, which is missing"]
