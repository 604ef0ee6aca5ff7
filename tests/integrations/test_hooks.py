"""The interface for frameworks: the page's template works, and every integration is made of the same parts."""

from __future__ import annotations

import gc
import re
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gradlog.errors import GradlogWarning

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORK, TEMPLATE, USE = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "howto-own-integration.md").read_text(), re.DOTALL
)


@pytest.fixture
def page() -> SimpleNamespace:
    """Names that the page's framework and its integration define."""
    scope = {"__name__": "page"}
    exec(FRAMEWORK + TEMPLATE, scope)
    return SimpleNamespace(**scope)


def test_the_template_is_short():
    assert len(TEMPLATE.splitlines()) <= 60


def test_the_template_records_what_the_framework_consumes(page, tmp_path, recorded):
    rng, seen = np.random.default_rng(0), []
    optimizer = page.Descent({"w": np.ones(100), "b": np.zeros(3)}, rate=0.1)
    with page.attach(optimizer, tmp_path / "r.zarr", k=16, on_error="raise") as log:
        for _ in range(5):
            seen.append({"w": rng.standard_normal(100), "b": rng.standard_normal(3)})
            optimizer.update(seen[-1])
    np.testing.assert_allclose(optimizer.params["w"], 1 - 0.1 * sum(g["w"] for g in seen))
    run = recorded(tmp_path / "r.zarr")
    run.expect(seen)
    np.testing.assert_allclose(run.scalars["lr"], 0.1)
    assert run.header.provenance["optimizer"]["settings"] == {"rate": 0.1}
    assert run.run.info["snapshots"] == [0, 5]
    optimizer.update(seen[0])
    assert log.rows == 5
    assert "update" not in vars(optimizer)


def test_the_template_tells_of_steps_that_it_did_not_see(page, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", GradlogWarning)
        page.attach(page.Descent({"w": np.ones(9)}, rate=0.1), tmp_path / "r.zarr", k=4).close()
    assert any("no call of update() was seen" in str(w.message) for w in told)


def test_a_failure_in_a_hook_ends_the_recording_and_not_the_training(page, tmp_path):
    optimizer = page.Descent({"w": np.ones(9)}, rate=0.1)
    log = page.attach(optimizer, tmp_path / "r.zarr", k=4)
    with pytest.warns(GradlogWarning, match="training goes on"):
        optimizer.update({"w": np.ones(8)[:1]})  # broadcasts in the framework; no shape of this run
    assert not log.active
    np.testing.assert_allclose(optimizer.params["w"], 0.9)
    log.close()


def test_the_recorder_keeps_no_hooks_alive(page, tmp_path):
    optimizer = page.Descent({"w": np.ones(9)}, rate=0.1)
    log = page.attach(optimizer, tmp_path / "r.zarr", k=4)
    optimizer.update({"w": np.ones(9)})
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    log.close()


def test_every_integration_uses_the_interface():
    """Nobody else registers with a recorder."""
    folder = ROOT / "gradlog" / "integrations"
    register = [p.name for p in folder.rglob("*.py") if ".on_close(" in p.read_text()]
    assert register == ["hooks.py"]
    derived = {p.name for p in folder.rglob("*.py") if "(Hooks):" in p.read_text()}
    assert derived == {"capture.py", "keras.py", "optax.py"}
