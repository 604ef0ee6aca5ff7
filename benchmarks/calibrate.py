"""How often the conclusions are right: false verdicts, power, coverage of intervals, baselines against brute force.

``python benchmarks/calibrate.py`` records made gradients with the real recorder, analyzes them, and counts. Each line
of the table says what was asked, what was found of how many, and what it should be. ``--quick`` takes few runs of each,
``--write`` puts the table into docs/calibration.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

import gradlog  # noqa: E402
from gradlog.analysis import analyze, to_json  # noqa: E402
from gradlog.analysis.measures.interpretation import HELPS, HURTS  # noqa: E402

Array = NDArray[np.float64]
Counts = dict[str, tuple[int, int]]
"""(how often, of how many) by what was asked."""

PAGE = Path(__file__).resolve().parents[1] / "docs" / "calibration.md"
PREDICTORS = ("last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)")
STEPS, SIZE, K = 280, 600, 64
EPOCHS = (5, 8, 10, 28)


def document(gradients: Array, k: int | str = K, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Record rows (T, d) as a training would, analyze them, and return what ``--json`` prints."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        with gradlog.open(path, like=gradients[0], k=k, seed=seed, on_error="raise", hostname=False) as log:
            for row in gradients:
                log.step(row)
        asked = {"predictors": PREDICTORS, "by_group": False, "null_rank": False, "kernel": "numpy", "cache": False}
        return to_json(analyze(str(path), **(asked | options)))


# --- streams of gradients whose truth is known


def independent(rng: np.random.Generator) -> Array:
    """Noise alone."""
    return rng.standard_normal((STEPS, SIZE))


def few_directions(rng: np.random.Generator) -> Array:
    """A constant signal and noise in few directions, heavy-tailed in size: nothing depends on order."""
    spectrum = 1 / np.arange(1, SIZE + 1)
    rows = rng.standard_normal((STEPS, SIZE)) * spectrum * np.abs(rng.standard_t(5, (STEPS, 1)))
    return np.asarray(rows + 0.5 * spectrum)


def frozen_epochs(rng: np.random.Generator, batches: int) -> Array:
    """Gradients of one theta over epochs: batches of a fixed data set, drawn without replacement."""
    samples = 0.1 + rng.standard_normal((batches * 4, SIZE))
    rows: list[Array] = []
    while len(rows) < STEPS:
        order = rng.permutation(len(samples)).reshape(batches, -1)
        rows += [samples[i].mean(axis=0) for i in order]
    return np.asarray(rows[:STEPS])


def autoregressive(rng: np.random.Generator, phi: float, steps: int = STEPS) -> Array:
    """x_t = phi x_{t-1} + noise, stationary from the start; kappa(last) tends to 2 (1 - phi)."""
    rows = rng.standard_normal((steps, SIZE))
    rows[0] /= math.sqrt(1 - phi**2)
    for t in range(1, steps):
        rows[t] += phi * rows[t - 1]
    return rows


# --- what is counted of one stream


def verdicts(gradients: Array, seed: int, **options: Any) -> Counts:
    """Which predictors are said to be helped or hurt by the order of the steps."""
    kappa = document(gradients, seed=seed, null_rank=True, **options)["kappa"]  # its Gram tells what is chance
    return {p: (int(kappa[p]["verdict"] in (HELPS, HURTS)), 1) for p in PREDICTORS}


def kappa_intervals(gradients: Array, seed: int) -> Counts:
    """Whether the sketch's intervals hold the kappas of the full gradients."""
    true, seen = document(gradients, "exact")["kappa"], document(gradients, seed=seed)["kappa"]
    return {p: (int(seen[p]["low"] <= true[p]["value"] <= seen[p]["high"]), 1) for p in PREDICTORS}


def within_run(phi: float, rng: np.random.Generator, seed: int) -> Counts:
    """Whether the interval of both errors holds the mean kappa of a stationary process."""
    last = document(autoregressive(rng, phi, 400), seed=seed)["kappa"]["last"]
    half = last["total_half"]
    return {"last": (int(half is not None and abs(last["value"] - 2 * (1 - phi)) <= half), int(half is not None))}


def certificates(gradients: Array, seed: int) -> Counts:
    """Whether the certified range of r* holds that of a float64 decomposition of the same rows."""
    exact = gradients[:, :K].astype(np.float32)
    found = document(exact, "exact", eps=(0.1, 0.01, 1e-5), svd=("gram", "nystrom", "rows")[seed % 3])["rank"]
    energies = np.square(np.linalg.svd(np.diff(exact.astype(np.float64), axis=0), compute_uv=False))
    left = np.append(energies.sum() - np.cumsum(energies), 0.0)
    counts = {}
    for eps, rank in found.items():
        true = 1 + int(np.argmax(left <= float(eps) * energies.sum()))
        counts[f"eps {eps}"] = (int(rank["low"] <= true <= rank["high"]), 1)
    return counts


def baselines(gradients: Array, seed: int, orders: int = 40) -> Counts:
    """Whether the shuffled kappa and rank lie within what really shuffled rows show."""
    asked: dict[str, Any] = {"eps": (0.1,), "null_rank": True}
    here = document(gradients, seed=seed, **asked)
    rng = np.random.default_rng(seed)
    shuffled = [document(rng.permutation(gradients), seed=seed, eps=(0.1,)) for _ in range(orders)]
    counts = {}
    for p in ("last", "ema(0.9)", "trend"):
        values = np.array([s["kappa"][p]["value"] for s in shuffled])
        error = values.std(ddof=1) / math.sqrt(orders)
        counts[f"kappa of {p}"] = (int(abs(values.mean() - here["kappa"][p]["null"]) <= 4 * error), 1)
    ranks = np.array([s["rank"]["0.1"]["value"] for s in shuffled])
    counts["rank"] = (
        int(abs(ranks.mean() - here["rank"]["0.1"]["null"]) <= 0.5 + 4 * ranks.std() / math.sqrt(orders)),
        1,
    )
    return counts


