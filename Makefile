# Everything runs in .venv, made on first use; a second call finds the stamp and is quick.
PYTHON ?= python3
PY := .venv/bin/python
RUN ?= sample_logs/tiny_sort_rmsprop.zarr

.NOTPARALLEL:
.PHONY: setup demo test check bench docs wheel-check clean

demo: .venv/.base        ; .venv/bin/gradlog analyze $(RUN)
test: .venv/.dev         ; $(PY) -m pytest
check: lint wheel-check
bench: .venv/.dev        ; $(PY) benchmarks/report.py
docs: .venv/.base        ; $(PY) examples/readme_figure.py
setup: .venv/.dev
wheel-check: .venv/.dev  ; .ci/wheel-check $(PY)
clean:                   ; rm -rf .venv .wheel-check build *.egg-info

.PHONY: lint
lint: .venv/.dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

.venv/pyvenv.cfg:        ; $(PYTHON) -m venv .venv
.venv/.base: pyproject.toml | .venv/pyvenv.cfg ; $(PY) -m pip install -q -e . && touch $@
.venv/.dev: pyproject.toml | .venv/pyvenv.cfg  ; $(PY) -m pip install -q -e '.[test,dev]' && touch .venv/.base $@
