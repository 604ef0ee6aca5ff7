"""Against what the auditor holds himself: checkpoints, chain heads, his own code, listings."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import gradlog
from gradlog.analysis import audit_run
from gradlog.analysis.audit import checkpoint_files
from gradlog.analysis.audit.checks.replay import load_hook
from gradlog.analysis.audit.listing import listing, tree_digest
from gradlog.errors import CorruptRunError, UnsupportedError, UnusableInputError
from tests.helpers import forger
from tests.helpers.forger import RATE, STEPS, Rows, Training

MOMENTUM = Training(momentum=0.9)


def lines(report, check: str) -> list[tuple[str, str]]:
    return [(x.status, x.text) for x in report.lines if x.check == check]


def statuses(report, check: str) -> list[str]:
    return [status for status, _ in lines(report, check)]


def test_updates_add_up_for_any_optimizer_and_a_break_is_located(tmp_path: Path) -> None:
    kept = forger.record(tmp_path / "r.zarr", MOMENTUM, what="update")
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept), "checkpoints") == ["PASS", "PASS"]

    def change(rows: list[Rows]) -> None:
        rows[0].sketch[60, 1] *= 1.01

    forger.forge(tmp_path / "r.zarr", change)
    found = lines(audit_run(tmp_path / "r.zarr", checkpoints=kept), "checkpoints")
    assert [status for status, _ in found] == ["PASS", "FAIL"]
    assert "steps 48 to 95" in found[1][1]
    assert "in groups head.weight" in found[1][1]


def test_gradients_of_another_optimizer_do_not_add_up(tmp_path: Path) -> None:
    kept = forger.record(tmp_path / "r.zarr", MOMENTUM)
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept), "checkpoints") == ["WARN", "WARN"]
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept, sgd=True), "checkpoints") == ["FAIL", "FAIL"]


@pytest.mark.parametrize("options", [{"every": 2}, {"stage": "preclip"}], ids=str)
def test_runs_that_cannot_be_summed_are_skipped(tmp_path: Path, options: dict) -> None:
    kept = forger.record(tmp_path / "r.zarr", Training(), **options)
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept), "checkpoints") == ["SKIP", "SKIP"]
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept[:1]), "checkpoints") == ["SKIP"]


def test_a_torch_run_with_momentum_free_sgd(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=64, on_error="raise")
    kept = []
    for t in range(31):
        if t in (0, 30):
            kept.append((t, tmp_path / f"{t}.pt"))
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "t": t}, kept[-1][1])
        if t < 30:
            optimizer.zero_grad()
            x = torch.randn(8, 20)
            torch.nn.functional.cross_entropy(model(x), torch.randint(0, 3, (8,))).backward()
            optimizer.step()
    log.close()
    assert statuses(audit_run(tmp_path / "r.zarr", checkpoints=kept, sgd=True), "checkpoints") == ["PASS"]


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The format by its documentation: u64, JSON, data."""
    import json

    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}
    at, head, data = 0, {"__metadata__": {"format": "pt"}}, b""
    for name, t in tensors.items():
        raw = t.contiguous().view(torch.uint8).numpy().tobytes()
        head[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        at, data = at + len(raw), data + raw
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_safetensors_torch_and_npz_read_alike(tmp_path: Path) -> None:
    values = {"a.weight": torch.randn(3, 4), "b": torch.randn(5).bfloat16(), "c": torch.randn(2, dtype=torch.float64)}
    torch.save({"state_dict": {f"module.{n}": v for n, v in values.items()}}, tmp_path / "x.pt")
    np.savez(tmp_path / "x.npz", **{n: v.double().numpy() for n, v in values.items()})
    write_safetensors(tmp_path / "x.safetensors", values)
    from gradlog.format.header import TensorInfo

    tensors = [TensorInfo(n, tuple(v.shape), "float32", 0) for n, v in values.items()]
    for name in ("x.pt", "x.npz", "x.safetensors"):
        checkpoint = checkpoint_files.load(tmp_path / name)
        if name == "x.pt":
            checkpoint = checkpoint._replace(
                arrays={k.replace("state_dict.module.", "state_dict."): v for k, v in checkpoint.arrays.items()}
            )
        found = checkpoint_files.parameters(checkpoint, tensors)
        for a, v in zip(found, values.values(), strict=True):
            np.testing.assert_array_equal(a, v.double().numpy())


def test_safetensors_of_the_library_itself(tmp_path: Path) -> None:
    save_file({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(
        checkpoint_files.load(tmp_path / "x.safetensors").arrays["w"], np.arange(6).reshape(2, 3)
    )


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("name", ["x.pt", "x.npz", "short.safetensors", "lie.safetensors", "x.bin"])
def test_a_checkpoint_is_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    if name == "x.pt":
        torch.save({"w": Evil()}, file)
    elif name == "x.npz":
        np.savez(file, w=np.array([Evil()], dtype=object))
    elif name == "short.safetensors":
        file.write_bytes((2**60).to_bytes(8, "little"))
    elif name == "lie.safetensors":
        head = b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}'
        file.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    else:
        file.write_bytes(b"\x80\x04nothing")
    with pytest.raises(CorruptRunError, match="no checkpoint of plain arrays") as refused:
        checkpoint_files.load(file)
    assert "Re-running" not in str(refused.value), "no advice to execute what is in the file"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("whole", [True, False], ids=["a whole module", "a Namespace"])
def test_a_checkpoint_of_objects_says_what_it_holds_and_what_to_save(tmp_path: Path, whole: bool) -> None:
    model = torch.nn.Linear(3, 2)
    held = model if whole else {"model": model.state_dict(), "args": argparse.Namespace(lr=0.1)}
    torch.save(held, tmp_path / "x.pt")
    what = "torch.nn.modules.linear.Linear" if whole else "argparse.Namespace"
    with pytest.raises(CorruptRunError) as refused:
        checkpoint_files.load(tmp_path / "x.pt")
    said = str(refused.value)
    assert f"(it holds {what}; expected tensors, numbers and text alone" in said
    assert "save model.state_dict(), and vars(args) for a Namespace)" in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_checkpoint_of_fewer_digits_than_the_run_is_not_compared(tmp_path: Path, kind: str) -> None:
    path, training, kept = tmp_path / "r.zarr", Training(), []
    with gradlog.open(path, like=training.start(), k=64, on_error="raise") as log:
        for t, theta, g, _ in training.walk(10):
            if t in (0, 10):
                half = {name: torch.tensor(x).bfloat16() for name, x in theta.items()}
                kept.append((t, tmp_path / f"{t}.{kind}"))
                torch.save(half, kept[-1][1]) if kind == "torch" else write_safetensors(kept[-1][1], half)
            if t == 0:
                log.parameters(theta)
            if g is not None:
                log.step(g, lr=RATE)
    report = audit_run(path, checkpoints=kept, sgd=True)
    said = (
        f"0.{kind}: body.weight is bfloat16 there, the run trained it in float32: rounding hides what would be "
        "compared; save a checkpoint in float32"
    )
    assert lines(report, "checkpoints") == [("SKIP", said)]
    assert lines(report, "snapshots")[0] == ("SKIP", said)
    assert not report.failed


def test_an_npz_of_bfloat16_says_what_to_save(tmp_path: Path) -> None:
    kept = forger.record(tmp_path / "r.zarr", Training())
    values = {name: np.zeros(shape, "V2") for name, shape in forger.SHAPES.items()}
    np.savez(tmp_path / "x.npz", **values)
    found = lines(audit_run(tmp_path / "r.zarr", checkpoints=[kept[0], (96, tmp_path / "x.npz")]), "checkpoints")
    assert found[0][0] == "FAIL"
    assert found[0][1].endswith("expected numbers, got an array of dtype |V2; save it as float32")


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    kept = forger.record(tmp_path / "r.zarr", Training())
    np.savez(tmp_path / "other.npz", w=np.zeros(3))
    found = lines(audit_run(tmp_path / "r.zarr", checkpoints=[*kept, (200, tmp_path / "other.npz")]), "checkpoints")
    assert found[0][0] == "FAIL"
    assert "no array named 'body.weight'" in found[0][1]


def test_the_head_in_a_checkpoint(tmp_path: Path) -> None:
    path, training = tmp_path / "r.zarr", Training()
    log = gradlog.open(path, k=64, chunk=16, like=training.start(), on_error="raise")
    for t, _, g, _ in training.walk():
        if t == 60:
            torch.save({"gradlog": log.state_dict()}, tmp_path / "step60.pt")
        if g is not None:
            log.step(g, lr=RATE)
    log.close()
    held = [(60, tmp_path / "step60.pt")]
    found = lines(audit_run(path, checkpoints=held), "head")
    assert found[0][0] == "PASS"
    forger.forge(path, lambda rows: rows[0].take(slice(1, STEPS)))
    assert statuses(audit_run(path, checkpoints=held), "head") == ["FAIL"]
    forger.record(tmp_path / "other.zarr", training)
    assert "was written beside run" in lines(audit_run(tmp_path / "other.zarr", checkpoints=held), "head")[0][1]


def test_replay_names_the_step_that_differs(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training())
    right, asked = forger.replay_of(Training()), []

    def gradient(step: int):
        asked.append(step)
        return {n: x * (1.01 if len(asked) == 3 else 1) for n, x in right(step).items()}

    found = lines(audit_run(tmp_path / "r.zarr", replay=gradient, replay_steps=6, seed=1), "replay")
    assert asked == sorted(asked)
    assert len(asked) == 6
    assert found == [("FAIL", f"step {asked[2]}: the recomputed gradient is 0.0099 away, relative to its length")]
    assert statuses(audit_run(tmp_path / "r.zarr", replay=right), "replay") == ["PASS"]


def test_a_replay_script_that_fails_or_defines_nothing(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training())
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(UnsupportedError, match="expected a function gradient"):
        load_hook(tmp_path / "empty.py")
    (tmp_path / "broken.py").write_text("def gradient(step):\n    raise RuntimeError('no data here')\n")
    found = lines(audit_run(tmp_path / "r.zarr", replay=load_hook(tmp_path / "broken.py")), "replay")
    assert found == [("FAIL", "stopped at RuntimeError: no data here")]
    (tmp_path / "typo.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(
        UnusableInputError, match=r"typo.py: the script ended with ModuleNotFoundError.*gradient\(step\)"
    ):
        load_hook(tmp_path / "typo.py")
    found = lines(audit_run(tmp_path / "r.zarr", replay=lambda step: {"head": np.zeros(3)}), "replay")
    assert found[0][0] == "FAIL"
    assert "'head' is no parameter of this run; expected body.weight" in found[0][1]


SHELL = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"


def test_the_digest_is_the_one_of_public_tools(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    forger.record(path, Training())
    (path / "odd\\name\n").write_bytes(b"x")
    made = subprocess.run(["bash", "-c", SHELL], cwd=path, capture_output=True, check=True).stdout
    assert listing(path) == made
    assert tree_digest(path) == hashlib.sha256(made).hexdigest()


def test_a_detached_manifest(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    forger.record(path, Training())
    kept = listing(path)
    assert statuses(audit_run(path, manifest=kept), "manifest") == ["PASS"]
    forger.forge(path, lambda rows: rows[0].take(slice(0, 40)))
    found = " ".join(text for _, text in lines(audit_run(path, manifest=kept), "manifest"))
    assert "./" not in found
    assert "seg-000000-r0000/sketch/c.2.0.0: in the manifest, not in the run" in found
    assert "seg-000000-r0000/zarr.json: its SHA-256 is not the one in the manifest" in found
    assert statuses(audit_run(path, manifest=b"what is this\n"), "manifest") == ["FAIL"]


def test_a_sample_run_replays_by_its_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the example adds to it
    root = Path(__file__).resolve().parents[3]
    hook = load_hook(root / "examples" / "replay_wine.py")
    assert statuses(audit_run(root / "sample_logs" / "mlp_wine_exact.zarr", replay=hook), "replay") == ["PASS"]
