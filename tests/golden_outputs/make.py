"""Write what gradlog answers about the sample runs, so that a change of an answer is a change of a file here.

    OPENBLAS_NUM_THREADS=1 python tests/golden_outputs/make.py [--check]

Run it when an answer changes on purpose, and commit the outcome with the change. Lines whose numbers agree with the
pinned ones stay as they are. ``NAME.out`` is what a command prints; ``NAME.xz`` has, a line each, the fields of JSON
documents and the variables of Datasets; ``NAME.page`` has the text and the drawings of a report.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from click.testing import CliRunner

from gradlog.analysis import analyze, html_report, open_run, to_json
from gradlog.cli.app import gradlog

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1] / "sample_logs"
RUNS = sorted(path.name for path in SAMPLES.glob("*.zarr"))
EACH_ALONE, ON_A_PAGE = "mlp_wine_exact.zarr", ["cnn_digits_sgd.zarr", "mlp_wine_exact.zarr"]

DIGITS = 10
RTOL = 1e-9
FLOAT = re.compile(r"(?<![\da-z_.])[-+]?(?:\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+|nan)(?![\da-z_.])")
RTOL, ATOL, ATOL_FLAT = 3e-5, 1e-5, 2e-4
"""Products of a block are of float32: numbers of an AVX-512 and of an SSE4 kernel of OpenBLAS differ by up to 1e-6."""
FLAT = re.compile("best-ema|'predictor'|singular_value")
"""What rounding moves most: the least of a flat curve, also among all predictors, and roots of what should be zero."""
DRAWING, DRAWN = re.compile("<(path|circle|line|rect|text|polygon|polyline) "), 0.11
"""Coordinates of drawings are rounded to 0.1."""
OF_THE_MACHINE = {"predicted_memory", "cached_rows", "gradlog_version"}
"""Fields that tell of processors, caches and releases."""


def command(*words: str) -> list[str]:
    """Lines that a command prints, with its exit status."""
    done = CliRunner().invoke(gradlog, words, catch_exceptions=False)
    return [f"$ gradlog {' '.join(words)}", *done.stdout.splitlines(), f"exit status {done.exit_code}"]


def shown(value: Any) -> str:
    """One value; text in quotes."""
    return repr(float(value)) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def fields(value: Any, name: str) -> Iterator[str]:
    """Fields of a JSON document, a line each; a list of plain values is one line."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from fields("-" if key in OF_THE_MACHINE else item, f"{name}.{key}")
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for place, item in enumerate(value):
            yield from fields(item, f"{name}[{place}]")
    elif isinstance(value, list):
        yield f"{name} = [{' '.join(map(shown, value))}]"
    else:
        yield f"{name} = {shown(value)}"


def variables(ds: xarray.Dataset, name: str) -> Iterator[str]:
    """Attributes and variables of a Dataset, a line each."""
    for key, value in ds.attrs.items():
        yield f"{name}@{key} = {'-' if key in OF_THE_MACHINE else _one_line(str(value))}"
    for key, variable in ds.variables.items():
        attributes = "".join(f" @{a} {_one_line(str(v))}" for a, v in variable.attrs.items())
        head = f"{name}.{key} {variable.dtype} {dict(variable.sizes)}{attributes}"
        yield f"{head} = [{' '.join(shown(x) for x in np.ravel(variable.values).tolist())}]"


def _one_line(text: str) -> str:
    """Text with its line ends and indents as single blanks."""
    return " ".join(text.split())


