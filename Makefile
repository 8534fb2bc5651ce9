.PHONY: help setup demo test test-all test-oldest lint package docs parity parity-table \
	reference gate gate-record bench bench-setup bench-report gpu-check clean
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
PARITY := .venv-parity/bin/python
TPU := .venv-tpu/bin/python
# Each file is run by one worker, in the order of tests/conftest.py.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
# The optimization level of users; tests compile without optimization otherwise.
OPTIMIZED := XLA_FLAGS="--xla_backend_optimization_level=3 $(XLA_FLAGS)"

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: ## Create .venv with the newest Python (3.11 or later) and install flaxfer.
	@tools/setup.sh .venv demo

demo: setup ## Run the main job on the embedded data and print the path of its report.
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) -m flaxfer run --config configs/sts_xling.py

test: ## Run the fast tests, which cover every module.
	@tools/setup.sh .venv test
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) -m pytest -q $(WORKERS)

test-all: ## Run the fast and the slow tests.
	@tools/setup.sh .venv test
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) -m pytest -q $(WORKERS) --durations 15 -m "not parity and not gate"

# Differences of Python itself are found by ruff and mypy, and models are compared by `make parity`.
# What depends on the versions of JAX, Flax, Orbax, NumPy and SciPy is left.
OLDEST := $(addprefix tests/,aot e2e evaluation interop runtime statistics tasks $(addprefix \
	training/test_,checkpoints.py loop.py optimizer.py programs.py seeds.py step.py steps.py))

test-oldest: ## Run the fast tests that depend on numerical libraries on Python 3.11, the oldest supported version.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m flaxfer.demo.weights
	@$(PARITY) -m pytest -q $(WORKERS) $(OLDEST)

package: ## Build the sdist and the wheel into dist/, and try the wheel in a fresh environment.
	@tools/setup.sh .venv test
	@$(PYTHON) -m flaxfer.demo.weights
	@$(PYTHON) tools/package.py

docs: ## Build the documentation into build/docs, from docs/ and docstrings.
	@tools/setup.sh .venv test
	@$(PYTHON) -m sphinx -q -W --keep-going -d build/doctrees docs build/docs

lint: ## Check style and types, of Python and of shell scripts.
	@tools/setup.sh .venv test
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/shellcheck -x launch/*.sh tools/*.sh .ci/run

# Only the files with such tests are imported.
parity: ## Compare with PyTorch on Python 3.11: live, and with the committed reference values.
	@tools/setup.sh .venv-parity parity 3.11
	@$(OPTIMIZED) $(PARITY) -m pytest -q -n 2 --dist worksteal -m parity \
		$$(grep -rl --include="test_*.py" "mark.parity" tests)

parity-table: ## Print the largest differences from PyTorch by family and quantity.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m tests.parity.table

reference: ## Regenerate the committed reference values.
	@tools/setup.sh .venv-parity parity 3.11
	@$(PARITY) -m tests.parity.generate

bench-setup: ## Create the three environments of the benchmarks.
	@tools/bench_setup.sh

bench: ## Time flaxfer beside its peers: DATA=FOLDER [XLMR=FOLDER] [ONLY=NAMES] [ROUNDS=5], or TINY=1.
	@$(PYTHON) -m benchmarks.run $(if $(DATA),--data "$(DATA)") $(if $(XLMR),--xlmr "$(XLMR)") \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(PEERS),--peers $(PEERS)) $(if $(RESULT_ROUNDS),--result_rounds $(RESULT_ROUNDS)) \
		$(if $(EXAMPLES),--examples $(EXAMPLES)) $(if $(TINY),--tiny)

bench-report: ## Write BENCHMARKS.md from the stored runs.
	@$(PYTHON) -m benchmarks.report

gpu-check: ## Check values and speed on a GPU: [PYTHON=python3] [WHEELS=FOLDER] [OUT=FOLDER] [ONLY=PART] [TINY=1].
	@$(PYTHON) -m benchmarks.gpu_check --out "$(or $(OUT),runs/gpu-check)" \
		$(if $(WHEELS),--wheels "$(WHEELS)") $(if $(ONLY),--only $(ONLY)) $(if $(TINY),--tiny)

gate: ## Compile steps for a TPU, without one, and compare with the record.
	@tools/setup.sh .venv-tpu test,tpu 3.12
	@FLAXFER_TEST_PROGRAMS= $(TPU) -m pytest -q -n 2 -m gate tests/aot

gate-record: ## Regenerate the record of the gate.
	@tools/setup.sh .venv-tpu test,tpu 3.12
	@$(TPU) -m tests.aot.measure

clean: ## Remove environments, caches in this folder and runs.
	rm -rf .venv .venv-parity .venv-tpu .venv-bench-torch .venv-bench-flax \
		runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
