"""The result of an analysis in words and numbers, from the document that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Callable

from gradlog.analysis.common.recorded import EXACT, steps
from gradlog.analysis.common.text import SENTENCE, TERMINAL, counted, enumerate_some
from gradlog.analysis.measures.interpretation import EPOCH, caution, looked_at, verdict
from gradlog.analysis.measures.predictors.registry import fitted_in_hindsight, is_reference, without_reference
from gradlog.analysis.results.findings import GUIDE, dominant, findings
from gradlog.analysis.results.forms.json_document import NO_BOUNDS, UNDEFINED, Document
from gradlog.analysis.results.known_trainings import CAVEAT, Training, nearest, of_run
from gradlog.analysis.results.known_trainings import EPS as KNOWN_EPS
from gradlog.cli import plain_text

UNKNOWN_EPOCHS = """\
epoch unknown: short epochs would show the same; say how long one is with --steps-per-epoch, 0 if every batch is drawn
anew."""

ORDER = f"""\
shuffled: kappa of the same gradients in random order, {fitted_in_hindsight()} fitted to that. gain: 1 - kappa /
shuffled. order effect: what the order of the steps does to this predictor."""


def report(path: str, result: Document, full: bool = False, groups: bool = False) -> list[str]:
    """Show the findings, the tables of kappa and rank, and what was asked for besides; with ``full`` all tables."""
    parts = [
        _findings(path, result),
        _kappa(result),
        _errors(result) if full or "sampled_of" in result["run"] else [],
        _rank(result, full),
        *([_spectrum(result), _measures(result), _signal(result), _path(result)] if full else []),
        _groups(result) if full or groups or dominant(result) else [],
        _in_time(result, "windows", "in time, by window of steps"),
        _in_time(result, "prefixes", "as the run grows"),
        _directions(result),
        _bounds(result) if full else [],
        _usual(result) if full else [],
        _warnings(result, full),
        [] if full else ["more: --full shows all tables, gradlog report draws them"],
    ]
    return [line for part in parts if part for line in (*part, "")][:-1]


def _findings(path: str, result: Document) -> list[str]:
    """Say what to know first: of which run, what was found, what to do next."""
    run, said = result["run"], findings(result, SENTENCE)
    groups = f"{counted(len(run['groups']), 'group')}, {_sketch(run, result['exact_groups'])}"
    sampled = f", a sample of {run['sampled_of']:,}" if "sampled_of" in run else ""
    advice = [f for f in said if f.next_step][:1]
    left_out = f", the first {result['burn_in']:,} left out" if result["burn_in"] else ""
    return [
        plain_text.heading(plain_text.printable(path)),
        *plain_text.wrap(f"steps {steps(run)}{sampled}{left_out}; {groups}; {run['what']}, {run['stage']}"),
        *(line for finding in said for line in plain_text.note(finding.text)),
        *(line for f in advice for line in plain_text.wrap(f"next: {f.next_step} ({GUIDE}: {f.heading})")),
    ]


def _sketch(run: Document, exact: list[str]) -> str:
    if run["kind"] == "exact/1":
        return EXACT
    return f"k = {run['k']}" + (f", without error for {enumerate_some(exact, 6)}" if exact else "")


def _warnings(result: Document, full: bool) -> list[str]:
    shown = [text for text in result["warnings"] if not text.startswith(UNDEFINED) and (full or text != NO_BOUNDS)]
    return [line for text in shown for line in plain_text.note(text)]


def _kappa(result: Document) -> list[str]:
    rows = [_kappa_cells(name, k) for name, k in result["kappa"].items()]
    columns = ["predictor", "kappa", "sketch 95 %", "shuffled", "gain", "order effect"]
    words, steps_per_epoch = [row[-1] for row in rows], result["epochs"]["steps"]
    notes = [
        ORDER,
        f"Shuffled steps stay in their epochs of {steps_per_epoch:,} steps." if steps_per_epoch else "",
        caution(looked_at(words)) if looked_at(words) > 1 else "",
        UNKNOWN_EPOCHS if EPOCH in words else "",
    ]
    return [
        plain_text.heading("predictability"),
        *plain_text.table(columns, rows, (0, 5)),
        *plain_text.wrap(" ".join(filter(None, notes))),
    ]


def _kappa_cells(name: str, k: Document) -> list[str]:
    if is_reference(name):
        return [name, _fixed(k["value"]), "", _fixed(k["null"]), "", "reference"]
    interval = TERMINAL.of_error(k["low"], k["high"], _fixed)
    gain = TERMINAL.fixed(k["gain"], sign=True)
    return [_label(name, k), _fixed(k["value"]), interval, _fixed(k["null"]), gain, verdict(k)]


def _fixed(value: float | None) -> str:
    return TERMINAL.fixed(value, 3 if value is None or abs(value) < 10 else 2)


def _label(name: str, kappa: Document) -> str:
    return name if kappa.get("beta") is None else f"{name} ({kappa['beta']:.4g})"


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
    columns: dict[str, Callable[[Document], float | None]] = {"within the run": lambda k: k["run_half"]}
    if result["run"]["kind"] != "exact/1":
        sketch: Callable[[Document], float | None] = lambda k: None if k["high"] is None else k["high"] - k["value"]  # noqa: E731
        columns = {"sketch": sketch} | columns | {"both": lambda k: k["total_half"]}
    rows = [[_label(n, k), *(TERMINAL.half(half(k)) for half in columns.values())] for n, k in kappas.items()]
    lines = plain_text.wrap("within the run: from blocks of its own steps; another seed may differ by more")
    for reason in filter(None, dict.fromkeys(reasons)):
        names = ", ".join(n for n, k in kappas.items() if k["run_withheld"] == reason)
        lines += plain_text.wrap(f"withheld for {plain_text.printable(names)}: {reason}")
    return [title, *plain_text.table(["predictor", *columns], rows), *lines]


def _rank(result: Document, full: bool) -> list[str]:
    columns = ["eps", "logged rank", "shuffled", "9 in 10", "estimated true rank", "range"]
    rows = [[eps, *_rank_cells(rank)] for eps, rank in result["rank"].items()]
    method = result.get("rank_null_method") or "none"
    found = f"; found by {method}" if full else ""
    shuffled = f"shuffled: mean over random orders of the same steps, and the range of 9 in 10 orders{found}."
    return [
        plain_text.heading("rank: directions that hold all but eps of the energy of the changes"),
        *plain_text.table(columns, rows),
        *(plain_text.wrap(shuffled) if method != "none" else []),
    ]


def _rank_cells(rank: Document) -> list[str]:
    ends = [
        TERMINAL.interval(rank.get(f"{of}_low"), rank.get(f"{of}_high"), TERMINAL.count) for of in ("null", "estimate")
    ]
    estimate = rank.get("estimate")
    true = "not identifiable" if estimate is None else TERMINAL.count(estimate)
    return [TERMINAL.rank(rank["low"], rank["high"]), TERMINAL.count(rank.get("null")), ends[0], true, ends[1]]


def _spectrum(result: Document) -> list[str]:
    """Singular values and the energy left beyond them, from none to the largest rank in the table."""
    most = [rank["high"] for rank in result["rank"].values()]
    stop = 1 + int(max(most)) if most and None not in most else None
    values, tail = result["singular_values"][:stop], result["tail_energy"][:stop]
    if len(tail) < 3:
        return []
    least = "energy left, at most" if result["svd"]["method"] == "nystrom" else "energy left"
    return [
        plain_text.heading("spectrum of the changes"),
        *plain_text.curves([("singular values", values), (least, tail)]),
    ]


def _measures(result: Document) -> list[str]:
    measures = result["rank_measures"]
    columns = {n: n for n in ("stable", "participation", "entropy")}
    columns |= {"participation_estimate": "sketch bias removed"}
    cells = [TERMINAL.number(measures[n]) for n in columns]
    spread = TERMINAL.interval(measures["participation_estimate_low"], measures["participation_estimate_high"])
    return [
        plain_text.heading("effective rank of the changes"),
        *plain_text.table([*columns.values(), "95 %"], [[*cells, spread]], ()),
    ]


def _groups(result: Document) -> list[str]:
    groups = result.get("by_group") or {}
    if not groups:
        return []
    names = list(result["kappa"])
    rows = [[g, *(_fixed(found["kappa"][n]["value"]) for n in names)] for g, found in groups.items()]
    shares = {g: x["last"] for g, x in result["path_shares"]["by_group"].items() if x.get("last") is not None}
    said = ", ".join(f"{plain_text.printable(g)} {TERMINAL.percent(x)}" for g, x in shares.items())
    lines = plain_text.wrap(f"share of the squared error of last: {said}") if said else []
    return [plain_text.heading("kappa by group"), *plain_text.table(["group", *names], rows), *lines]


def _in_time(result: Document, kind: str, title: str) -> list[str]:
    """Kappa beside its shuffled value, and the rank, of each range of steps; above it kappa as lines of bars."""
    parts = result[kind]
    if not parts:
        return []
    names, eps = without_reference(result["kappa"]), next(iter(result["rank"]))
    rows = []
    for part in parts:
        kappas = [cell for n in names[:2] for cell in _kappa_cells(n, part["kappa"][n])[1:4:2]]
        rank = part["rank"][eps]
        span = f"{part['first_step']:,} to {part['last_step']:,}"
        rows.append([span, *kappas, TERMINAL.rank(rank["low"], rank["high"]), TERMINAL.count(rank.get("null"))])
    columns = ["steps", *(c for n in names[:2] for c in (n, "shuffled")), f"rank, eps {eps}", "shuffled"]
    curves = [(n, [part["kappa"][n]["value"] for part in parts]) for n in names if len(parts) > 2]
    return [plain_text.heading(title), *plain_text.curves(curves), *plain_text.table(columns, rows)]


def _directions(result: Document) -> list[str]:
    """Autocorrelation at every other lag or so, and the path of the weights; turns are among the findings."""
    measured = result.get("directions")
    if measured is None:
        return []
    lines = plain_text.note(f"withheld: {measured['withheld']}") if measured["withheld"] else []
    if "autocorrelation" in measured:
        lines += _autocorrelation(measured["autocorrelation"])
    if "weights" in measured:
        lines += plain_text.wrap(_weights(measured["weights"]))
    return [plain_text.heading("which way training goes"), *lines]


def _autocorrelation(measured: Document) -> list[str]:
    columns, least = zip(*(measured[name] for name in ("lag", "value", "low", "high", "floor")), strict=True), 0
    rows = []
    for lag, value, low, high, floor in columns:
        if lag >= least:
            interval = TERMINAL.interval(low, high, lambda end: TERMINAL.fixed(end, sign=True))
            rows.append([f"{lag:,}", TERMINAL.fixed(value, sign=True), interval, TERMINAL.fixed(floor)])
            least = 2 * lag
    return plain_text.table(["steps apart", "autocorrelation", "95 %", "unrelated, up to"], rows, ())


def _weights(measured: Document) -> str:
    distance, low, high = (measured[f"distance{end}"][-1] for end in ("", "_low", "_high"))
    ends = TERMINAL.interval(low, high, lambda end: TERMINAL.number(end, 3))
    between = "" if measured["source"] == "updates" else "at least "
    length = TERMINAL.number(measured["length"][-1], 3)
    return f"weights: {TERMINAL.number(distance, 3)} ({ends}) from their start, on a path {between}{length} long"


def _path(result: Document) -> list[str]:
    """Which steps carry the path length."""
    shares = result["path_shares"]
    most = ", ".join(f"{s['step']:,} ({TERMINAL.percent(s['share'])})" for s in shares["steps"][:5])
    text = f"half in {shares['half_steps']:,} of {result['rows']:,} steps; most in steps {most}"
    energy = f"sum of squared norms {TERMINAL.number(result['energy'])}"
    energy += f", of the changes between steps {TERMINAL.number(result['increment_energy'])}"
    title = plain_text.heading("steps with the largest prediction error (predictor last)")
    return [title, *plain_text.wrap(text), *plain_text.wrap(energy)]


def _signal(result: Document) -> list[str]:
    """Noise scale and lag coherences; the share of the signal is among the findings."""
    noise, lines = result["noise"], []
    if noise["noise_scale"] is not None:
        ends = TERMINAL.interval(
            noise["noise_scale_low"], noise["noise_scale_high"], lambda end: TERMINAL.number(end, 3)
        )
        lines.append(
            f"noise scale, the critical batch size: {TERMINAL.number(noise['noise_scale'], 3)} ({ends}) samples"
        )
    lags = [f"{TERMINAL.fixed(lag['value'], sign=True)} at {a}" for a, lag in result["lag_coherence"].items()]
    lines.append(f"lag coherence {', '.join(lags)}")
    return [plain_text.heading("signal"), *(line for text in lines for line in plain_text.wrap(text))]


def _bounds(result: Document) -> list[str]:
    bounds = result["bounds"]
    still, regret = bounds["stationarity"], bounds["regret"]
    if all(sides["right"] is None for sides in still.values()):
        return []  # a warning says why
    first = next(iter(still.values()))
    free = "not known" if first["left_noise_free"] is None else _between(first, "left_noise_free")
    return [
        plain_text.heading("bound on the mean squared norm"),
        *plain_text.wrap(f"mean norm^2 {_between(first, 'left')}; free of minibatch noise: {free}"),
        *_sides(still),
        "",
        plain_text.heading("bound on the regret"),
        f"  regret {_between(next(iter(regret.values())), 'left')}",
        *_sides(regret),
        *plain_text.wrap(_inputs(bounds["inputs"])),
        *plain_text.wrap(plain_text.printable(bounds.get("about", ""))),
    ]


def _usual(result: Document) -> list[str]:
    """Show the run's figures above those of known trainings, the nearest first."""
    others = nearest(result)
    rows = [_known_cells(training) for training in (of_run(result), *(training for training, _ in others))]
    like = [f"{training.name} ({said})" for training, said in others[:3] if said]
    about = f"nearest by what is comparable: {'; '.join(like)}. " if like else "none is comparable. "
    about += f"rank {KNOWN_EPS}: logged, and of shuffled steps. "
    return [
        plain_text.heading("is this usual? the run beside known trainings"),
        *plain_text.table(["training", "steps", "last", "ema(0.9)", f"rank {KNOWN_EPS}", "lag 1", "signal"], rows),
        *plain_text.wrap(about + CAVEAT),
    ]


def _known_cells(known: Training) -> list[str]:
    return [
        known.name, f"{known.steps:,}", _fixed(known.kappa["last"]), _fixed(known.kappa["ema(0.9)"]),
        f"{TERMINAL.count(known.rank)}, {TERMINAL.count(known.shuffled)}", TERMINAL.fixed(known.coherence, sign=True),
        TERMINAL.percent(known.signal, 0),
    ]  # fmt: skip


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
