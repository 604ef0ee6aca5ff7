"""The recorder as a training script meets it: what it keeps, and that it never harms the job."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import gradlog
from gradlog import recording
from gradlog.analysis import open_run
from gradlog.analysis.audit import Folder, verify
from gradlog.errors import GradientError, GradlogWarning, RunExistsError, SpecMismatchError, StepOrderError
from gradlog.schema import NONFINITE, PARTIAL
from gradlog.sink import LocalSink

LIKE = {"a": {"w": np.zeros((5, 4)), "b": np.zeros(4)}, "c": np.zeros(7)}


def gradient(t: int) -> dict[str, object]:
    rng = np.random.default_rng(t)
    return {"a": {"w": rng.normal(size=(5, 4)), "b": rng.normal(size=4)}, "c": rng.normal(size=7)}


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, **{"k": 8, "chunk": 16, "on_error": "raise", **options})


def test_every_row_comes_back(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", k="exact") as log:
        for t in range(40):
            log.step(gradient(t), loss=1.0 / (t + 1))
            log.annotate(accuracy=float(t))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(40))
    rows = run.sketch.compute()
    for t in (0, 15, 16, 39):
        g = gradient(t)
        flat = np.concatenate([np.ravel(g["a"]["w"]), g["a"]["b"]]).astype(np.float32)
        assert np.array_equal(rows[t, 0, :24], flat)
        np.testing.assert_allclose(run.group_norm2[t], [np.sum(flat**2.0), np.sum(g["c"] ** 2)], rtol=1e-6)
    assert run.scalar_columns["loss"][3] == 0.25
    assert run.scalar_columns["accuracy"].tolist() == list(map(float, range(40)))
    assert verify(Folder(tmp_path / "r.zarr")) == []


def test_xarray_opens_a_segment_as_it_is(tmp_path: Path) -> None:
    import xarray as xr

    with start(tmp_path / "r.zarr") as log:
        for t in range(20):
            log.step(gradient(t))
    with xr.open_zarr(tmp_path / "r.zarr" / "seg-000000-r0000") as data:
        assert dict(data.sizes) == {"step": 20, "group": 2, "k": 8, "scalar": 1}
        assert data.step.values.tolist() == list(range(20))


def test_a_reader_sees_every_step_of_a_live_run(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr") as log:
        for t in range(50):
            log.step(gradient(t), loss=float(t))
            if t in (0, 15, 16, 49):
                run = open_run(tmp_path / "r.zarr")
                assert run.steps.tolist() == list(range(t + 1))
                assert run.info["status"] == "recording"
                assert run.scalar_columns["loss"].tolist() == list(map(float, range(t + 1)))


def test_reading_in_a_loop_while_a_process_writes(tmp_path: Path) -> None:
    script = (
        "import gradlog, numpy as np, sys\n"
        "with gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=16, on_error='raise') as log:\n"
        "    for t in range(4000): log.step({'w': np.full(30, t + 1.0)})\n"
    )
    path = tmp_path / "r.zarr"
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        opened, last = 0, -1
        while writer.poll() is None:
            if not (path / "seg-000000-r0000" / "zarr.json").exists():
                continue
            run = open_run(path)
            if not len(run.steps):
                continue
            assert run.steps.tolist() == list(range(len(run.steps)))
            assert len(run.steps) > last
            opened, last = opened + 1, len(run.steps) - 1
        assert writer.returncode == 0
    assert opened > 5
    np.testing.assert_allclose(open_run(path).group_norm2[:, 0], 30 * np.arange(1.0, 4001) ** 2, rtol=1e-6)


@pytest.mark.slow
def test_reading_in_a_loop_while_three_ranks_write(tmp_path: Path) -> None:
    """Ranks start, run and end at different times; what is shown is a prefix of the steps that all of them hold."""
    script = (
        "import gradlog, numpy as np, sys, time\n"
        "rank = int(sys.argv[2])\n"
        "time.sleep(0.1 * rank)\n"
        "log = gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k='exact', chunk=16, rank=rank, mode='a',\n"
        "                   stage='local', on_error='raise')\n"
        "for t in range(1000):\n"
        "    log.step({'w': np.full(30, (t + 1.0) * 10**rank)})\n"
        "    time.sleep(0.002)\n"
        "log.close()\n"
    )
    path = tmp_path / "r.zarr"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(rank)]) for rank in range(3)]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        if not (path / "zarr.json").exists():
            continue
        run = open_run(path)
        opened += 1
        present = sum(10**segment.header.rank for segment in run.segments)
        assert run.steps.tolist() == list(range(len(run.steps)))
        if len(run.steps):
            rows = run.rows.read(0, len(run.steps))[:, 0]
            assert np.array_equal(rows, (np.arange(len(rows)) + 1) * present)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert opened > 5
    assert open_run(path).sketch.compute()[-1, 0, 0] == 1000 * 111


def test_bad_gradients_raise_when_asked_to(tmp_path: Path) -> None:
    cases = [
        ({"a": {"w": np.zeros((4, 5))}}, GradientError, r"a\.w: expected a gradient of shape \(5, 4\), got \(4, 5\)"),
        ({"d": np.zeros(3)}, GradientError, "'d' is no parameter of this run"),
    ]
    for i, (bad, error, text) in enumerate(cases):
        with start(tmp_path / f"{i}.zarr") as log:
            log.step(gradient(0))
            with pytest.raises(error, match=text):
                log.step(bad)
        info = open_run(tmp_path / f"{i}.zarr").info
        assert info["steps"] == 1
        assert info["status"] == "failed"
    with start(tmp_path / "order.zarr") as log:
        log.step(gradient(0), step=5)
        with pytest.raises(StepOrderError, match="expected at least 6, got 5"):
            log.step(gradient(1), step=5)


def test_labelled_rows(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", on_error="warn") as log:
        log.step(gradient(0))
        log.step({"a": {"w": np.full((5, 4), np.nan)}, "c": np.zeros(7)})
        with pytest.warns(GradlogWarning, match="step 2 and maybe more are not recorded: no parameter had a gradient"):
            log.step({"c": None})
        log.step(gradient(3))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == [0, 1, 3]
    assert run.flags.tolist() == [0, NONFINITE | PARTIAL, 0]
    assert run.segments[0].header.dropped == ((2, 2, "no parameter had a gradient"),)


def test_a_sketch_that_overflows_is_flagged(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=1, on_error="raise") as log:
        log.step(np.full(1000, 3e38))
        log.step(np.ones(1000))
    assert open_run(tmp_path / "r.zarr").flags.tolist() == [NONFINITE, 0]


def test_every_and_late_scalars(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", every=3) as log:
        for t in range(100):
            log.step(gradient(t), **({f"s{i}": float(i) for i in range(20)} if t > 60 else {}))
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(0, 100, 3))
    assert np.isnan(run.scalar_columns["s19"][:20]).all()
    assert run.scalar_columns["s19"][-1] == 19


def test_the_first_failure_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr", on_error="warn")
    for t in range(20):
        log.step(gradient(t))
    with pytest.warns(GradlogWarning, match="recording ended, training goes on: GradientError") as caught:
        for _ in range(5):
            log.step({"c": np.zeros(3)})
    assert len(caught) == 1
    assert not log.active
    log.close()
    assert open_run(tmp_path / "r.zarr").info["steps"] == 20


def test_nothing_raises_even_when_warnings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "precious.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start(tmp_path / "r.zarr", on_error="warn") as log:
            log.step(gradient(0))
    assert "no gradlog run" in log.reason
    assert os.listdir(tmp_path / "r.zarr") == ["precious.txt"]


@pytest.mark.parametrize("way", ["gone", "full"])
def test_a_disk_that_fails_ends_the_recording_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = tmp_path / "r.zarr"
    log = start(path, on_error="warn")
    for t in range(20):
        log.step(gradient(t))
    if way == "gone":
        path.rename(tmp_path / "taken away")
    else:

        def full(self: LocalSink, key: str, data: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(LocalSink, "put", full)
    with pytest.warns(GradlogWarning, match="training goes on"):
        for t in range(20, 100):
            log.step(gradient(t))
        log.close()
    if way == "gone":
        assert not path.exists()
    else:
        monkeypatch.undo()
        steps = open_run(path).steps
        assert len(steps) >= 20
        assert steps.tolist() == list(range(len(steps)))


def test_a_real_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        log = start(disk / "r.zarr", k=64, on_error="warn")
        with pytest.warns(GradlogWarning, match="No space left"), log:
            for t in range(3000):
                log.step(gradient(t))
        steps = open_run(disk / "r.zarr").steps
        assert len(steps) > 100
        assert steps.tolist() == list(range(len(steps)))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_stuck_disk_costs_rows_but_not_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, put = threading.Event(), LocalSink.put

    def waits(self: LocalSink, key: str, data: object) -> None:
        if threading.current_thread().name == "gradlog-flush":
            assert stuck.wait(30)
        put(self, key, data)

    monkeypatch.setattr(LocalSink, "put", waits)
    monkeypatch.setattr(recording, "PATIENCE", 0.05)
    log = start(tmp_path / "r.zarr", on_error="warn")
    with pytest.warns(GradlogWarning, match="the disk did not keep up") as caught:
        for t in range(50):
            log.step(gradient(t))
    assert len(caught) == 1
    stuck.set()
    log.close()
    assert not [t for t in threading.enumerate() if t.name == "gradlog-flush"]
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(32))
    assert run.segments[0].header.dropped == ((32, 49, "the disk did not keep up"),)


def test_fork_pickle_and_copy_leave_the_original_alone(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr")
    log.step(gradient(0))
    for twin in (pickle.loads(pickle.dumps(log)), copy.deepcopy(log)):
        twin.step(gradient(1))
        twin.close()
        assert not twin.active
    child = os.fork()
    if child == 0:
        log.step(gradient(1))
        log.close()
        os._exit(0)
    os.waitpid(child, 0)
    log.step(gradient(1))
    log.close()
    assert open_run(tmp_path / "r.zarr").steps.tolist() == [0, 1]


def test_exit_without_close_is_closed_and_disabled_is_nothing(tmp_path: Path) -> None:
    script = "import gradlog, numpy as np\nlog = gradlog.open('r.zarr', k=8)\nfor t in range(5): log.step(np.ones(9))\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=_env())
    assert open_run(tmp_path / "r.zarr").info["status"] == "closed"
    shutil.rmtree(tmp_path / "r.zarr")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=_env(GRADLOG_DISABLED="1"))
    assert not (tmp_path / "r.zarr").exists()


def test_modes(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path) as log:
        log.step(gradient(0))
    with pytest.raises(RunExistsError, match='mode="a"'):
        start(path)
    with pytest.raises(SpecMismatchError, match="sketch="):
        start(path, mode="a", k=9)
    with pytest.raises(SpecMismatchError, match=r"parameter|tensors|groups"):
        gradlog.open(path, like={"z": np.zeros(3)}, k=8, chunk=16, mode="a", on_error="raise")
    with start(path, mode="a") as log:
        log.step(gradient(1))
    assert open_run(path).steps.tolist() == [0, 1]
    with start(path, mode="w") as log:
        log.step(gradient(0))
    assert open_run(path).info["steps"] == 1


@pytest.mark.parametrize("bad", [{"k": 0}, {"mode": "x"}, {"stage": "?"}, {"every": 0}, {"sketch_bits": 24}])
def test_wrong_arguments_raise_at_once(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        gradlog.open(tmp_path / "r.zarr", **bad)


def test_two_loggers_on_one_path_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    one, two = start(path, mode="a"), start(path, mode="a")
    for t in range(20):
        one.step(gradient(t))
    for t in range(20, 30):
        two.step(gradient(t), step=t)
    one.close()
    two.close()
    assert open_run(path).steps.tolist() == list(range(30))
    assert verify(Folder(path)) == []


def test_a_checkpoint_rewinds_and_keeps_the_abandoned_branch(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path) as log:
        for t in range(20):
            log.step(gradient(t))
        state = log.state_dict()
        for t in range(20, 40):
            log.step(gradient(t))
    with start(path, mode="a") as log:
        log.load_state_dict(state)
        for t in range(20, 25):
            log.step(gradient(1000 + t))
    assert open_run(path).steps.tolist() == list(range(25))
    assert len(open_run(path, view="all").steps) == 45


class TestTorch:
    def test_logged_is_what_the_optimizer_consumed(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k="exact", on_error="raise")
        seen = []
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(8, 6)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            seen.append([p.grad.clone().ravel().numpy() for p in model.parameters()])
            optimizer.step()
            log.annotate(loss=1.0)
        copy.deepcopy(optimizer)
        pickle.dumps(model)
        log.close()
        run = open_run(tmp_path / "r.zarr")
        assert run.header.groups == ("0", "1")
        rows = run.sketch.compute()
        for t, grads in enumerate(seen):
            assert np.array_equal(rows[t, 0], np.concatenate(grads[:2]))
            assert np.array_equal(rows[t, 1, :12], np.concatenate(grads[2:]))
        assert set(run.scalar_columns["lr"]) == {1e-2}
        assert not optimizer._optimizer_step_pre_hooks

    def test_a_closure_is_captured_after_its_backward_pass(self, tmp_path: Path) -> None:
        w = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.SGD([w], lr=0.1)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (w**2).sum()
            loss.backward()
            return loss

        with gradlog.attach(optimizer, tmp_path / "r.zarr", k="exact", on_error="raise"):
            before = 2 * w.detach().clone()
            optimizer.step(closure)
        assert np.array_equal(open_run(tmp_path / "r.zarr").sketch.compute()[0, 0], before.numpy())


def _env(**extra: str) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, **extra}


def test_zarr_reads_what_was_written(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", sketch_bits=10) as log:
        for t in range(20):
            log.step(gradient(t))
    group = zarr.open_group(tmp_path / "r.zarr" / "seg-000000-r0000", mode="r")
    assert not (group["sketch"][:].view(np.uint32) & 0x1FFF).any()


def test_parameters_that_join_later(tmp_path: Path) -> None:
    """The same rows as of a run that knew them from the start and saw no gradient of them; also after a resume."""
    names = ["body.0.w", "body.1.w", "head.w"]
    rng = np.random.default_rng(0)
    rows = [{name: rng.normal(size=30) for name in names} for _ in range(9)]
    for row in rows[:4]:
        row["body.1.w"] = None

    with gradlog.open(tmp_path / "all.zarr", like=rows[5], k=16, on_error="raise") as log:
        for row in rows:
            log.step(row)
    first = {name: rows[0][name] for name in ("body.0.w", "head.w")}
    groups = {"body": "^body", "head": "^head"}
    with gradlog.open(tmp_path / "r.zarr", like=first, k=16, groups=groups, on_error="raise") as log:
        for row in rows[:4]:
            log.step({name: row[name] for name in first})
        with pytest.warns(GradlogWarning, match=r"1 parameters joined \(body.1.w\)"):
            log.join({"body.1.w": rows[5]["body.1.w"]})
        for row in rows[4:6]:
            log.step(row)
    with gradlog.open(tmp_path / "r.zarr", like=rows[5], k=16, groups=groups, mode="a", on_error="raise") as log:
        assert [t.group for t in log.header.tensors] == [0, 1, 0]
        for row in rows[6:]:
            log.step(row)
    both = open_run(tmp_path / "r.zarr")
    assert both.steps.tolist() == list(range(9))
    assert [len(s.header.joined) for s in both.segments] == [0, 1, 1]
    whole = open_run(tmp_path / "all.zarr").sketch.compute().sum(axis=1)
    np.testing.assert_allclose(both.sketch.compute().sum(axis=1), whole, rtol=1e-5, atol=1e-5)
    assert verify(Folder(tmp_path / "r.zarr")) == []
    with pytest.raises(SpecMismatchError, match="joined the run"):
        gradlog.open(tmp_path / "r.zarr", like=rows[5] | {"body.1.w": np.ones(7)}, k=16, groups=groups, mode="a",
                     on_error="raise")  # fmt: skip


def test_fingerprints() -> None:
    assert gradlog.fingerprint([1, 2]) == gradlog.fingerprint(torch.tensor([1, 2], dtype=torch.int32))
    assert gradlog.fingerprint(["a", "b"]) != gradlog.fingerprint(["ab", ""])
    assert gradlog.fingerprint("x") == gradlog.fingerprint(b"x") == int(gradlog.fingerprint(b"x")) < 2**48
    with pytest.raises(TypeError, match="expected numbers"):
        gradlog.fingerprint([object()])


def test_sketches_of_the_parameters(tmp_path: Path) -> None:
    """At the start, twice at one step (the newer counts), and at the end, where no row follows."""
    path = tmp_path / "r.zarr"
    with start(path, k="exact", chunk=4) as log:
        log.parameters(gradient(100))
        for t in range(8):
            log.step(gradient(t))
            if t == 5:
                log.parameters(gradient(101))
                log.parameters(gradient(102))
        while log.state_dict()["rows"] < 4:
            pass
        log.parameters(gradient(103))
    with start(path, k="exact", chunk=4, mode="a") as log:
        assert log.state_dict()["step"] == 8
    segment = zarr.open_group(path / "seg-000000-r0000", mode="r", use_consolidated=True)
    assert segment["theta_step"][:].tolist() == [0, 6, 8]
    flat = [np.concatenate([np.ravel(gradient(t)["a"]["w"]), gradient(t)["a"]["b"]]) for t in (100, 102, 103)]
    assert np.array_equal(segment["theta"][:, 0], np.array(flat, np.float32))
