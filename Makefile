# Everything runs in .venv, made on first use; a second call finds the stamp and is quick. The training frameworks have
# a .venv-frameworks of their own, in which `make integrations` tests against the real, current ones.
PYTHON ?= python3
PY := .venv/bin/python
FW := .venv-frameworks/bin/python
RUN ?= sample_logs/tiny_sort_rmsprop.zarr

.NOTPARALLEL:
.PHONY: setup demo test check integrations bench bench-check docs figure paper wheel-check clean

demo: .venv/.base        ; .venv/bin/gradlog analyze $(RUN)
test: .venv/.dev         ; $(PY) -m pytest
check: lint wheel-check
integrations: .venv-frameworks/.done ; $(FW) -m pytest tests/integrations
docs: .venv/.dev         ; $(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
figure: .venv/.base      ; $(PY) examples/readme_figure.py
paper: .venv/.paper
	$(PY) -m examples.paper.table --format markdown --figure docs/img/paper_rows.svg --windows docs/img/paper_windows.svg
	$(PY) -m examples.paper.studies --figure docs/img/paper_studies.svg
bench: .venv/.bench
	$(PY) benchmarks/report.py --quick --write
	$(PY) benchmarks/report.py --write
bench-check: .venv/.bench ; $(PY) benchmarks/report.py --quick --check
setup: .venv/.dev
wheel-check: .venv/.dev  ; .ci/wheel-check $(PY)
clean:                   ; rm -rf .venv .venv-frameworks .wheel-check build docs/_build *.egg-info

.PHONY: lint
lint: .venv/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

.venv/pyvenv.cfg:        ; $(PYTHON) -m venv .venv
.venv/.base: pyproject.toml | .venv/pyvenv.cfg ; $(PY) -m pip install -q -e . && touch $@
.venv/.dev: pyproject.toml | .venv/pyvenv.cfg  ; $(PY) -m pip install -q -e '.[test,dev,docs]' && touch .venv/.base $@

.venv-frameworks/pyvenv.cfg: ; $(PYTHON) -m venv .venv-frameworks
.venv-frameworks/.done: pyproject.toml | .venv-frameworks/pyvenv.cfg
	$(FW) -m pip install -q -e '.[test,transformers,lightning,optax,keras]' && touch $@
.venv/.bench: .venv/.dev                       ; $(PY) -m pip install -q -e '.[test,fast,bench]' && touch $@
.venv/.paper: .venv/.dev                       ; $(PY) -m pip install -q -e '.[test,transformers,examples]' && touch $@
