"""The command line: parse, one call of the analyzer, print. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run ``gradlog`` and exit.

    Parameters
    ----------
    args : sequence of str, optional
        Default: the process's own arguments.

    Raises
    ------
    SystemExit
        Always: 0 done, 1 error, 2 wrong usage, 3 the input cannot answer, 130 interrupted, 141 broken pipe.
    """
    from gradlog.cli.app import run

    raise SystemExit(run(args))
