.PHONY: help setup demo test test-oldest lint parity parity-table reference gate gate-record \
	bench bench-setup bench-report clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
PARITY := .venv-parity/bin/python
TPU := .venv-tpu/bin/python

help: ## Shows the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: ## Makes .venv with the newest Python >= 3.11 and installs flaxfer.
	@tools/setup.sh .venv demo

demo: setup ## Runs the main job on the embedded data and says where the report lies.
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) -m flaxfer.main --config configs/sts_xling.py

test: ## All fast tests.
	@tools/setup.sh .venv test
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile

test-oldest: ## The same tests on Python 3.11, the oldest supported.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m flaxfer.demo.weights
	@$(PARITY) -m pytest -q -n 2 --dist loadfile

lint: ## Style and types, of Python and of shell scripts.
	@tools/setup.sh .venv test
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/shellcheck -x launch/*.sh tools/*.sh .ci/run

parity: ## Compares with PyTorch, on Python 3.11: committed reference values, then live.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m tests.parity.generate --check
	@$(PARITY) -m pytest -q -m parity tests

parity-table: ## Prints the largest differences from PyTorch, by family and quantity.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m tests.parity.table

reference: ## Writes the committed reference values anew.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m tests.parity.generate

bench-setup: ## Makes the three environments of the benchmarks.
	@tools/bench_setup.sh

bench: ## Times flaxfer beside its peers: DATA=FOLDER [XLMR=FOLDER] [ONLY=NAME] [ROUNDS=5].
	@$(PYTHON) -m benchmarks.run $(if $(DATA),--data "$(DATA)") $(if $(XLMR),--xlmr "$(XLMR)") \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

bench-report: ## Writes BENCHMARKS.md from the stored runs.
	@$(PYTHON) -m benchmarks.report

gate: ## Compiles steps for a TPU, without one, and compares with the record.
	@tools/setup.sh .venv-tpu test,tpu 3.12
	@$(TPU) -m pytest -q -n 2 -m gate tests/aot

gate-record: ## Writes the record of the gate anew.
	@tools/setup.sh .venv-tpu test,tpu 3.12
	@$(TPU) -m tests.aot.measure

clean: ## Removes environments, caches in this folder and runs.
	rm -rf .venv .venv-parity .venv-tpu .venv-bench-torch .venv-bench-flax \
		runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
