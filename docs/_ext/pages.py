"""What no page can say itself: the options of the commands, and the numbers of a result."""

from __future__ import annotations

import inspect
from typing import Any

import click


def command_reference() -> str:
    """Markdown about every command, from the command itself."""
    from gradlog.cli.app import gradlog

    parts = []
    for name, command in gradlog.commands.items():
        context = click.Context(command, info_name=f"gradlog {name}")
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts += [f"## gradlog {name}", "```text", usage, "```", _plain(inspect.cleandoc(command.help or "")), ""]
        parts += [_option(p, context) for p in command.params if isinstance(p, click.Option)]
        if command.epilog:  # its first two lines are for the terminal
            parts += ["Examples:", "```text", inspect.cleandoc("\n".join(command.epilog.splitlines()[2:])), "```", ""]
    return "\n".join(parts) + "\n"


def _option(option: click.Option, context: click.Context) -> str:
    found = option.get_help_record(context)
    if found is None:
        return ""
    form, text = found
    return f"`{form}`\n: {_plain(text) or 'See above.'}\n"


def _plain(text: str) -> str:
    return text.replace("*", r"\*").replace("_", r"\_").replace("<", r"\<")


def quantity_reference() -> str:
    """Markdown about every number of a result, from the table that the analyzer itself uses."""
    from gradlog.analysis.results.quantities import QUANTITIES

    head = ["variable", "dimensions", "unit", "what it is", "interval", "errors", "JSON", "withheld"]
    rows = [
        [
            f"`{q.name}`", ", ".join(q.dims), q.units, q.text, q.interval.format("lower or upper"),
            "run and total" if q.errors else "", f"`{q.place.replace('/', '.')}`" if q.place else "", q.withheld,
        ]
        for q in QUANTITIES
    ]  # fmt: skip
    lines = [head, ["---"] * len(head), *([c if c.startswith("`") else _plain(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(app: Any, docname: str, source: list[str]) -> None:
    """Replace ``@@commands@@`` and ``@@quantities@@`` by their references."""
    for name, reference in (("commands", command_reference), ("quantities", quantity_reference)):
        if f"@@{name}@@" in source[0]:
            source[0] = source[0].replace(f"@@{name}@@", reference())


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
