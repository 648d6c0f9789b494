# One menu of chores; .ci/run calls the same names. Every target says what it does and can be run twice.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo serve test lowest check lock bench zoo docs e2e clean

# $(1): name of the locked set under requirements/
define install
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@if ! cmp -s requirements/$(1).txt $(VENV)/.installed-$(1); then \
	  echo "Installing requirements/$(1).txt"; \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/$(1).txt \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . \
	  && cp requirements/$(1).txt $(VENV)/.installed-$(1); \
	fi
endef

setup:  ## everything a developer needs
	$(call install,test)
	@echo "Ready: $(BIN)/pellucid --help"

demo:  ## black box and SoftCAM on LesionLab, trained, explained, scored, reported
	$(call install,demo)
	$(BIN)/pellucid demo

serve:  ## the demo's networks in the browser, at http://127.0.0.1:8000
	$(call install,test)
	@test -f runs/demo/report.html || $(BIN)/pellucid demo
	$(BIN)/pellucid serve runs/demo --data lesionlab:fundus

test:  ## the tests, without the long studies, in two processes
	$(call install,test)
	$(BIN)/python -m pytest -n 2

lowest:  ## the tests with the oldest libraries that pyproject.toml allows, in an environment of its own
	$(call install,test)
	rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e '.[test]'
	.venv-lowest/bin/python -m pytest -n 2 -W default  # old libraries warn of newer ones

e2e:  ## report and page in a real browser (needs Chromium)
	$(call install,test)
	$(BIN)/python -m pytest -m e2e

check:  ## style, types and tables
	$(call install,test)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock:  ## renew the locked sets from pyproject.toml
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --no-emit-package pellucid pyproject.toml --extra test -o requirements/test.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 --no-emit-package pellucid pyproject.toml --extra train -c requirements/test.txt -o requirements/demo.txt

bench:  ## speed and memory beside the peers, in one run
	$(call install,test)
	$(BIN)/python -m benchmarks

zoo:  ## every classification network of torchvision and timm through convert; hours, goes on where it was stopped
	$(call install,test)
	$(BIN)/python -m benchmarks.zoo

docs:  ## tables in docs/ from the registries
	$(call install,test)
	$(BIN)/python docs/tables.py

clean:
	rm -rf runs dist build $(VENV) .venv-lowest
