"""Run every benchmark, write ``docs/benchmarks.md`` and its picture, and show what got slower since the table there.

``python benchmarks/report.py`` (``make bench``). Ratios are taken inside one run against a floor or peer, with CPU time
where other programs may run, so that tables of different days can be compared; a ratio that grew by more than a third
is marked, and ``--check`` makes it the exit status. A benchmark that fails is listed and stops no other.
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
SLOWER = 4 / 3
QUICK = {"GRADLOG_BENCH_STEPS": "20000", "GRADLOG_BENCH_WIDE": "5000"}

HEAD = """\
# Benchmarks

Written by `make bench`. Ratios are against a floor or a peer in the same run, one BLAS thread; the text of each
benchmark in `benchmarks/` says what was timed.

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
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
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


def committed() -> Figures:
    """Figures of the page as it stands."""
    found = re.search(re.escape(MARK) + r"(\{.*\}) -->", _text(str(PAGE)))
    return json.loads(found[1]) if found else {}


def is_ratio(name: str) -> bool:
    """Whether a figure can be compared between days and machines, and less is better."""
    return name.startswith(("ratio", "share"))


def changes(before: Figures, now: Figures) -> list[str]:
    """Lines on ratios that grew by more than a third."""
    lines = []
    for title, figures in now.items():
        for name, value in figures.items():
            old = before.get(title, {}).get(name)
            ours = not title.startswith("peers")  # a peer that got slower is no loss of ours
            if old and is_ratio(name) and ours and value > SLOWER * old:
                lines.append(f"{title}, {name}: {old:.3g} -> {value:.3g}")
    return lines


def page(figures: Figures, before: Figures, about: dict[str, str], failed: list[str]) -> str:
    """The page in Markdown, with the figures themselves in a comment at its end."""
    lines = [*HEAD.format(picture=PICTURE.name).splitlines(), *(f"| {k} | {v} |" for k, v in about.items()), ""]
    lines += ["| benchmark | figure | value | before |", "|---|---|--:|--:|"]
    for title, named in sorted(figures.items()):
        for name, value in named.items():
            old = before.get(title, {}).get(name)
            lines.append(f"| {title} | {name} | {value:.3g} | {'' if old is None else f'{old:.3g}'} |")
    for heading, entries in (("Slower by more than a third", changes(before, figures)), ("Not measured", failed)):
        if entries:
            lines += ["", f"## {heading}", "", *(f"* {entry}" for entry in entries)]
    return "\n".join([*lines, "", MARK + json.dumps(figures, sort_keys=True) + " -->", ""])


def picture(figures: Figures, path: Path) -> None:
    """Bars of all ratios on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "gradlog"
    rows = [(f"{t}" if n == "ratio" else f"{t}, {n}", v)
            for t, named in sorted(figures.items(), reverse=True) for n, v in named.items()
            if v > 0 and (is_ratio(n) or "svd" in n or "tsqr" in n)]  # fmt: skip
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.28 * len(rows)), layout="constrained")
    axes.barh([title for title, _ in rows], [value for _, value in rows], color="#4477aa")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("times the floor, or a peer's cost over ours")
    axes.tick_params(axis="y", labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of benchmark files, such as bench_sketch; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="shorter runs, to see that everything works; writes nothing"
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 if something got slower")
    parser.add_argument("--timeout", type=float, default=600, help="seconds a file may take")
    options = parser.parse_args()
    patterns = options.only or sorted(p.stem for p in (ROOT / "benchmarks").glob("bench_*.py"))
    about, before = machine(), committed()
    now, failed = run(patterns, options.quick, options.timeout)
    kept = before if options.only else {}
    text = page(kept | now, before, about, failed)
    if options.quick:
        print(text)
    else:
        PAGE.write_text(text)
        picture(kept | now, PICTURE)
        print(f"wrote {PAGE.relative_to(ROOT)}")
    slower = changes(before, now)
    print("\n".join([f"slower: {line}" for line in slower] + [f"failed: {line}" for line in failed]))
    sys.exit(1 if failed or (options.check and slower) else 0)


if __name__ == "__main__":
    main()
