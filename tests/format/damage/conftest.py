"""The stores that every test damages copies of."""

from __future__ import annotations

from typing import Any

import pytest

from gradlog.storage.compact import compact
from gradlog.storage.sink import LocalSink
from tests.helpers.damaged_runs import Bytes, content, fill, leave_unfinished, start


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bytes, dict[str, list[bytes]]]]:
    """Files of four stores, and the earlier versions of each file."""
    folder = tmp_path_factory.mktemp("corruption")
    history: dict[str, list[bytes]] = {}
    with pytest.MonkeyPatch.context() as patch:
        put = LocalSink.put

        def remembers(self: LocalSink, key: str, data: Any) -> None:
            if (self.local / key).exists():
                history.setdefault(f"{self.local.name}/{key}", []).append(self.get(key))
            put(self, key, data)

        patch.setattr(LocalSink, "put", remembers)
        with start(folder / "closed") as log:
            fill(log, range(20))
        with start(folder / "closed", first_step=14) as log:
            fill(log, range(14, 33))
        with start(folder / "compact") as log:
            fill(log, range(38))
        compact(folder / "compact", shard_bytes=2 * 8 * 2 * 8 * 4)
        leave_unfinished(folder / "unfinished")
        leave_unfinished(folder / "recovered")
        start(folder / "recovered").close()
        with start(folder / "other", seed=1) as log:
            fill(log, range(20))
    found = {}
    for path in folder.iterdir():
        earlier = {k.partition("/")[2]: v for k, v in history.items() if k.startswith(f"{path.name}/")}
        found[path.name] = content(path), earlier
    # A child's history dies with it: an unfinished segment once looked like the beginning of the recovered one.
    return found
