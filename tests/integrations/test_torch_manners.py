"""A recorder leaves no trace, keeps nothing alive, minds only its own process and thread, and stops no training."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import weakref

import pytest
import torch

import gradlog
import gradlog.analysis
from gradlog.errors import GradlogWarning
from tests.helpers.torch_loops import loss_of, mlp, snapshot, train

pytestmark = pytest.mark.usefixtures("seeded")


def test_no_trace_is_left(tmp_path):
    from torch.nn.utils import clip_grad

    clip, step = clip_grad._clip_grads_with_norm_, torch.amp.GradScaler.step
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clean = (set(vars(model)), set(vars(optimizer)))
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    assert clip_grad._clip_grads_with_norm_ is not clip
    loss_of(model).backward()
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    torch.save({"model": model, "optimizer": optimizer}, tmp_path / "model.pt")
    pairs.append(tuple(torch.load(tmp_path / "model.pt", weights_only=False).values()))
    for twin_model, twin in pairs:
        loss_of(twin_model).backward()
        twin.step()  # not recorded: the next rows are the original's
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    assert log.state_dict()["step"] == 1
    log.close()
    assert (set(vars(model)), set(vars(optimizer))) == clean
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert clip_grad._clip_grads_with_norm_ is clip
    assert torch.amp.GradScaler.step is step


def test_nothing_is_kept_alive(tmp_path):
    """An optimizer that is dropped without close() goes, with model and gradients."""
    model, step = mlp(), torch.amp.GradScaler.step
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    loss_of(model).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    gone = weakref.ref(model), weakref.ref(optimizer)
    del model, optimizer
    gc.collect()
    assert [g() for g in gone] == [None, None]
    log.close()
    assert torch.amp.GradScaler.step is step


def test_somebody_else_wraps_the_wrappers(tmp_path, monkeypatch):
    """Their wrapper stays where it is, ours only calls through, and attaching again neither recurses nor goes deaf."""
    from torch.nn.utils import clip_grad

    original = clip_grad._clip_grads_with_norm_
    calls = []

    def clipped(path):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        log = gradlog.attach(optimizer, path, model=model, k=32, on_error="raise")
        if not calls:
            inner = clip_grad._clip_grads_with_norm_
            monkeypatch.setattr(clip_grad, "_clip_grads_with_norm_", lambda *a, **k: calls.append(1) or inner(*a, **k))
        loss_of(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        log.close()
        return gradlog.analysis.open_run(path).scalar_columns["clip_coef"]

    for i in range(3):
        assert clipped(str(tmp_path / f"{i}.zarr")) < 1
    assert len(calls) == 3
    monkeypatch.undo()
    assert clipped(str(tmp_path / "last.zarr")) < 1
    assert clip_grad._clip_grads_with_norm_ is original


def test_threads(tmp_path, recorded):
    """Each thread with its own model, attaching, clipping and closing while the others do."""
    failures = []

    def work(name):
        try:
            generator = torch.Generator().manual_seed(hash(name) % 1000)
            for i in range(4):
                model = mlp()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                path, seen = tmp_path / f"{name}{i}.zarr", []
                with gradlog.attach(optimizer, path, model=model, k=16, on_error="raise", stage="preclip"):
                    for _ in range(3):
                        optimizer.zero_grad()
                        model(torch.randn(8, 20, generator=generator)).square().mean().backward()
                        seen.append(snapshot(model))
                        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                        optimizer.step()
                recorded(path).expect(seen)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []


class Batches(torch.utils.data.Dataset):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def __len__(self):
        return 4

    def __getitem__(self, i):
        """Steps the forked copy of the optimizer: that is not ours to record."""
        loss_of(self.model).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()
        return torch.randn(8, 20)


@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # JAX's, where another test has loaded it
def test_forked_workers(tmp_path, recorded):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32, on_error="raise", stage="preclip"):
        workers = torch.multiprocessing.get_context("fork")
        data = Batches(model, optimizer)
        for x in torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=workers):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            seen.append(snapshot(model))
            optimizer.step()
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    assert "clip_coef" not in run.scalars


def test_a_failing_recorder_does_not_stop_training(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", model=model, k=32)
    model[0].weight.data = torch.randn(301, 20)  # the layout no longer fits
    model[0].weight.grad = torch.randn(301, 20)
    model[0].bias.grad = torch.randn(300)
    with pytest.warns(GradlogWarning, match="training goes on"):
        optimizer.step()
    assert not log.active
    optimizer.zero_grad()
    optimizer.step()
    log.close()
    assert not optimizer._optimizer_step_pre_hooks


def test_the_recorders_share_of_the_time_is_told(tmp_path, caplog):
    model = mlp()
    caplog.set_level("INFO", logger="gradlog")
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "r.zarr", steps=5)
    found = re.search(r"5 rows recorded; recorder: (\d+\.\d+) % of wall time", caplog.text)
    assert 0 < float(found[1]) <= 100
