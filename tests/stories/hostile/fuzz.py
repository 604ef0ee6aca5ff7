"""Thousands of strangers' stores, each given to a verb: one line, exit 0, 1 or 3, in bounded time and memory.

Each call has a number and a seed, so that it can be made again alone::

    python tests/stories/hostile/fuzz.py --calls 2000 --seed 1
    python tests/stories/hostile/fuzz.py --seed 1 --only 1234 --keep /tmp/case
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(threads, "1")

from tests.stories.hostile import harm

SECONDS = 5.0
"""Processor time of a call."""

PATIENCE = 90.0
"""Seconds after which a call hangs, however busy the machine."""

MEMORY, IMPORTED = 500 * 10**6, 200 * 10**6
"""Bytes of a process that makes one call, and those of them that it has before it reads anything."""

READ = ("info", "analyze", "events", "export", "compare", "report", "watch", "audit", "digest", "find")
WRITE = ("compact", "recover", "force", "append")
WEIGHTS = {"info": 26, "analyze": 10, "events": 4, "export": 8, "compare": 4, "report": 3, "watch": 8, "audit": 20,
           "digest": 2, "find": 2, "compact": 8, "recover": 5, "force": 5, "append": 8}  # fmt: skip


class Late(BaseException):
    """A call did not come back in time."""


def command(verb: str, path: Path, other: Path, out: Path) -> list[str]:
    """Arguments of ``gradlog`` for a verb."""
    return {
        "info": ["info", str(path)],
        "analyze": ["analyze", "-q", str(path), "--json"],
        "events": ["events", "-q", str(path), "--json"],
        "export": ["export", "-q", str(path), "--to", "csv", "-o", str(out / "rows.csv"), "--force"],
        "compare": ["compare", "-q", str(path), str(other)],
        "report": ["report", "-q", str(path), "-o", str(out / "page.html"), "--force"],
        "audit": ["audit", "-q", str(path)],
        "digest": ["audit", "--digest", str(path)],
        "find": ["analyze", "-q", str(path.parent)],
        "compact": ["compact", str(path)],
        "recover": ["recover", str(path)],
        "force": ["recover", "--force", str(path)],
    }[verb]


def perform(verb: str, path: Path, other: Path, out: Path) -> tuple[int, str]:
    """Exit status of a verb, and what it said on standard error."""
    from gradlog.cli.app import run

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        if verb in ("watch", "append"):
            code = _from_python(_watch if verb == "watch" else _append, path)
        else:
            code = run(command(verb, path, other, out))
    return code, said.getvalue()


def _from_python(call: Callable[[Path], None], path: Path) -> int:
    from gradlog.errors import GradlogError

    try:
        call(path)
    except (GradlogError, OSError) as error:
        print(f"gradlog: {' '.join(str(error).split())}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    return 0


def _watch(path: Path) -> None:
    from gradlog.analysis.following.alerts import Alerts
    from gradlog.analysis.following.expressions import Expression
    from gradlog.analysis.following.watch import silence, watch

    look = next(watch([path], lambda runs, live: runs[0].info))
    silence(look.runs)
    Alerts([Expression("norm > 10 * median(20) or loss > max(3)")]).check(look.runs[0])


def _append(path: Path) -> None:
    import gradlog

    with gradlog.open(path, like=harm.grads(0), mode="a", on_error="raise", **harm.SPEC) as log:
        log.step(harm.grads(0), loss=1.0)


@contextlib.contextmanager
def watchdog() -> Iterator[None]:
    """Raise where a call takes too long, by processor time or by the clock."""

    def late(number: int, frame: Any) -> None:
        raise Late("processor time" if number == signal.SIGPROF else "hangs")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE))
    before = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def listing(folder: Path, skip: tuple[str, ...] = ()) -> str:
    """Digest of the names, kinds and contents of everything outside of what a call may touch."""
    found = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] not in skip:
            status = path.lstat()
            found.update(f"{path}|{status.st_mode}|{status.st_size}|{status.st_mtime_ns}\n".encode("utf-8", "replace"))
    return found.hexdigest()


def poison(folder: Path, rng: random.Random) -> None:
    """Entries of the cache that are no entries."""
    for entry in folder.glob("??/*.entry"):
        if entry.is_symlink() or not entry.is_file() or entry.stat().st_size > 2**26:
            continue  # of an earlier call
        kind = rng.choice(["sound", "pipe", "flip", "other", "link", "huge"])
        data = bytearray(entry.read_bytes())
        if kind == "flip":
            data[rng.randrange(32, len(data))] ^= 255
        if kind in ("flip", "other"):
            body = bytes(data[32:]) if kind == "flip" else b"PK nothing"
            entry.write_bytes(hashlib.blake2b(body, digest_size=32).digest() + body)
        elif kind != "sound":
            entry.unlink()
            if kind == "pipe":
                os.mkfifo(entry)
            elif kind == "link":
                entry.symlink_to("/dev/zero")
            else:
                with open(entry, "wb") as file:
                    file.truncate(2**40)


def one(number: int, seed: int, templates: Path, keep: Path | None = None) -> tuple[str, str, str]:
    """Make a store, call a verb: (verb, harm, what was wrong with the outcome)."""
    rng = random.Random(f"{seed}-{number}")
    verb = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    name = rng.choices(list(harm.HARMS), [weight for _, weight in harm.HARMS.values()])[0]
    with tempfile.TemporaryDirectory(prefix="gradlog-fuzz-") as made:
        work = keep or Path(made)
        work.mkdir(exist_ok=True)
        for folder in ("outside", "out", "cache", "spool"):
            (work / folder).mkdir()
        (work / "outside" / "kept.txt").write_text("kept")
        shutil.copytree(templates / rng.choice(harm.KINDS), work / "runs" / "run.zarr")
        path = work / "runs" / "run.zarr"
        os.environ |= {"GRADLOG_CACHE": str(work / "cache"), "GRADLOG_SPOOL": str(work / "spool")}
        os.environ.pop("GRADLOG_CACHE_SIZE", None)
        if verb in ("analyze", "report") and rng.random() < 0.2:
            name = "poison"
            perform(verb, path, path, work / "out")
            poison(work / "cache", rng)
        else:
            harm.HARMS[name][0](path, rng)
        if rng.random() < 0.05:
            os.environ["GRADLOG_CACHE_SIZE"] = rng.choice(["banana", "-1", "1e400", "9" * 400, "", "0"])
        if verb in READ and rng.random() < 0.15:
            with contextlib.suppress(Exception):
                path = harm.pack(path, rng)
        fault = judge(verb, path, templates / "plain", work)
        return verb, name, fault


def judge(verb: str, path: Path, other: Path, work: Path) -> str:
    """Call a verb and say what is wrong with how it went; empty for nothing."""
    may_change = ("out", "cache", "spool", *(("runs",) if verb in WRITE else ()))
    before = listing(work, may_change)
    memory()
    start = memory()  # what the process has now
    try:
        with watchdog():
            code, said = perform(verb, path, other, work / "out")
    except Late as late:
        return f"late: {late}\n{traceback.format_exc()}"
    except BaseException:
        return f"raised\n{traceback.format_exc()}"
    cost = memory() - start
    lines = [line for line in said.splitlines() if not line.startswith("gradlog: warning: ")]
    faults = [
        f"exit status {code}" if code not in (0, 1, 3) else "",
        "an error in gradlog itself" if "in gradlog itself" in said else "",
        "out of memory" if "MemoryError" in said or "Unable to allocate" in said else "",
        f"{len(lines)} lines" if code and len(lines) != 1 and verb != "find" else "",
        "a line of the wrong form"
        if any(not line.startswith("gradlog: ") or len(line) > 2_000 for line in lines)
        else "",
        "something outside was changed" if listing(work, may_change) != before else "",
        f"{cost / 1e6:.0f} MB" if cost > MEMORY - IMPORTED else "",
    ]
    return "; ".join(fault for fault in faults if fault) + (f"\n{said}" if any(faults) else "")


def memory() -> int:
    """Bytes that the process had at most since this was asked last, where the system tells; then forget it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    high = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    Path("/proc/self/clear_refs").write_text("5")
    return int(high[1]) * 1024 if high else 0


