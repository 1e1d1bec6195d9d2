# On a fresh machine: `make demo` runs the main job on simulated phones, `make test` the tests,
# `make bench` measures what waiting costs, `make up` brings up all that an evening with the UI
# takes, until `make down`, `make e2e` looks at the flows in a real browser.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo up down test e2e soak bench check clean

demo: .venv/.installed
	@$(BIN)/prefect-tikmatrix demo

up down: .venv/.installed
	@$(BIN)/prefect-tikmatrix $@

# Most tests wait for processes to start, so more of them run side by side than there are cores. Those
# that kill processes and count the seconds until others have noticed have the machine to themselves.
test: .venv/.installed
	$(BIN)/python -m pytest -n 4 --dist loadfile --ignore tests/test_real_crashes.py
	$(BIN)/python -m pytest tests/test_real_crashes.py

# Takes a Chromium of this machine, and takes the pictures in docs/images again.
e2e: .venv/.e2e-installed
	$(BIN)/python -m pytest tests/e2e

# As many simulated evenings as one likes: make soak SCHEDULES=100000 FIRST=5000
soak: .venv/.installed
	SCHEDULES=$(or $(SCHEDULES),20000) FIRST=$(or $(FIRST),0) $(BIN)/python -m pytest tests/simulation -k holds

# About ten minutes; a small one: make bench QUICK=1
bench: .venv/.bench-installed
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

check: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

# The versions in constraints.txt were tested together; newer ones may not work (see pyproject.toml).
.venv/.installed: pyproject.toml constraints.txt
	@echo "Setting up .venv (once, about a minute) ..."
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'Python 3.10 or newer is needed; name it with PYTHON=...')"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/.bench-installed .venv/.e2e-installed: .venv/.%-installed: .venv/.installed
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@
