"""The result of an analysis in words and numbers, from the document that ``--json`` prints."""

from __future__ import annotations

import functools
from typing import Any

from gradlog.analysis.common.recorded import EXACT, steps
from gradlog.analysis.common.text import TERMINAL, counted, enumerate_some
from gradlog.analysis.measures.interpretation import EPOCH, caution, looked_at, verdict
from gradlog.analysis.measures.predictors.registry import fitted_in_hindsight, is_reference, without_reference
from gradlog.analysis.results.json_document import UNDEFINED, of_lags
from gradlog.cli import plain_text

Document = dict[str, Any]

UNKNOWN_EPOCHS = """\
epoch unknown: epochs of few steps, drawn without replacement, would show the same; say how many with --steps-per-epoch,
0 if every batch is drawn anew."""

READING = f"""\
shuffled: what the same gradients would show in random order, {fitted_in_hindsight()} fitted to that; gain = 1 - kappa /
shuffled. helps, hurts: what the order of the steps does to this predictor. The interval is the sketch's error only."""


def report(path: str, result: Document) -> list[str]:
    """All tables, warnings, and what to do next."""
    parts = [
        _run(path, result),
        _kappa(result),
        plain_text.paragraph(_reading(result)),
        _errors(result),
        _rank(result),
        _measures(result),
        _noise(result),
        _groups(result),
        _in_time(result, "windows", "in time, by window of steps"),
        _in_time(result, "prefixes", "as the run grows"),
        _path(result),
        _bounds(result),
        [line for text in result["warnings"] if not text.startswith(UNDEFINED) for line in plain_text.note(text)],
        [f"next: gradlog analyze {plain_text.printable(path)} --json"],
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _run(path: str, result: Document) -> list[str]:
    run = result["run"]
    groups = run["groups"]
    return [
        plain_text.heading(plain_text.printable(path)),
        *plain_text.facts(
            [
                ("steps", steps(run)),
                ("gradient", f"{run['stage']}; {counted(len(groups), 'group')}: {enumerate_some(groups, 6)}"),
                ("sketch", _sketch(run, result.get("exact_groups") or [])),
                (
                    "energy",
                    f"{TERMINAL.number(result['energy'])}, "
                    f"of the increments {TERMINAL.number(result['increment_energy'])}",
                ),
            ]
        ),
    ]


def _sketch(run: Document, exact: list[str]) -> str:
    if run["kind"] == "exact/1":
        return f"none, {EXACT}"
    return f"k = {run['k']} per group" + (f"; without error for {enumerate_some(exact, 6)}" if exact else "")


def _kappa(result: Document) -> list[str]:
    rows = [_kappa_cells(name, k) for name, k in result["kappa"].items()]
    columns = ["predictor", "kappa", "sketch 95 %", "shuffled", "gain", "order"]
    return [plain_text.heading("predictability"), *plain_text.table(columns, rows, (0, 5))]


def _errors(result: Document) -> list[str]:
    """Both errors of each kappa, half-widths at 95 %, and their sum."""
    kappas = {
        n: k for n, k in result["kappa"].items() if not is_reference(n) and "run_half" in k and k["value"] is not None
    }
    if not kappas:
        return []
    title, reasons = plain_text.heading("how well kappa is known, 95 %"), [k["run_withheld"] for k in kappas.values()]
    if len(set(reasons)) == 1 and reasons[0]:
        return [title, *plain_text.note(f"fluctuation within the run withheld: {reasons[0]}")]
    columns, rows = (
        ["predictor", "within the run"],
        [[_label(n, k), TERMINAL.half(k["run_half"])] for n, k in kappas.items()],
    )
    if result["run"]["kind"] != "exact/1":
        columns = ["predictor", "sketch", "within the run", "both"]
        rows = [
            [
                name,
                TERMINAL.half(None if k["high"] is None else k["high"] - k["value"]),
                half,
                TERMINAL.half(k["total_half"]),
            ]
            for (name, half), k in zip(rows, kappas.values(), strict=True)
        ]
    lines = plain_text.paragraph("within the run: from blocks of its own steps; another seed may differ by more")
    for reason in filter(None, dict.fromkeys(reasons)):
        names = ", ".join(n for n, k in kappas.items() if k["run_withheld"] == reason)
        lines += plain_text.paragraph(f"withheld for {plain_text.printable(names)}: {reason}")
    return [title, *plain_text.table(columns, rows), *lines]


def _reading(result: Document) -> str:
    words = [verdict(k) for name, k in result["kappa"].items() if not is_reference(name)]
    count, steps = looked_at(words), result["epochs"]["steps"]
    parts = [READING, f"Random order keeps to epochs of {steps:,} steps." if steps else ""]
    parts.append(caution(count) if count > 1 else "")
    parts.append(UNKNOWN_EPOCHS if EPOCH in words else "")
    return " ".join(filter(None, parts))


def _kappa_cells(name: str, k: Document) -> list[str]:
    if is_reference(name):
        return [name, _fixed(k["value"]), "", _fixed(k["null"]), "", "reference"]
    return [
        _label(name, k),
        _fixed(k["value"]),
        TERMINAL.of_error(k["low"], k["high"], _fixed),
        _fixed(k["null"]),
        TERMINAL.fixed(k["gain"], sign=True),
        verdict(k),
    ]


def _fixed(value: float | None) -> str:
    return TERMINAL.fixed(value, 3 if value is None or abs(value) < 10 else 2)


def _label(name: str, kappa: Document) -> str:
    return name if kappa.get("beta") is None else f"{name} ({kappa['beta']:.4g})"


def _rank(result: Document) -> list[str]:
    rows = [[eps, *_rank_cells(r)] for eps, r in result["rank"].items()]
    columns = ["eps", "logged", "certified", "shuffled", "9 in 10", "gradients", "range"]
    return [
        plain_text.heading("rank of the increments: directions that leave at most eps of their energy"),
        *plain_text.table(columns, rows),
        *_drawn(result),
        *_spectrum(result),
    ]


def _drawn(result: Document) -> list[str]:
    """Say what the shuffled rank is, and how it was found."""
    method = result.get("rank_null_method")
    if method in (None, "none"):
        return []
    text = f"shuffled: mean over random orders of the same steps, with the range of 9 in 10; found by {method}."
    return ["", *plain_text.paragraph(text)]


def _spectrum(result: Document) -> list[str]:
    """Singular values and the energy left beyond them, from none to the largest rank in the table."""
    most = [rank["high"] for rank in result["rank"].values()]
    stop = 1 + int(max(most)) if most and None not in most else None
    values, tail = result["singular_values"][:stop], result["tail_energy"][:stop]
    if len(tail) < 3:
        return []
    least = "tail, at most" if result["svd"]["method"] == "nystrom" else "tail"
    shown = {"singular values": values, least: tail}
    width = max(map(len, shown))
    return ["", *(plain_text.curve(name, numbers, width) for name, numbers in shown.items())]


def _rank_cells(rank: Document) -> list[str]:
    known = rank.get("estimate") is not None
    return [
        TERMINAL.count(rank["value"]),
        _range(rank),
        TERMINAL.count(rank.get("null")),
        _range(rank, "null_"),
        TERMINAL.count(rank["estimate"]) if known else "not identifiable",
        _range(rank, "estimate_"),
    ]


def _range(rank: Document, of: str = "") -> str:
    return TERMINAL.interval(rank.get(f"{of}low"), rank.get(f"{of}high"), TERMINAL.count)


def _measures(result: Document) -> list[str]:
    measures, svd = result["rank_measures"], result["svd"]
    columns = {n: n for n in ("stable", "participation", "entropy")}
    columns |= {"participation_estimate": "free of sketch bias"}
    cells = [TERMINAL.number(measures[n]) for n in columns]
    spread = TERMINAL.interval(measures["participation_estimate_low"], measures["participation_estimate_high"])
    return [
        plain_text.heading("effective rank of the increments"),
        *plain_text.table([*columns.values(), "sketch 95 %"], [[*cells, spread]], ()),
        f"  spectrum by {svd['method']}, {svd['passes']} pass{'' if svd['passes'] == 1 else 'es'} over the rows; "
        f"column sums by {result['kernel']}",
    ]


def _groups(result: Document) -> list[str]:
    groups = result.get("by_group") or {}
    if not groups:
        return []
    names = list(result["kappa"])
    rows = [[g, *(_fixed(found["kappa"][n]["value"]) for n in names)] for g, found in groups.items()]
    return [plain_text.heading("kappa by group"), *plain_text.table(["group", *names], rows)]


def _in_time(result: Document, kind: str, title: str) -> list[str]:
    """Kappa beside its shuffled baseline, and the certified rank, of each range of steps."""
    if not result[kind]:
        return []
    names = without_reference(result["kappa"])[:2]
    eps = next(iter(result["rank"]))
    rows = []
    for part in result[kind]:
        kappas = [cell for n in names for cell in _kappa_cells(n, part["kappa"][n])[1:4:2]]
        rank = part["rank"][eps]
        span = f"{part['first_step']:,} to {part['last_step']:,}"
        rows.append([span, *kappas, _range(rank), TERMINAL.count(rank.get("null"))])
    columns = ["steps", *(c for n in names for c in (n, "shuffled")), f"r*({eps})", "shuffled"]
    return [plain_text.heading(title), *_curves(result, kind), *plain_text.table(columns, rows)]


def _curves(result: Document, kind: str) -> list[str]:
    """Kappa of each predictor over the ranges, as a line of bars."""
    if len(result[kind]) < 3:
        return []
    names = without_reference(result["kappa"])
    width = max(map(len, names))
    return [plain_text.curve(n, [part["kappa"][n]["value"] for part in result[kind]], width) for n in names]


def _path(result: Document) -> list[str]:
    """Which steps and groups carry the path length."""
    shares = result["path_shares"]
    most = ", ".join(f"{s['step']:,} ({TERMINAL.percent(s['share'])})" for s in shares["steps"][:5])
    text = f"half in {shares['half_steps']:,} of {result['rows']:,} steps; most in steps {most}"
    lines = plain_text.paragraph(text)
    name = "last" if "last" in result["kappa"] else next(iter(result["kappa"]))
    if shares["by_group"]:
        parts = ", ".join(
            f"{plain_text.printable(g)} {TERMINAL.percent(x[name])}" for g, x in shares["by_group"].items()
        )
        lines += plain_text.paragraph(f"by group, of {name}: {parts}")
    return [plain_text.heading("where the path of last lies"), *lines]


def _noise(result: Document) -> list[str]:
    noise = result["noise"]
    share, scale, show = noise["signal_share"], noise["noise_scale"], functools.partial(TERMINAL.number, digits=3)
    lines = []
    if noise["source"] is None:
        lines.append(f"cannot be separated from the noise by lags: {noise['withheld']}")
    elif share is not None:
        spread = TERMINAL.interval(noise["signal_share_low"], noise["signal_share_high"], show)
        lines.append(f"{show(share)} ({spread}) of the mean squared norm, the rest is minibatch noise")
        if scale is not None:
            spread = TERMINAL.interval(noise["noise_scale_low"], noise["noise_scale_high"], show)
            lines[-1] += f"; noise scale, the critical batch size: {show(scale)} ({spread}) samples"
        lines[-1] += f"; from {noise['source']}{of_lags(result)}"
    lags = [f"{TERMINAL.fixed(lag['value'], sign=True)} at {a}" for a, lag in result["lag_coherence"].items()]
    lines.append(f"lag coherence {', '.join(lags)}")
    return [
        plain_text.heading("signal"),
        *(line for text in lines for line in plain_text.paragraph(text)),
    ]


def _bounds(result: Document) -> list[str]:
    bounds = result["bounds"]
    still, regret = bounds["stationarity"], bounds["regret"]
    if all(sides["right"] is None for sides in still.values()):
        return []  # a warning says why
    first = next(iter(still.values()))
    free = "not known" if first["left_noise_free"] is None else _between(first, "left_noise_free")
    norm = f"mean norm^2 {_between(first, 'left')}; free of minibatch noise: {free}"
    lost = f"regret {_between(next(iter(regret.values())), 'left')}"
    return [
        plain_text.heading("bound on the mean squared norm"),
        *plain_text.paragraph(norm),
        *_sides(still),
        "",
        plain_text.heading("bound on the regret"),
        f"  {lost}",
        *_sides(regret),
        *plain_text.paragraph(_inputs(bounds["inputs"])),
        *plain_text.paragraph(_about(bounds)),
    ]


def _sides(bound: Document) -> list[str]:
    """Right side and ratio of each predictor, each with its interval where it has an error."""
    rows = [
        [name, *(cell for end in ("right", "ratio") for cell in (TERMINAL.number(sides[end]), _spread(sides, end)))]
        for name, sides in bound.items()
    ]
    return plain_text.table(["predictor", "bound", "sketch 95 %", "ratio", "sketch 95 %"], rows)


def _spread(sides: Document, end: str) -> str:
    low, high = sides[f"{end}_low"], sides[f"{end}_high"]
    return "" if low == high else TERMINAL.interval(low, high)


def _between(sides: Document, end: str) -> str:
    value, spread = TERMINAL.number(sides[end]), _spread(sides, end)
    return f"{value} ({spread})" if spread else value


def _inputs(inputs: Document) -> str:
    names = {"eta": "eta", "first_loss": "F_0", "lowest_loss": "F_*", "diameter": "D"}
    known = (f"{name} = {TERMINAL.number(inputs[key])} ({inputs['sources'][key]})" for key, name in names.items())
    return "ratio: bound over left side, 1 or more where the bound holds. inputs: " + ", ".join(known)


def _about(bounds: Document) -> str:
    return plain_text.printable(bounds["about"]) if "about" in bounds else ""
