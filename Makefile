# Everything runs in .venv, made on first use; a second call finds the stamp and is quick. The training frameworks have
# a .venv-frameworks of their own, in which `make integrations` tests against the real, current ones, Triton among them.
PYTHON ?= python3
PY := .venv/bin/python
FW := .venv-frameworks/bin/python
PIP := -m pip install -q --disable-pip-version-check
# One worker for each core, at most eight; a worker that runs dry takes tests from another. More options: make test OPTIONS=-x
PARALLEL := -n logical --maxprocesses 8 --dist worksteal
OPTIONS ?=
# What `make test-fast` leaves out besides: servers, browsers, other processes, whole reports, many runs.
LONGER := stories golden_outputs analysis/report analysis/caching analysis/comparison analysis/following/test_watch.py \
  analysis/streaming/test_interrupts.py analysis/results/test_light.py analysis/measures/test_degenerate.py \
  analysis/spectrum/test_rounded_certificates.py storage/test_sink.py storage/test_snapshots.py cli/test_watch.py cli/test_site.py
RUN ?= sample_logs/tiny_sort_rmsprop.zarr

.NOTPARALLEL:
.PHONY: setup demo test test-fast check integrations bench bench-check calibrate docs figure paper wheel-check clean

demo: .venv/.base        ; .venv/bin/gradlog analyze $(RUN)
test: .venv/.dev         ; $(PY) -m pytest $(PARALLEL) $(OPTIONS)
test-fast: .venv/.dev    ; $(PY) -m pytest $(PARALLEL) -m "not slow" $(LONGER:%=--ignore=tests/%) $(OPTIONS)
check: lint wheel-check
integrations: .venv-frameworks/.done ; $(FW) -m pytest $(PARALLEL) $(OPTIONS) tests/integrations tests/test_paper.py
docs: .venv/.dev         ; $(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
figure: .venv/.base      ; $(PY) examples/readme_figure.py
paper: .venv/.paper
	$(PY) -m examples.paper.table --format markdown --figure docs/img/paper_rows.svg --windows docs/img/paper_windows.svg
	$(PY) -m examples.paper.studies --figure docs/img/paper_studies.svg
bench: .venv/.bench
	$(PY) benchmarks/report.py --quick --write
	$(PY) benchmarks/report.py --write
calibrate: .venv/.dev     ; $(PY) benchmarks/calibrate.py --write
bench-check: .venv/.bench ; $(PY) benchmarks/report.py --quick --check
setup: .venv/.dev
wheel-check: .venv/.dev  ; .ci/wheel-check $(PY)
clean:                   ; rm -rf .venv .venv-* .wheel-check build docs/_build *.egg-info

.PHONY: lint
lint: .venv/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) .ci/prose

.venv/pyvenv.cfg:        ; $(PYTHON) -m venv .venv
.venv/.base: pyproject.toml | .venv/pyvenv.cfg ; .ci/quietly $(PY) $(PIP) -e . && touch $@
.venv/.dev: pyproject.toml | .venv/pyvenv.cfg  ; .ci/quietly $(PY) $(PIP) -e '.[test,dev,docs]' && touch .venv/.base $@

.venv-frameworks/pyvenv.cfg: ; $(PYTHON) -m venv .venv-frameworks
.venv-frameworks/.done: pyproject.toml | .venv-frameworks/pyvenv.cfg
	.ci/quietly $(FW) $(PIP) -e '.[test,transformers,lightning,optax,flax,keras,trackers]' \
		'triton>=3.4; sys_platform == "linux"' && touch $@
.venv/.bench: .venv/.dev                       ; .ci/quietly $(PY) $(PIP) -e '.[test,fast,bench]' && touch $@
.venv/.paper: .venv/.dev                       ; .ci/quietly $(PY) $(PIP) -e '.[test,transformers,examples]' && touch $@
