"""How often the 95 % intervals of kappa hold the kappa of the full gradients, over independent sketches of each run.

``OPENBLAS_NUM_THREADS=1 python benchmarks/interval_coverage.py [NAME ...] [--sketches 300] [--k 64,256]`` trains
the real runs on first use (a minute), sketches their full gradients again and again with the recorder's own map, and
asks the analyzer for kappa over the whole run, in each group, and in the third quarter of the steps. Prints Markdown:
the coverage of each predictor over the whole run, the lowest of any group or window, the mean half-width in per cent
of kappa, and the root mean square error over that of a ratio to the sketched energy, which knows no norms. A quarter
of an hour. Nothing is asked of ``zero``, whose kappa is 1 and has no error.
"""

from __future__ import annotations

import argparse
import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import known as known_gradients  # noqa: E402
import numpy as np  # noqa: E402
from known import KNOWN, Float32, Known  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy import stats  # noqa: E402

from gradlog.analysis.common.jackknife import LEVEL, quantile  # noqa: E402
from gradlog.analysis.measures.kappa import kappas  # noqa: E402
from gradlog.analysis.measures.order_baseline import Order  # noqa: E402
from gradlog.analysis.measures.predictors import Evidence, needs, parse  # noqa: E402
from gradlog.analysis.measures.spec import AnalysisSpec  # noqa: E402
from gradlog.analysis.streaming.kernel import summarise  # noqa: E402
from gradlog.analysis.streaming.recipe import Recipe  # noqa: E402
from gradlog.analysis.streaming.summary import Summary  # noqa: E402
from gradlog.analysis.streaming.totals import add, contributions  # noqa: E402

PREDICTORS = ("last", "ema(0.9)", "ema(0.99)", "trend", "ar(8)")
Found = dict[str, dict[str, NDArray[np.float64]]]


def measure(X: Float32, norms2: NDArray[np.float64], exact: bool, norms: bool = True) -> Found:
    """Kappas by scope of rows (T, groups, k): the whole run, each group, and the third quarter of the steps.

    ``norms2`` (T, groups) are the squared norms of the full gradients; used where ``norms``.
    """
    T, groups, k = X.shape
    asked = parse(PREDICTORS)
    recipe = Recipe(groups, k, gram="none", **needs(asked))
    rows, cuts = X.reshape(T, -1), [0, T // 2, T - T // 4, T]
    panes = [summarise(rows[a:b], recipe) for a, b in itertools.pairwise(cuts)]
    parts = contributions([Summary.gap(recipe).absorb(panes[0]), *panes[1:]])
    whole, window = add(parts), parts[1]
    scopes: dict[str, tuple[Any, slice, slice]] = {"whole": (whole, slice(0, T), slice(groups))}
    scopes |= {f"group {g}": (whole, slice(0, T), slice(g, g + 1)) for g in range(groups)}
    scopes["window"] = window, slice(cuts[1], cuts[2]), slice(groups)
    spec = AnalysisSpec(asked, (), k, exact, norms)
    found = {}
    for name, (totals, counted, own) in scopes.items():
        evidence = Evidence(totals, recipe.betas, slice((own.start or 0) * k, own.stop * k))
        order = Order(np.array([[counted.start, counted.stop]]), np.array([0]))
        found[name] = kappas(evidence, float(norms2[counted, own].sum()), order, spec)
    return found


def truth(known: Known) -> tuple[Found, NDArray[np.float64]]:
    """Kappas of the full gradients, groups padded to the largest, and squared norms (T, groups)."""
    parts = [known.full(g) for g in range(len(known.groups))]
    width = max(p.shape[1] for p in parts)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in parts]
    norms2 = np.stack([np.square(p, dtype=np.float64).sum(axis=1) for p in parts], axis=1)
    return measure(np.stack(padded, axis=1), norms2, exact=True), norms2


