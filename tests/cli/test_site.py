"""The site builds without a warning and asks the network for nothing; every command and block of its pages runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlog
from tests.helpers import stores

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RESOURCE = re.compile(r"""(?:src|srcset|data)=["'](?:https?:)?//|<link[^>]*href=["'](?:https?:)?//|url\(["']?https?:""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx", reason="the site needs the extra 'docs'")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.slow
def test_the_site_holds_every_page_and_no_placeholder(site):
    for page in DOCS.glob("*.md"):
        text = (site / f"{page.stem}.html").read_text()
        assert "@@" not in text
        assert f"{page.stem}.html" in (site / "index.html").read_text() or page.stem == "index"


@pytest.mark.slow
def test_the_site_fetches_nothing(site):
    assert RESOURCE.search('<script src="https://cdn.example/x.js">')
    for page in [*site.glob("*.html"), *site.glob("_static/**/*.css")]:
        assert not RESOURCE.search(page.read_text()), page.name


@pytest.mark.slow
def test_the_command_reference_lists_every_option(site):
    from gradlog.cli.app import gradlog as command

    text = (site / "cli.html").read_text()
    for name, verb in command.commands.items():
        assert f"gradlog {name}" in text
        for option in verb.params:
            if getattr(option, "hidden", False):
                continue
            for form in set(option.opts) - set(getattr(option, "former", ())):
                assert not form.startswith("--") or form in text, (name, form)


def walk(path, seed):
    """Record a short run as the how-to pages presuppose it."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    with gradlog.open(path, k=16, on_error="raise") as log:
        for _ in range(120):
            log.step({"w": rng.standard_normal(200)}, loss=1.0, lr=0.1, batch_size=32)


def run_page(name, call):
    """Run the Python blocks and ``$ gradlog`` lines of a page in order."""
    blocks = re.findall(r"```(python|console)\n(.*?)```", (DOCS / f"{name}.md").read_text(), re.DOTALL)
    space: dict[str, object] = {}
    lines = 0
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, name, "exec"), space)
            continue
        for line in re.findall(r"^\$ gradlog (.*)$", text, re.MULTILINE):
            shown = call(*shlex.split(line))
            assert shown.code == 0, (line, shown.err)
            lines += 1
    return lines


def test_the_tutorial_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page("tutorial", call) == 8
    made = {p.name for p in tmp_path.iterdir()}
    assert made == {"small-batch.zarr", "large-batch.zarr", "result.nc", "figure.svg", "report.html", "small-batch.csv"}


def test_the_tutorial_says_what_the_numbers_say(tmp_path, monkeypatch):
    """With the large batch, ``last`` lies far below its shuffled value; with the small one, much nearer."""
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL).group(1)
    exec(compile(block, "tutorial", "exec"), {})
    from gradlog.analysis import analyze

    gains = [float(analyze(f"{n}-batch.zarr")["gain"].sel(predictor="last")) for n in ("small", "large")]
    assert gains[1] > 0.6 > gains[0] > 0.02


def test_the_howto_on_reports_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("adamw", "sgd", "again")):
        walk(tmp_path / "runs" / f"{name}.zarr", seed)
    stores.write_run(tmp_path / "bare.zarr", np.random.default_rng(0).standard_normal((40, 2, 8)))
    history = "".join(f"{step},{3 - step / 40},0.1\n" for step in range(40))
    (tmp_path / "history.csv").write_text(f"step,train/loss,lr\n{history}")
    assert run_page("howto-report", call) == 16
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_on_what_to_do_next_runs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("run", "half-rate")):
        walk(tmp_path / f"{name}.zarr", seed)
    assert run_page("what-next", call) == 11
    assert (tmp_path / "report.html").exists()


def test_the_page_on_directions_says_what_its_code_prints(call, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run_page("directions", call)
    cosine, low, high = map(float, capsys.readouterr().out.split())
    assert cosine == low == high == 0.75  # the gradients themselves were logged
    assert "has cosine 0.75 with" in (DOCS / "directions.md").read_text()


def test_the_anatomy_of_a_spike_is_as_the_page_says(call, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from gradlog.analysis import find_events, open_run

    monkeypatch.chdir(tmp_path)
    assert run_page("anatomy-of-a-spike", call) == 3
    first, second, third = find_events(open_run("spikes.zarr")).found
    assert [(e.first_step, e.kind) for e in (first, second, third)] == [
        (150, "one batch"), (250, "one batch"), (350, "learning rate"),
    ]  # fmt: skip
    assert max(first.shares, key=first.shares.get) == "0"
    assert (first.direction.like, second.direction.like) == (1, 0)
    assert first.direction.cosine[1] > 0.05 > abs(first.direction.mean[0])
    loss = open_run("spikes.zarr").scalar_columns["loss"]
    assert loss[351] > 4 * loss[350]


@pytest.mark.slow
def test_the_page_on_batch_sizes_says_what_its_runs_show(call, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from gradlog.analysis import analyze, to_json
    from gradlog.analysis.results.findings import findings

    monkeypatch.chdir(tmp_path)
    assert run_page("choosing-a-batch-size", call) == 2
    assert (tmp_path / "batches.html").read_text().count('aria-label="Noise scale by window of steps') == 3
    found = [analyze(f"batch-{size}.zarr", window=100) for size in (16, 64, 256)]
    shares = [float(ds["signal_share"]) for ds in found]
    assert shares == sorted(shares)
    assert shares[0] < 0.1 < 0.3 < shares[2]
    ends = [(float(ds["noise_scale_low"]), float(ds["noise_scale_high"])) for ds in found]
    assert max(low for low, _ in ends) < min(high for _, high in ends)  # the three agree
    windows = found[2]["window_noise_scale"].values
    assert 80 < windows[0] < 200 < windows[1]
    said = " ".join(f.text for f in findings(to_json(found[2])))
    assert "The batch of 256 lies below the noise scale" in said
    assert "It lies above that of 2." in said


def test_the_howto_on_seeds_runs(call, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert run_page("howto-seeds", call) == 3
    assert (tmp_path / "seeds.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_example_on_seeds_runs(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, str(ROOT / "examples" / "seeds.py"), "--seeds", "2", "--steps", "30"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "adamw - momentum, last:" in done.stdout
    assert len(list((tmp_path / "runs" / "seeds").iterdir())) == 4


def test_links_between_pages_lead_somewhere():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (DOCS / target).exists(), (page.name, target)
