"""Two things that pages cannot say themselves: which other pages there are, and what the commands' options are."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

KINDS = {"howto": ("howto-*",), "reference": ("format*", "schema*")}
"""Patterns of pages by kind; every other page of the folder explains a concept."""

LISTED = {"index", "tutorial", "cli", "api"}


def names_of(kind: str, folder: Path) -> list[str]:
    """Pages of a kind, in alphabetical order."""
    everything = {p.stem for p in folder.glob("*.md")} - LISTED
    kinds = {k: {p.stem for pattern in patterns for p in folder.glob(f"{pattern}.md")} for k, patterns in KINDS.items()}
    return sorted(kinds[kind] if kind in kinds else everything - set().union(*kinds.values()))


def command_reference() -> str:
    """Markdown about every command, from the command itself."""
    from gradlog.cli.app import gradlog

    parts = []
    for name, command in gradlog.commands.items():
        context = click.Context(command, info_name=f"gradlog {name}")
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts += [f"## gradlog {name}", "```text", usage, "```", _plain(inspect.cleandoc(command.help or "")), ""]
        parts += [_option(p, context) for p in command.params if isinstance(p, click.Option)]
    return "\n".join(parts) + "\n"


def _option(option: click.Option, context: click.Context) -> str:
    found = option.get_help_record(context)
    if found is None:
        return ""
    form, text = found
    return f"`{form}`\n: {_plain(text) or 'See above.'}\n"


def _plain(text: str) -> str:
    return text.replace("*", r"\*").replace("_", r"\_").replace("<", r"\<")


def fill(app: Any, docname: str, source: list[str]) -> None:
    """Replace ``@@kind@@`` by the pages of that kind, and ``@@commands@@`` by the command reference."""
    text = source[0]
    if "@@" not in text:
        return
    for kind in (*KINDS, "concepts"):
        text = text.replace(f"@@{kind}@@", "\n".join(names_of(kind, Path(app.srcdir))))
    source[0] = text.replace("@@commands@@", command_reference() if "@@commands@@" in text else "")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