def reaches(name: str, folder: Path, k: int, count: int) -> dict[str, NDArray[np.float64]]:
    """Error over the interval's half-width, (sketch, predictor) by scope.

    And of the whole run the half-widths over kappa, "width", and the errors "with" and "without" norms.
    """
    known = known_gradients.gradients(name, folder)
    true, norms2 = truth(known)
    found: dict[str, list[NDArray[np.float64]]] = {}
    for seed in known_gradients.seeds(count):
        X = known_gradients.sketches(known, k, seed)
        plain = measure(X, norms2, exact=False, norms=False)["whole"]
        found.setdefault("without", []).append(plain["kappa"] - true["whole"]["kappa"])
        for scope, f in measure(X, norms2, exact=False).items():
            half = (f["kappa_high"] - f["kappa_low"]) / 2
            found.setdefault(scope, []).append(np.abs(f["kappa"] - true[scope]["kappa"]) / half)
            if scope == "whole":
                found.setdefault("width", []).append(half / f["kappa"])
                found.setdefault("with", []).append(f["kappa"] - true[scope]["kappa"])
    return {scope: np.array(values) for scope, values in found.items()}


def cells(coverage: dict[str, NDArray[np.float64]], width: NDArray[np.float64], gain: NDArray[np.float64]) -> list[str]:
    """Return the coverages, widths and relative errors of a line of the table."""
    parts = {scope: c for scope, c in coverage.items() if scope != "whole"}
    worst = min(parts, key=lambda scope: parts[scope].min())
    least = f"{parts[worst].min():.3f} ({worst}, {PREDICTORS[parts[worst].argmin()]})"
    widths, gains = " ".join(f"{100 * w:.2g}" for w in width), " ".join(f"{g:.2f}" for g in gain)
    return [*(f"{c:.3f}" for c in coverage["whole"]), least, widths, gains]


def told(label: str, coverages: list[NDArray[np.float64]]) -> str:
    """Say how all the coverages lie."""
    c = np.concatenate([x.ravel() for x in coverages])
    return f"{label}: {c.size} coverages, mean {c.mean():.3f}, least {c.min():.3f}, {np.mean(c < 0.93):.1%} below 0.93"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(KNOWN)}")
    parser.add_argument("--sketches", type=int, default=300)
    parser.add_argument("--k", default="64,256")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/known"))
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    titles = ["run", "k", *PREDICTORS, "least of groups and window", "half-widths, % of kappa", "error / that of ratio"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    asked = [(name, int(k)) for name in o.names or KNOWN for k in o.k.split(",")]
    for name, _ in asked[:: o.k.count(",") + 1]:
        known_gradients.gradients(name, o.folder)  # train before the processes part
    usual: dict[int, list[NDArray[np.float64]]] = {}
    every: dict[int, list[NDArray[np.float64]]] = {}
    with ProcessPoolExecutor(o.jobs) as pool:
        for (name, k), job in [(a, pool.submit(reaches, a[0], o.folder, a[1], o.sketches)) for a in asked]:
            reach = job.result()
            width = reach.pop("width").mean(axis=0)
            errors, plain = (np.square(reach.pop(name)).mean(axis=0) for name in ("with", "without"))
            coverage = {scope: np.mean(r <= 1, axis=0) for scope, r in reach.items()}
            print(f"| {' | '.join([name, str(k), *cells(coverage, width, np.sqrt(errors / plain))])} |", flush=True)
            every.setdefault(k, []).extend(coverage.values())
            narrower = stats.t.ppf(0.5 + LEVEL / 2, k - 1) / quantile(k)
            usual.setdefault(k, []).extend(np.mean(r <= narrower, axis=0) for r in reach.values())
    print(
        f"\n{o.sketches} sketches a run and k; standard error of one coverage {np.sqrt(0.05 * 0.95 / o.sketches):.3f}"
    )
    for k in every:
        print(told(f"k = {k}", every[k]))
        shorter = stats.t.ppf(0.5 + LEVEL / 2, k - 1) / quantile(k)
        print(told(f"k = {k}, k - 1 degrees of freedom (width x {shorter:.2f})", usual[k]))


if __name__ == "__main__":
    main()
