"""``gradlog run`` as from a shell, but in forks of a process that has imported torch: each takes seconds less."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.small_run import environment
from tests.integrations.conftest import TRAIN

SERVER = """
import json, os, sys
import torch._dynamo, gradlog.cli.commands.run, gradlog.integrations.script  # every first optimizer imports dynamo
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
os.chdir(asked["folder"])
for number, name in enumerate((os.devnull, ".out", ".err")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
sys.argv = ["gradlog", "run", *asked["words"]]
gradlog.cli.main()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SERVER], text=True, env=environment(), **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def gradlog_run(server: subprocess.Popen[str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Record ``train.py``; each call is a process with an exit status, signals and an end of its own."""
    (tmp_path / "train.py").write_text(TRAIN)

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        print(json.dumps({"folder": str(tmp_path), "words": [str(w) for w in words]}), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        out, err = ((tmp_path / name).read_text() for name in (".out", ".err"))
        return subprocess.CompletedProcess(words, status, out, err)

    return call
