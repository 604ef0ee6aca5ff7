"""What every framework's integration uses."""

from __future__ import annotations

from typing import Any, TypeAlias

Option: TypeAlias = Any
"""A keyword of :func:`gradlog.open`, which checks it: an integration hands it on unseen."""

Options = dict[str, Option]