def many(numbers: list[int], seed: int, templates: Path) -> tuple[Counter[tuple[str, str]], list[tuple[int, str]]]:
    """Make these calls; outcomes by verb and harm, and the faults by number."""
    counted: Counter[tuple[str, str]] = Counter()
    faults = []
    for number in numbers:
        verb, name, fault = one(number, seed, templates)
        counted[verb, name] += 1
        if fault:
            faults.append((number, f"{verb} of {name}: {fault}"))
    return counted, faults


def run(calls: int, seed: int, workers: int = 2) -> tuple[Counter[tuple[str, str]], list[tuple[int, str]]]:
    """Make so many calls in so many processes."""
    counted: Counter[tuple[str, str]] = Counter()
    faults: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory(prefix="gradlog-fuzz-") as folder, ProcessPoolExecutor(workers) as pool:
        for kind in harm.KINDS:
            harm.write(Path(folder) / kind, kind)
        parts = [list(range(start, calls, 4 * workers)) for start in range(4 * workers)]
        for future in [pool.submit(many, part, seed, Path(folder)) for part in parts]:
            found, wrong = future.result()
            counted, faults = counted + found, faults + wrong
    return counted, sorted(faults)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="make this call alone")
    parser.add_argument("--keep", type=Path, help="leave the store of --only in this folder")
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            for kind in harm.KINDS:
                harm.write(Path(folder) / kind, kind)
            print(*one(asked.only, asked.seed, Path(folder), asked.keep))
        return 0
    counted, faults = run(asked.calls, asked.seed, asked.workers)
    for number, text in faults:
        print(f"--- call {number} (seed {asked.seed}): {text}")
    verbs = Counter(dict.fromkeys(WEIGHTS, 0))
    for (verb, _), count in counted.items():
        verbs[verb] += count
    print(", ".join(f"{verb} {count}" for verb, count in verbs.items()))
    print(f"{counted.total()} calls, {len(faults)} faults, {time.monotonic() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