# --- the table


@dataclasses.dataclass(frozen=True)
class Case:
    """Lines of the table: what is asked of each stream, the share that is right, and the part of the usual runs."""

    title: str
    ask: Callable[[np.random.Generator, int], Counts]
    least: float = 0.0
    most: float = 1.0
    part: float = 1.0


def cases() -> Iterator[Case]:
    """All of them, in the order of the page."""
    yield Case("false verdicts, independent noise", lambda rng, s: verdicts(independent(rng), s), most=0.05)
    yield Case("false verdicts, few directions", lambda rng, s: verdicts(few_directions(rng), s), most=0.05)
    for m in EPOCHS:
        title = f"false verdicts, frozen, {m} batches an epoch"
        yield Case(title, partial(_frozen, m, m), most=0.05, part=0.5)
        yield Case(f"{title}, not told", partial(_frozen, m, 0), most=0.05, part=0.25)
    for phi in (0.01, 0.02, 0.05):
        yield Case(f"order noticed, AR(1) of {phi}", partial(_memory, phi), part=0.25)
    yield Case("sketch 95 % holds kappa, noise", lambda rng, s: kappa_intervals(independent(rng), s), 0.93)
    yield Case("sketch 95 % holds kappa, few directions", lambda rng, s: kappa_intervals(few_directions(rng), s), 0.93)
    for phi in (0.0, 0.5):
        yield Case(f"both errors hold the mean of AR(1) of {phi}", partial(within_run, phi), 0.9)
    yield Case("certified range holds r*", lambda rng, s: certificates(few_directions(rng), s), 1.0)
    title = "shuffled baselines against 40 orders"
    yield Case(f"{title}, noise", lambda rng, s: baselines(independent(rng), s), 0.95, part=0.05)
    yield Case(f"{title}, few directions", lambda rng, s: baselines(few_directions(rng), s), 0.95, part=0.05)


def _frozen(batches: int, told: int, rng: np.random.Generator, seed: int) -> Counts:
    return verdicts(frozen_epochs(rng, batches), seed, **({"steps_per_epoch": told} if told else {}))


def _memory(phi: float, rng: np.random.Generator, seed: int) -> Counts:
    return verdicts(autoregressive(rng, phi), seed)


def count(place: int, runs: int, first: int, pool: ProcessPoolExecutor | None) -> Counts:
    """Add up what the case at this place finds, over runs whose seeds no default uses."""
    part = list(cases())[place].part
    seeds = range(first, first + max(1, round(runs * part)))
    total: Counts = {}
    for found in pool.map(partial(_one, place), seeds) if pool else map(partial(_one, place), seeds):
        for name, (hits, of) in found.items():
            before = total.get(name, (0, 0))
            total[name] = before[0] + hits, before[1] + of
    return total


def _one(place: int, seed: int) -> Counts:
    return list(cases())[place].ask(np.random.default_rng(seed), seed)


def allowed(case: Case, hits: int, of: int) -> bool:
    """Whether the share lies in its range, to three standard errors of a count of this size."""
    if of == 0:
        return False
    room = [3 * math.sqrt(edge * (1 - edge) / of) for edge in (case.least, case.most)]
    return case.least - room[0] <= hits / of <= case.most + room[1]


def table(runs: int, first: int = 1000, jobs: int = 1, only: str = "") -> tuple[list[str], list[str]]:
    """Lines of Markdown, and the cells that are out of range."""
    lines = ["| asked | of | found | runs | should be |", "|---|---|---:|---:|---|"]
    wrong = []
    pool = ProcessPoolExecutor(jobs) if jobs > 1 else None
    for place, case in enumerate(cases()):
        if only not in case.title:
            continue
        should = "" if (case.least, case.most) == (0.0, 1.0) else f"{case.least:.0%} to {case.most:.0%}"
        for name, (hits, of) in count(place, runs, first, pool).items():
            ok = allowed(case, hits, of)
            share = f"{hits / of:.1%}" if of else "withheld"
            lines.append(f"| {case.title} | {name} | {share if ok else f'**{share}**'} | {of} | {should} |")
            print(lines[-1], flush=True)
            wrong += [] if ok else [f"{case.title}, {name}: {hits} of {of}"]
    return lines, wrong


def write(lines: list[str], runs: int, page: Path = PAGE) -> None:
    """Put the table between the marks of the page."""
    text = page.read_text()
    begin, end = "<!-- table -->\n", "<!-- end of table -->"
    stamp = f"{datetime.date.today().isoformat()}, `python benchmarks/calibrate.py --runs {runs}`:"
    head, tail = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    page.write_text("\n".join([head + stamp, "", *lines, tail]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="8 runs of each, for a first look")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="lines whose title holds this")
    parser.add_argument("--write", action="store_true", help="into docs/calibration.md")
    o = parser.parse_args()
    runs = 8 if o.quick else o.runs
    lines, wrong = table(runs, jobs=o.jobs, only=o.only)
    if o.write:
        write(lines, runs)
    raise SystemExit("\n".join(["out of range:", *wrong]) if wrong else 0)


if __name__ == "__main__":
    main()
