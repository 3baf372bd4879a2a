# onelook's two commands: `make demo` and `make test`. Both make their own environment first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCE ?=
BROKER ?=
UV     := $(VENV)/bin/uv
# What a variable holds as one word for the shell: neither it nor make takes a $ in a password for its own.
as-it-is = '$(subst ','\'',$(value $(1)))'

.PHONY: help demo test test-training golden bench lint lock wheel clean
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/demo.done  ## see it work; SOURCE=rtsp://...|/dev/video0|file.mp4|picture.jpg for your own
	@PYTHONPATH="$(CURDIR)/daemon" $(BIN)/python -m onelook demo \
		$(if $(value BROKER),--broker $(call as-it-is,BROKER)) $(if $(value SOURCE),$(call as-it-is,SOURCE))

test: $(VENV)/test.done lint  ## everything: linters, types, layers, tests
	@sh deploy/system-packages.sh
	@echo "Running the tests (a few minutes)..."
	@$(BIN)/python -m pytest -q

golden: $(VENV)/test.done  ## write the golden replay anew, after a new network; read its diff
	@$(BIN)/python -m pytest -q tests/test_replay.py -k golden --golden
	@git --no-pager diff --stat -- tests/golden

bench: $(VENV)/bench.done  ## the quick benchmarks, in minutes; BENCH="--full" and more, see benchmarks/README.md
	@PYTHONPATH="$(CURDIR)/daemon:$(CURDIR)" $(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/test.done  ## style, types and layers
	@echo "Checking style, types and layers..."
	@$(BIN)/ruff check -q daemon tests edge_models benchmarks
	@PYTHONPATH="$(CURDIR)/daemon" $(BIN)/mypy
	@PYTHONPATH="$(CURDIR)/daemon" $(BIN)/lint-imports --no-cache > $(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; }

test-training: $(VENV)/training.done  ## the training code end to end on two portraits (installs torch)
	@PYTHONPATH="$(CURDIR)/daemon:$(CURDIR)" $(VENV)/training/bin/python -m pytest -q -p no:anyio tests/test_training.py

$(VENV)/training.done: $(VENV)/test.done requirements/training.txt
	@echo "Installing what training needs into $(VENV)/training (some minutes)..."
	@$(PYTHON) -m venv $(VENV)/training
	@$(VENV)/training/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/training.txt
	@$(VENV)/training/bin/python -m pip install --quiet --disable-pip-version-check . pytest pytest-timeout
	@touch $@

$(VENV)/%.done: requirements/%.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1). If there is another: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing what '$*' needs into $(VENV), as locked in $< (a minute or two)..."
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@# The command, of this tree as it is: no build, and no build tool from the network.
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s" -m onelook "$$@"\n' "$(CURDIR)/daemon" "$(CURDIR)/$(BIN)/python" > $(BIN)/onelook
	@chmod +x $(BIN)/onelook
	@# And its packages for `.venv/bin/python -m benchmarks...`, from wherever it is called.
	@printf '%s\n' "$(CURDIR)/daemon" "$(CURDIR)" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/onelook.pth"
	@touch $@

COMPILE = $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command "make lock"
lock:  ## find the newest versions of all that we need, and write them down with their hashes
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements/runtime.lock
	$(COMPILE) pyproject.toml --extra demo -o requirements/demo.lock
	$(COMPILE) pyproject.toml --extra demo --extra test -o requirements/test.lock
	$(COMPILE) pyproject.toml --extra demo --extra bench -o requirements/bench.lock
	echo hatchling | $(COMPILE) - -o requirements/build.lock
	@# A pip of 2022, as Ubuntu 22.04 has it, sees no full version in 3.11.0rc1, its Python beside its own.
	sed -i 's/python_full_version/python_version/' requirements/*.lock

wheel:  ## build the wheel, with the model inside
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove what was made here
	rm -rf $(VENV) dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
