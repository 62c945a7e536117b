# Every target does all of its own set-up, in a virtual environment of the project's.
PYTHON ?= python3
# Another release of torch than the pinned one, such as a smaller one: see the README.
TORCH ?=
BIN := .venv/bin
SCENARIO ?= scenarios/realworldqa_lowrate.yaml
# More arguments for pytest.
ARGS ?=
CODECS ?= mini-onevision/lambda-0.03 mini-onevision/lambda-0.1 mini-onevision/lambda-0.3 mini-onevision/lambda-1.0 \
	mini-llava15/lambda-0.1 mini-llava15/lambda-0.5
# Wheels that hold the photographs which the image codecs are trained on.
PHOTOGRAPHS := scikit-image==0.26.0 scikit-learn==1.9.1
# What the nightly times its commit against (without it, the last night's of another commit), and on which scenario.
AGAINST ?=
TIMED ?= scenarios/smoke.yaml
# Put a complete training of build/weights in the zoo, in the place of the one that is there.
bundle = rm -rf harness/zoo/tofc/$(1) && mkdir -p harness/zoo/tofc/$(1) && cp -R build/weights/$(1)/. harness/zoo/tofc/$(1) \
	&& rm -f harness/zoo/tofc/$(1)/log.jsonl

.DEFAULT_GOAL := help
.PHONY: help run test test-fast coverage lint docs bench wheels weights nightly clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	sed -e '' $(if $(TORCH),-e 's/^torch==.*/torch==$(TORCH)/' -e '/^torchvision==/d') constraints.txt > .venv/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[test]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[dev]'
	@touch $@

run: .venv/installed  ## Run the main job (SCENARIO=...) to its table and figures
	$(BIN)/harness run $(SCENARIO)
	$(BIN)/harness plot results/runs/$(notdir $(basename $(SCENARIO)))

test: .venv/installed  ## Run the tests, or some of them (ARGS="tests/tofc -k rans")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

test-fast: .venv/installed  ## Run the tests except the slow ones, in a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow" $(ARGS)

coverage: .venv/installed-dev  ## Run the tests and print the share of lines that they run
	OMP_NUM_THREADS=1 COVERAGE_CORE=sysmon $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

lint: .venv/installed-dev  ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev  ## Build the API pages from the docstrings, in build/api
	# An import of NumPy asks lscpu what the processor is. Types that are imported only for type checkers stay as written.
	PDOC_ALLOW_EXEC=1 $(BIN)/python -W error::UserWarning -W 'ignore:Error parsing type annotation:UserWarning' \
		-W 'ignore:Failed to run TYPE_CHECKING code:UserWarning' -m pdoc --docformat restructuredtext --output-directory build/api harness baselines

bench: .venv/installed-dev  ## Print how fast things are, each beside its peer
	@for file in benchmarks/bench_*.py; do echo "== $$file"; case $$file in *calibration*) form=--quick;; *) form=;; esac; \
		$(BIN)/python -m $$(echo $${file%.py} | tr / .) $$form || exit 1; done

wheels: .venv/installed  ## Check the package index for a wheel of every package, on each machine and Python
	$(BIN)/python -m tools.wheels --extra test

weights: .venv/installed  ## Make every file of the zoo again, from seeds
	$(BIN)/python -m recipes.mini_onevision
	$(BIN)/python -m recipes.mini_nano
	$(BIN)/python -m recipes.mini_llava15
	@for codec in $(CODECS); do backbone=$${codec%%/*}; \
		$(BIN)/harness train training/$$(echo $$backbone | tr - _).yaml --set lambda=$${codec##*-} \
		--set out=build/weights/$$codec && $(call bundle,$$codec) || exit 1; done
	$(BIN)/harness train training/mini_onevision.yaml --stage merging --set 'clusters=[6]' --set held_out=96 \
		--set out=build/weights/mini-onevision/merging
	$(call bundle,mini-onevision/merging)
	$(BIN)/harness train training/mini_llava15.yaml --stage merging --set 'clusters=[36]' --set held_out=96 \
		--set out=build/weights/mini-llava15/merging
	$(call bundle,mini-llava15/merging)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--dest build/photographs $(PHOTOGRAPHS)
	$(BIN)/python -m recipes.image_codecs
	$(BIN)/python -m recipes.ablations

nightly: .venv/installed  ## Run the scenarios that have a reference, compare with it and (AGAINST=...) in time
	$(BIN)/python -m tools.nightly run --timed $(TIMED) $(if $(AGAINST),--against '$(AGAINST)')

clean:  ## Remove the virtual environment and caches (results stay)
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
