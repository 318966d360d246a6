# The front door. CMake does the work; every build lies in build/<preset>. Try `make help`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
CTEST = ctest --output-on-failure --no-tests=error -j $(JOBS)

# Configures a preset and builds one target of it; a broken configuration is started afresh, never half-used.
define build_preset
cmake --preset $(1) --log-level=WARNING $(3) >/dev/null
cmake --build build/$(1) --parallel $(JOBS) --target $(2)
endef

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  Variables: JOBS=$(JOBS) PREFIX=$(PREFIX) FUZZ_SECONDS=$(FUZZ_SECONDS) MODEL=default THREADS=all"

.PHONY: setup
setup: ## install the Debian packages that are missing (tools/install-deps.sh lists them)
	@tools/install-deps.sh

.PHONY: build
build: setup ## build the program, build/release/sala, and the libraries
	@$(call build_preset,release,all)

.PHONY: demo
demo: setup ## build, bring the default model, chat with it and ask about a long text
	@$(call build_preset,release,sala)
	@python3 tools/demo.py build/release/sala

# ---- tests -----------------------------------------------------------------------------------------------------------

.PHONY: test
test: setup ## every check and test that needs no network beyond packages: gcc, clang, sanitizers
	@tools/run-tests.sh

.PHONY: check
check: setup ## the quick part of it: style, floors and the release build's tests
	@tools/run-tests.sh quick

.PHONY: asan
asan: setup ## build with the address and undefined-behaviour sanitizers, run the tests
	@tools/run-tests.sh asan

.PHONY: tsan
tsan: setup ## build with the thread sanitizer, run the tests
	@tools/run-tests.sh tsan

.PHONY: check-arm
check-arm: ## build the NEON kernels with a cross-compiler and check them under qemu-user
	@tools/install-deps.sh --arm64
	@tools/check-arm.sh

.PHONY: fuzz
fuzz: setup ## run every fuzz target for FUZZ_SECONDS (60) with libFuzzer and sanitizers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tools/run-fuzz.sh

.PHONY: parity
parity: setup ## compare with PyTorch, transformers, llama.cpp and friends in a private environment
	@tools/install-deps.sh --parity
	@$(call build_preset,release,sala sala_parts)
	@tests/parity/run.sh

# ---- speed -----------------------------------------------------------------------------------------------------------

.PHONY: bench
bench: setup ## prefill and decode speed of the default model at several depths
	@$(call build_preset,release,sala)
	@build/release/sala pull smollm2
	@build/release/sala bench $(or $(MODEL),smollm2) -p 512 -n 128 -d 0,1024,4096 $(if $(THREADS),-t $(THREADS))

.PHONY: bench-peers
bench-peers: setup ## several models next to llama.cpp, alternating, with ratios and a chart (WORKS=, ROUNDS=, PUBLISH=1)
	@tools/install-deps.sh --parity
	@$(call build_preset,release,sala)
	@bench/peers/run.sh

.PHONY: bench-train
bench-train: setup ## training steps next to PyTorch: speed, memory, share of the peak (WORKS=, ROUNDS=, QUICK=1, PUBLISH=1)
	@tools/install-deps.sh --parity
	@$(call build_preset,release,sala)
	@bench/train/run.sh

.PHONY: bench-depth
bench-depth: setup ## speed and memory from 0 to a million tokens, random weights (12 GB of disk, 24 GB of memory)
	@$(call build_preset,release,sala)
	@bench/depth/run.sh

# ---- the rest --------------------------------------------------------------------------------------------------------

.PHONY: install
install: build ## install under PREFIX (/usr/local): program, libraries, header, man page, completion
	@cmake --install build/release --prefix $(PREFIX)

.PHONY: format
format: ## lay out the sources as .clang-format asks
	@tools/check-format.sh --fix

.PHONY: clean
clean: ## remove build/
	@rm -rf build
