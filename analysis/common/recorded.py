"""What was recorded, in words: the one description of a run, for the terminal, notebooks, reports and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradlog.analysis.common.text import counted, enumerate_some
from gradlog.format.names import UPDATE_NORM, WEIGHT_NORM

Info = dict[str, Any]
"""As ``Run.info`` gives it: facts by their names, whatever JSON can hold."""

EXACT = "the gradient itself"


def recorded(info: Info) -> dict[str, str]:
    """Facts about a run by their labels; empty where one is not known.

    Parameters
    ----------
    info : mapping
        ``Run.info``. Its text comes from the run: a caller escapes it.
    """
    origin = info["provenance"]
    git = origin.get("git", {})
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    return {
        "path": info["path"],
        "status": info["status"] + (f": {info['reason']}" if info["reason"] else ""),
        "steps": steps(info),
        "gradient": f"{info['what']}, {info['stage']}{', with updates' if info.get('updates') else ''}",
        "model": f"{counted(info['dimension'], 'parameter')} in {counted(info['tensors'], 'tensor')}{_chosen(origin)}",
        "groups": counted(len(info["groups"]), "group"),
        "fold": ", ".join(dict.fromkeys(s["fold"] for s in info["segments"] if "fold" in s)),
        "sketch": EXACT if info["kind"] == "exact/1" else f"{info['kind']}, k = {info['k']}, seed {info['seed']}",
        "scalars": enumerate_some(_scalars(info), 12),
        "created": info["created"],
        "uuid": info["uuid"],
        "format": info["format"],
        "segments": f"{len(info['segments']):,}, {counted(info['ranks'], 'rank')}",
        "norms": info["norms"],
        "command": " ".join(map(str, origin.get("argv", []))),
        "optimizer": optimizer_in_words(origin),
        "versions": ", ".join(f"{k} {v}" for k, v in origin.get("versions", {}).items()),
        "code": f"{git['commit'][:12]}{dirty}" if git.get("commit") else "",
        "host": origin.get("hostname") or "",
        "platform": origin.get("platform") or "",
    }


def _scalars(info: Info) -> list[str]:
    """Names of scalars, those of groups as one; of the loss, whether no loop has told it."""
    backward = any(segment.get("loss") == "backward" for segment in info["segments"])
    loss = "loss (what backward was called on)" if backward else "loss"
    names = [loss if name == "loss" else name for name in info["scalars"]]
    single = [name for name in names if not name.startswith((WEIGHT_NORM, UPDATE_NORM))]
    return single + ["norms of the parameters and of their change"] * (len(single) < len(names))


def steps(info: Info) -> str:
    """Say how many steps there are, and how they are numbered.

    >>> steps({"steps": 400, "first_step": 0, "last_step": 798, "every": 2})
    '400 (0 to 798, every 2)'
    """
    if not info["steps"]:
        return "none yet"
    every = "" if info["every"] == 1 else f", every {info['every']}"
    return f"{info['steps']:,} ({info['first_step']:,} to {info['last_step']:,}{every})"


def irregularities(info: Info) -> Iterator[str]:
    """Say what is irregular about the rows."""
    if info["gaps"]:
        before, after = info["gaps"][0]
        yield f"steps are missing in {counted(len(info['gaps']), 'place')}, first between {before} and {after}"
    if info["nonfinite"]:
        yield f"NaN or inf in {counted(len(info['nonfinite']), 'step')}: {enumerate_some(info['nonfinite'], 6)}"
    again = info["relogged"]
    if again["steps"]:
        yield (
            f"{counted(again['steps'], 'step')} logged again after a rewind, {again['identical']:,} of them with "
            "identical norms" + ("" if again["first_different"] is None else f", not step {again['first_different']:,}")
        )
    for old, new in again["writers"]:
        yield f"two writers at one time: {old} and {new} hold rows of two jobs, not of a rewind"
    for key, text in (
        ("skipped", "steps that the optimizer skipped"),
        ("partial", "steps in which some tensors had no gradient"),
        ("fewer_ranks", "rows recorded by fewer ranks than others"),
        ("abandoned", "rows of abandoned branches, left out of this view"),
        ("journal_rows", "rows still in the journal, read from there"),
    ):
        if info[key]:
            yield f"{info[key]:,} {text}"


def optimizer_name(provenance: Mapping[str, object]) -> str:
    """Name of the optimizer as it was noted, or else that of its class; at most 80 letters, empty where unknown.

    >>> optimizer_name({"optimizer": {"class": "torch.optim.sgd.SGD", "settings": {"momentum": 0.9}}})
    'SGD with momentum'
    """
    notes, told = provenance.get("notes"), provenance.get("optimizer")
    noted = notes.get("optimizer") if isinstance(notes, Mapping) else None
    if isinstance(noted, str) and noted:
        return noted[:80]
    if not isinstance(told, Mapping):
        return ""
    settings = told.get("settings")
    moving = isinstance(settings, Mapping) and bool(settings.get("momentum"))
    return f"{str(told.get('class', '')).rpartition('.')[2][:60]}{' with momentum' if moving else ''}"


def optimizer_in_words(provenance: Mapping[str, object]) -> str:
    """Class and settings of the optimizer as they were recorded; empty where they were not.

    >>> optimizer_in_words({"optimizer": {"class": "torch.optim.adam.Adam", "settings": {"lr": 0.1, "betas": [0, 1]}}})
    'Adam: lr 0.1, betas 0 1'
    """
    told = provenance.get("optimizer")
    if not isinstance(told, Mapping):
        return ""
    groups = told.get("groups")
    own = [_settings(group) for group in groups] if isinstance(groups, list) else []
    several = [f"group {i}: {said}" for i, said in enumerate(own) if said]
    said = "; ".join([x for x in (_settings(told.get("settings")), *several) if x])
    name = str(told.get("class", "")).rpartition(".")[2]
    return f"{name}: {said}" if said else name


def _chosen(provenance: Mapping[str, object]) -> str:
    """Say by which expressions parameters were chosen; empty where none were.

    >>> _chosen({"chosen": {"include": ["lora", "^emb"], "exclude": ["bias"]}})
    ', chosen by include=lora, ^emb; exclude=bias'
    """
    told = provenance.get("chosen")
    lists = {name: told.get(name) for name in ("include", "exclude")} if isinstance(told, Mapping) else {}
    said = "; ".join(
        f"{name}={enumerate_some(found, 6)}" for name, found in lists.items() if isinstance(found, list) and found
    )
    return f", chosen by {said}" if said else ""


def _settings(found: object) -> str:
    if not isinstance(found, Mapping):
        return ""
    shown = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in found.items() if v is not None}
    return ", ".join(f"{k} {v}" for k, v in shown.items())
