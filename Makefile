# Every target does all of its own set-up, in a virtual environment of the project's.
PYTHON ?= python3
# Another release of torch than the pinned one, such as a smaller one: see the README.
TORCH ?=
BIN := .venv/bin
# Tests and workers are hundreds of processes, and each would compile the whole harness anew.
unexport PYTHONDONTWRITEBYTECODE
SCENARIO ?= scenarios/realworldqa_lowrate.yaml
# More arguments for pytest.
ARGS ?=
# Test processes: one more than the cores of a machine of two, since some tests wait.
PROCESSES ?= 3
CODECS ?= mini-onevision/lambda-0.03 mini-onevision/lambda-0.1 mini-onevision/lambda-0.3 mini-onevision/lambda-1.0 \
	mini-llava15/lambda-0.1 mini-llava15/lambda-0.5
# Wheels that hold the photographs which the image codecs are trained on.
PHOTOGRAPHS := scikit-image==0.26.0 scikit-learn==1.9.1
# What the nightly times its commit against (without it, the last night's of another commit), and on which scenario.
AGAINST ?=
TIMED ?= scenarios/smoke.yaml
# At most so many steps of each training: for `weights-trial`.
STEPS ?=
few = $(if $(STEPS),--steps $(STEPS))
few-of-all = $(if $(STEPS),--set steps=$(STEPS))
few-of-both = $(few-of-all) $(if $(STEPS),--set prefit.steps=$(STEPS) --set prefit.pictures=24)
train = $(BIN)/python -m harness train training
# n_c of the training that tunes a backbone for merging.
merged-to-mini-onevision := 6
merged-to-mini-llava15 := 36
# Replace a codec of the zoo by the complete training in build/weights.
bundle = rm -rf harness/zoo/tofc/$(1) && mkdir -p harness/zoo/tofc/$(1) && cp -R build/weights/$(1)/. harness/zoo/tofc/$(1) \
	&& rm -f harness/zoo/tofc/$(1)/log.jsonl

.DEFAULT_GOAL := help
.PHONY: help run test test-fast coverage lint docs bench wheels weights weights-trial nightly clean \
	weights-mini-onevision weights-mini-nano weights-mini-llava15 weights-tofc-mini-onevision weights-tofc-mini-llava15 \
	weights-image-codecs weights-ablations

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	sed -e '' $(if $(TORCH),-e 's/^torch==.*/torch==$(TORCH)/' -e '/^torchvision==/d') constraints.txt > .venv/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[test]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .venv/constraints.txt --editable '.[dev]'
	@touch $@

run: .venv/installed  ## Run the main scenario (or SCENARIO=...), print its table and draw its figures
	$(BIN)/harness run $(SCENARIO)
	$(BIN)/harness plot results/runs/$(notdir $(basename $(SCENARIO)))

test: .venv/installed  ## Run the tests, or some of them (ARGS="tests/tofc -k rans")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS)

test-fast: .venv/installed  ## Run the tests except the slow ones, in about a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal -m "not slow" $(ARGS)

coverage: .venv/installed-dev  ## Run the tests and print the share of lines that they run
	OMP_NUM_THREADS=1 COVERAGE_CORE=sysmon $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

lint: .venv/installed-dev  ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed-dev  ## Build the API pages from the docstrings, in build/api
	# An import of NumPy asks lscpu what the processor is. Types that are imported only for type checkers stay as written.
	PDOC_ALLOW_EXEC=1 $(BIN)/python -W error::UserWarning -W 'ignore:Error parsing type annotation:UserWarning' \
		-W 'ignore:Failed to run TYPE_CHECKING code:UserWarning' -m pdoc --docformat restructuredtext --output-directory build/api harness baselines

bench: .venv/installed-dev  ## Run the benchmarks, each beside a peer
	@for file in benchmarks/bench_*.py; do echo "== $$file"; case $$file in *calibration*) form=--quick;; *) form=;; esac; \
		$(BIN)/python -m $$(echo $${file%.py} | tr / .) $$form || exit 1; done

wheels: .venv/installed  ## Check the package index for a wheel of every package, on each machine and Python
	$(BIN)/python -m tools.wheels --extra test

weights: weights-mini-nano weights-tofc-mini-onevision weights-tofc-mini-llava15 weights-image-codecs weights-ablations  ## Make all trained weights from seeds (-j2: on two cores)

weights-mini-onevision: .venv/installed
	$(BIN)/python -m recipes.mini_onevision $(few)

weights-mini-nano weights-mini-llava15: weights-%: weights-mini-onevision
	$(BIN)/python -m recipes.$(subst -,_,$*) $(few)

weights-tofc-mini-onevision weights-tofc-mini-llava15: weights-tofc-%: weights-%
	@for codec in $(filter $*/%,$(CODECS)); do \
		$(train)/$(subst -,_,$*).yaml --set lambda=$${codec##*-} --set out=build/weights/$$codec $(few-of-both) \
		&& $(call bundle,$$codec) || exit 1; done
	$(train)/$(subst -,_,$*).yaml --stage merging --set 'clusters=[$(merged-to-$*)]' --set held_out=96 \
		--set out=build/weights/$*/merging $(few-of-all)
	$(call bundle,$*/merging)

weights-image-codecs: .venv/installed
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--dest build/photographs $(PHOTOGRAPHS)
	$(BIN)/python -m recipes.image_codecs $(few)

weights-ablations: weights-mini-onevision
	$(BIN)/python -m recipes.ablations $(few) $(if $(STEPS),--pictures 48)

# A copy: what few steps make must not replace the zoo.
weights-trial: .venv/installed  ## Run every command of weights in build/trial, with two steps of each training
	rm -rf build/trial && mkdir -p build/trial/.venv
	cp -R Makefile pyproject.toml constraints.txt harness baselines recipes training build/trial
	touch build/trial/.venv/installed
	$(MAKE) -C build/trial weights STEPS=2 BIN=$(abspath $(BIN))

nightly: .venv/installed  ## Run the reference scenarios, compare with the reference runs and (AGAINST=COMMIT) in time
	$(BIN)/python -m tools.nightly run --timed $(TIMED) $(if $(AGAINST),--against '$(AGAINST)')

clean:  ## Remove the virtual environment and caches (results stay)
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
