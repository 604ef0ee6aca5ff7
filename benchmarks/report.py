"""Run every benchmark, write ``docs/benchmarks.md`` and its picture, and show what got slower since the table there.

``make bench`` writes the table, full and quick figures; ``make bench-check`` takes the quick ones alone, compares them
with the table's, and exits with 1 where something got slower. Ratios are taken inside one run against a floor or peer,
with processor time where other programs may run, so that tables of different days can be compared. One that seems to
have grown beyond the tolerance is measured once more, and the better of both counts. A benchmark that fails is listed
and stops no other.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "img" / "benchmarks.svg"
MARK = "<!-- figures: "
SLOWER = 1.5
QUICK = {"GRADLOG_BENCH_STEPS": "20000", "GRADLOG_BENCH_WIDE": "5000", "GRADLOG_BENCH_BYTES": "1e8",
         "GRADLOG_BENCH_TRAINING": "4"}  # fmt: skip

HEAD = """\
# Benchmarks

Written by `make bench`. Ratios and shares are against a floor or a peer in the same run, one BLAS thread; the text of
each benchmark in `benchmarks/` says what was timed. `make bench-check` measures the quick figures anew and exits with 1
where a ratio or share of ours grew by more than half.

![ratios](img/{picture})

| machine | |
|---|---|
"""

Figures = dict[str, dict[str, float]]


def run(patterns: list[str], quick: bool, timeout: float) -> tuple[Figures, list[str]]:
    """Extra figures of every benchmark by its name, and the files that failed or ran out of time."""
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | threads | (QUICK if quick else {}) | {"PYTHONPATH": path}
    figures: Figures = {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for pattern in patterns:
            out = Path(folder) / f"{pattern}.json"
            command = [sys.executable, "-m", "pytest", f"benchmarks/{pattern}.py", "-q", "-s", "--benchmark-only",
                       "--benchmark-columns=median", f"--benchmark-json={out}", f"--basetemp={folder}/{pattern}",
                       "-o", "python_files=bench_*.py"]  # fmt: skip
            try:
                done = subprocess.run(command, cwd=ROOT, env=env, timeout=timeout, check=False)
                if done.returncode:
                    failed.append(f"{pattern}: exit status {done.returncode}")
            except subprocess.TimeoutExpired:
                failed.append(f"{pattern}: not done within {timeout:.0f} s")
            if out.exists() and (text := out.read_text()):
                figures |= collect(json.loads(text), pattern)
    return figures, failed


def collect(report: dict[str, Any], pattern: str) -> Figures:
    """Extra figures of a pytest-benchmark report."""
    named = {b["name"]: b["extra_info"] for b in report["benchmarks"]}
    return {f"{pattern.removeprefix('bench_')}: {_title(n)}": _numbers(extra) for n, extra in named.items() if extra}


def _title(name: str) -> str:
    return re.sub(r"\s+", " ", name.removeprefix("test_").replace("_", " ").replace("[", ", ").rstrip("]")).strip()


def _numbers(extra: dict[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in extra.items() if isinstance(v, int | float)}


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    memory = re.search(r"MemTotal:\s*(\d+)", _text("/proc/meminfo"))
    packages = ("numpy", "zarr", "dask", "scipy", "numba", "torch", "h5py", "scikit-learn")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{model[1] if model else platform.processor() or platform.machine()}, "
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{p} {v}" for p in packages if (v := _version(p))),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def committed() -> dict[str, Figures]:
    """Figures of the page as it stands, by mode: full and quick."""
    found = re.search(re.escape(MARK) + r"(\{.*\}) -->", _text(str(PAGE)))
    return {"full": {}, "quick": {}} | (json.loads(found[1]) if found else {})


def suite() -> list[str]:
    """Names of the files with benchmarks in them; the others are programs of their own."""
    files = sorted((ROOT / "benchmarks").glob("bench_*.py"))
    return [path.stem for path in files if "\ndef test_" in path.read_text()]


def is_ratio(name: str) -> bool:
    """Whether a figure can be compared between days and machines, and less is better."""
    return name.startswith(("ratio", "share"))


def is_peer(title: str, name: str) -> bool:
    """Whether a figure is the cost of something else over ours, and more is better."""
    return (title.startswith("peers") and is_ratio(name)) or name.startswith(("peer_x", "svd_compressed", "tsqr"))


def changes(before: Figures, now: Figures, tolerance: float = SLOWER) -> dict[str, str]:
    """Benchmarks one of whose ratios grew to more than ``tolerance`` times what it was, and a line on it."""
    lines = {}
    for title, figures in now.items():
        for name, value in figures.items():
            old = before.get(title, {}).get(name)
            # a peer that got slower is no loss of ours
            if old and is_ratio(name) and not is_peer(title, name) and value > tolerance * old:
                lines[title] = f"{title}, {name}: {old:.3g} -> {value:.3g}"
    return lines


def better(one: Figures, other: Figures) -> Figures:
    """The smaller of each ratio, where both have it; all else as in ``one``."""
    return {
        title: {n: min(v, other.get(title, {}).get(n, v)) if is_ratio(n) else v for n, v in named.items()}
        for title, named in one.items()
    }


def table(now: Figures, before: Figures) -> list[str]:
    """Lines of a table in Markdown."""
    lines = ["| benchmark | figure | value | before |", "|---|---|--:|--:|"]
    for title, named in sorted(now.items()):
        for name, value in named.items():
            old = before.get(title, {}).get(name)
            lines.append(f"| {title} | {name} | {value:.3g} | {'' if old is None else f'{old:.3g}'} |")
    return lines


def page(figures: dict[str, Figures], before: dict[str, Figures], about: dict[str, str], failed: list[str]) -> str:
    """The page in Markdown, with the figures themselves in a comment at its end."""
    lines = [*HEAD.format(picture=PICTURE.name).splitlines(), *(f"| {k} | {v} |" for k, v in about.items())]
    slower = [line for mode, now in figures.items() for line in changes(before[mode], now).values()]
    for heading, entries in (("Slower than before", slower), ("Not measured", failed)):
        if entries:
            lines += ["", f"## {heading}", "", *(f"* {entry}" for entry in entries)]
    for mode, now in figures.items():
        if now:
            lines += ["", f"## {mode.capitalize()} figures", "", *table(now, before[mode])]
    return "\n".join([*lines, "", MARK + json.dumps(figures, sort_keys=True) + " -->", ""])


def picture(figures: Figures, path: Path) -> None:
    """Two panels of bars on logarithmic axes: what ours costs, and what the peers cost."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams |= {"svg.hashsalt": "gradlog", "svg.fonttype": "none"}  # letters as paths are most of a file
    panels: list[list[tuple[str, float]]] = [[], []]
    for title, named in sorted(figures.items(), reverse=True):
        for name, value in named.items():
            peer = is_peer(title, name)
            if value > 0 and (peer or is_ratio(name)):
                panels[peer].append((title if name == "ratio" else f"{title}, {name.replace('_', ' ')}", value))
    if not all(panels):
        return
    labels = ("gradlog over its floor, or as a share of a training step: less is better",
              "a peer's cost over gradlog's: more is better")  # fmt: skip
    figure, axes = pyplot.subplots(2, figsize=(9, 1.6 + 0.26 * sum(map(len, panels))), layout="constrained",
                                   height_ratios=[len(rows) + 1 for rows in panels])  # fmt: skip
    for ax, rows, label, colour in zip(axes, panels, labels, ("#4477aa", "#ccbb44"), strict=True):
        bars = ax.barh([title for title, _ in rows], [value for _, value in rows], color=colour)
        ax.bar_label(bars, [f"{value:.3g}" for _, value in rows], padding=3, fontsize=7)
        ax.axvline(1, color="black", linewidth=0.8)
        ax.set_xscale("log")
        ax.margins(x=0.15, y=0.02)
        ax.set_title(label, fontsize=9, loc="left")
        ax.tick_params(axis="both", labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of benchmark files, such as bench_sketch; default: all")
    parser.add_argument("--quick", action="store_true", help="shorter runs, a few minutes in all")
    parser.add_argument("--write", action="store_true", help="put the figures and the picture into docs/")
    parser.add_argument("--check", action="store_true", help="exit status 1 if something got slower, 3 without a table")
    parser.add_argument("--tolerance", type=float, default=SLOWER, help="times the figure before; default: %(default)s")
    parser.add_argument("--timeout", type=float, default=300, help="seconds a file may take")
    options = parser.parse_args()
    patterns, mode = options.only or suite(), "quick" if options.quick else "full"
    about, before = machine(), committed()
    if options.check and not before[mode]:
        print(f"{PAGE.relative_to(ROOT)} has no {mode} figures to compare with; run: make bench", file=sys.stderr)
        sys.exit(3)
    now, failed = run(patterns, options.quick, options.timeout)
    if again := changes(before[mode], now, options.tolerance):
        files = sorted({f"bench_{title.partition(':')[0]}" for title in again})
        now = better(now, run(files, options.quick, options.timeout)[0])
    slower = changes(before[mode], now, options.tolerance)
    after = before | {mode: (before[mode] if options.only else {}) | now}
    if options.write:
        PAGE.write_text(page(after, before, about, failed))
        picture(after["full"] or after["quick"], PICTURE)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    else:
        print("\n".join(table(now, before[mode])))
    print("\n".join([f"slower: {line}" for line in slower.values()] + [f"failed: {line}" for line in failed]))
    sys.exit(1 if failed or (options.check and slower) else 0)


if __name__ == "__main__":
    main()
