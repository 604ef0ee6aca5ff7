"""What the five scripts share: flags, optimizers, and a step counter that shows a bar and survives a kill."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from examples.paper.exact import Exact
from gradlog.analysis import open_run
from gradlog.errors import GradlogError

CHECKPOINT = 120.0
"""Seconds between checkpoints."""

MATCH = ("model", "optimizer", "batch", "lr", "seed", "data", "small", "fixed_batch", "task", "pretrained")
"""Settings that two parts of one run share."""


def flags(model: str, about: str | None, batch: int, rates: dict[str, float]) -> argparse.ArgumentParser:
    """Make the parser of a script. ``rates`` are the learning rates of the optimizers it was tuned for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.paper.{model}", description=(about or "").splitlines()[0]
    )
    parser.set_defaults(model=model, rates=rates)
    parser.add_argument("--optimizer", choices=sorted(OPTIMIZERS), default="adamw")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, help=f"default: {rates}, else 1e-3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch threads; they change the third digit of kappa")
    parser.add_argument("--data", choices=["real", "offline"], default="offline")
    parser.add_argument("--out", type=Path, help="the run's store; default: runs/MODEL_OPTIMIZER.zarr")
    parser.add_argument("--small", action="store_true", help="a much smaller model, to see that all works")
    parser.add_argument("--fixed-batch", action="store_true", help="train on the first batch over and over")
    parser.add_argument("--exact", action="store_true", help="also kappa of the full gradients, into RUN.exact.json")
    return parser


def read(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse, fill in what depends on other flags, and seed."""
    o = parser.parse_args(argv)
    if o.steps < 2 or o.batch < 1:
        parser.error(f"--steps must be at least 2 and --batch at least 1, got {o.steps} and {o.batch}")
    o.lr = o.rates.get(o.optimizer, 1e-3) if o.lr is None else o.lr
    o.out = o.out or Path("runs") / f"{o.model}_{o.optimizer}.zarr"
    o.out.parent.mkdir(parents=True, exist_ok=True)
    if o.threads:
        torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    return o


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices and AdamW for all else, behind one ``step()``, so that one logger sees every gradient."""

    def __init__(self, parameters: Any, lr: float) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {"lr": lr})
        self.parts = [
            torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=lr),
            torch.optim.AdamW([p for p in parameters if p.ndim != 2], lr=1e-3),
        ]

    def step(self, closure: None = None) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "sgdmom": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=5e-4),
    "muon": MuonAdamW,
}


def optimizer_of(o: argparse.Namespace, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``--optimizer`` and ``--lr`` ask for."""
    return OPTIMIZERS[o.optimizer](model.parameters(), lr=o.lr)


def recording(o: argparse.Namespace, data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``gradlog.attach``: the settings as notes, whether a run is new or continues, and the caller's own.

    Raises
    ------
    SystemExit
        The run is complete already, or what is there was recorded with other settings.
    """
    settings = {name: getattr(o, name) for name in MATCH if hasattr(o, name)}
    begun = checkpoint_of(o.out).exists()
    if o.out.exists():
        run = open_run(o.out)
        before = run.info["provenance"]["notes"]
        if any(before.get(name) != value for name, value in settings.items()):
            raise SystemExit(f"{o.out} was recorded with other settings; remove it or choose another --out")
        if complete(o.out):
            raise SystemExit(f"{o.out} is complete; remove it to train again")
    notes = settings | {"steps": o.steps, "threads": torch.get_num_threads()}
    notes |= {"data_name": data.name, "digest": data.digest, "steps_per_epoch": data.steps_per_epoch(o.batch)}
    recorded = {"what": ("gradient", "update"), "norms_every": 10, "theta_every": 10}
    return {"mode": "a" if begun else "w", "on_error": "raise", "hostname": False, "notes": notes} | recorded | options


def steps(o: argparse.Namespace, model: Any, optimizer: torch.optim.Optimizer, log: Any) -> Iterator[int]:
    """Yield the numbers of the steps to train; the caller trains one step for each.

    Shows a bar, notes with every step where the time went, writes a checkpoint now and then, and resumes from one.
    With ``--exact`` the full gradients are measured on the way, unless the run was interrupted.
    """
    begin = resume(o, model, optimizer, log)
    exact = Exact([p.numel() for p in model.parameters()]) if o.exact and begin == 0 else None
    if exact:
        held = list(model.parameters())
        optimizer.register_step_pre_hook(lambda *_: exact.add([p.grad.detach().cpu().numpy() for p in held]))
    saved = time.monotonic()
    for step in tqdm(range(begin, o.steps), desc=o.out.stem, initial=begin, total=o.steps, disable=None):
        start = clocks(log, exact)
        yield step
        spent = clocks(log, exact) - start
        log.annotate(step_seconds=spent[0], recorder_seconds=spent[1], exact_seconds=spent[2])
        if time.monotonic() - saved > CHECKPOINT:
            save(o, step + 1, model, optimizer, log)
            saved = time.monotonic()
    log.close()
    if exact:
        o.out.with_suffix(".exact.json").write_text(json.dumps(exact.result(), indent=1) + "\n")
    checkpoint_of(o.out).unlink(missing_ok=True)


def clocks(log: Any, exact: Exact | None) -> NDArray[np.float64]:
    """Seconds so far: of the clock, inside the recorder, inside the exact measurement."""
    return np.array([time.perf_counter(), log.seconds, exact.seconds if exact else 0.0])


def complete(out: Path) -> bool:
    """Whether a run holds all the steps that it set out to take."""
    try:
        run = open_run(out)
    except GradlogError:
        return False
    return not checkpoint_of(out).exists() and run.info["steps"] >= run.info["provenance"]["notes"]["steps"]


def train_once(script: str, out: Path, flags: Sequence[str]) -> Path:
    """Run a script of this folder unless ``out`` is complete, and return ``out``."""
    if not complete(out):
        importlib.import_module(f"examples.paper.{script}").main([*flags, f"--out={out}"])
    return out


def checkpoint_of(out: Path) -> Path:
    """Where an unfinished run keeps its model."""
    return out.with_suffix(".checkpoint.pt")


def save(o: argparse.Namespace, step: int, model: Any, optimizer: torch.optim.Optimizer, log: Any) -> None:
    """Write model, optimizer and the logger's place in its run, all or nothing."""
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "log": log.state_dict()}
    target = checkpoint_of(o.out)
    torch.save(state, target.with_suffix(".partial"))
    os.replace(target.with_suffix(".partial"), target)


def resume(o: argparse.Namespace, model: Any, optimizer: torch.optim.Optimizer, log: Any) -> int:
    """Return the step to begin with: 0, or that of the checkpoint after loading it."""
    if not checkpoint_of(o.out).exists():
        return 0
    state = torch.load(checkpoint_of(o.out), map_location=o.device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    log.load_state_dict(state["log"])
    return int(state["step"])