class Page(HTMLParser):
    """Lines of a page: its text, its elements with their attributes, digests of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.lines.append(" ".join([f"<{tag}", *(f"{name}={value!r}" for name, value in attrs)]))

    def handle_data(self, data: str) -> None:
        if self.lines and self.lines[-1].startswith(("<style", "<script")):
            self.lines.append(hashlib.sha256(data.encode()).hexdigest())
        elif text := " ".join(data.split()):
            self.lines.append(re.sub(r"Page made \S+ \S+ UTC", "Page made -", text))


def numbers_of(run: str) -> list[str]:
    """What the library and ``--json`` say of one run: whole, and with windows, groups and prefixes."""
    shape: dict[str, Any] = {"window": open_run(run).n_steps // 2, "by_group": True, "prefixes": 2}
    ds = analyze(run, kernel="numpy", **shape)
    found = [*fields(to_json(ds), "all"), *variables(ds, "dataset")]
    alone = [[], ["--window", "90"], ["--no-by-group"], ["--prefixes", "3"]] if run == EACH_ALONE else [[]]
    for words in alone:
        done = command("analyze", run, "--json", "--kernel", "numpy", "--no-cache", "-q", *words)
        found += [done[0], *fields(json.loads("\n".join(done[1:-1])), "json"), done[-1]]
    return found


def outputs() -> dict[str, Callable[[], list[str]]]:
    """Names of the pinned files, and what makes their lines; to be called within ``sample_logs``."""
    made: dict[str, Callable[[], list[str]]] = {}
    for run in RUNS:
        stem = run.removesuffix(".zarr")
        made[f"{stem}.xz"] = lambda run=run: numbers_of(run)
        made[f"{stem}.out"] = lambda run=run: [
            *command("info", run, "-q"),
            *command("analyze", run, "--kernel", "numpy", "--no-cache", "-q"),
            *command("analyze", run, "--full", "--kernel", "numpy", "--no-cache", "-q"),
            *command("audit", run, "-q"),
        ]
    made["compare.out"] = lambda: command("compare", *RUNS, "-q")
    made["report.page"] = lambda: Page(html_report(ON_A_PAGE, title="Golden")).lines
    return made


def pinned(name: str) -> list[str]:
    """Lines of a pinned file; none if it is not there yet."""
    path = HERE / name
    if not path.exists():
        return []
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode().splitlines()


def same(old: str, new: str, name: str) -> bool:
    """Whether two lines are: equal byte for byte, but for floats of data and of drawings, which agree closely."""
    if old == new or name.endswith(".out") or FLOAT.split(old) != FLOAT.split(new):
        return old == new
    a, b = (np.nan_to_num([float(x) for x in FLOAT.findall(line)]) for line in (old, new))
    near = DRAWN if DRAWING.match(old) else (ATOL_FLAT if FLAT.search(old) else ATOL) * max(1.0, np.abs(a).max())
    return bool(np.all(np.abs(a - b) <= RTOL * np.abs(a) + near))


def differences(name: str, new: list[str]) -> list[str]:
    """What a fresh output says otherwise than the pinned one, as lines of a diff."""
    old = pinned(name)
    if len(old) == len(new):
        apart = [(a, b) for a, b in zip(old, new, strict=True) if not same(a, b, name)]
        return [line for a, b in apart for line in (f"- {a}", f"+ {b}")]
    gone, come = ({line.partition(" = ")[0] for line in some} - {line.partition(" = ")[0] for line in other}
                  for some, other in ((old, new), (new, old)))  # fmt: skip
    count = f"{len(old)} lines pinned, {len(new)} now"
    return [count, *(f"- {head}" for head in sorted(gone)), *(f"+ {head}" for head in sorted(come))]


def short(name: str, lines: list[str]) -> list[str]:
    """Lines with the digits that are pinned."""
    if name.endswith(".out"):
        return lines
    return [FLOAT.sub(lambda found: _short(found.group()), line) for line in lines]


def write(name: str, new: list[str]) -> None:
    """Pin an output; lines that say the same stay."""
    old = pinned(name)
    if len(old) == len(new):
        new = [a if same(a, b, name) else b for a, b in zip(old, new, strict=True)]
    data = ("\n".join(short(name, new)) + "\n").encode()
    (HERE / name).write_bytes(lzma.compress(data, preset=9) if name.endswith(".xz") else data)


def _short(number: str) -> str:
    digits = f"{float(number):.{DIGITS}g}"
    return digits if FLOAT.fullmatch(digits) else f"{digits}.0"


def main() -> int:
    """Pin what changed; with ``--check`` only tell what differs in any pinned digit, on the machine of the pins."""
    os.environ["GRADLOG_CACHE"] = tempfile.mkdtemp()
    check, apart = "--check" in sys.argv[1:], 0
    with contextlib.chdir(SAMPLES):
        for name, lines in outputs().items():
            fresh = lines()
            if check:
                old, new = pinned(name), short(name, fresh)
                changed = [f"+ {b}" for a, b in zip_longest(old, new, fillvalue="") if a != b]
            else:
                changed = differences(name, fresh)
            print(
                f"{name}: {len(fresh)} lines, {len(changed)} differences", *(x[:300] for x in changed[:6]), sep="\n  "
            )
            apart += len(changed)
            if changed and not check:
                write(name, fresh)
    return int(check and apart > 0)


if __name__ == "__main__":
    raise SystemExit(main())
