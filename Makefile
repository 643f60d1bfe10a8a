# Everything a new machine needs: `make demo` (deps, build, a run on the CPU) or `make test` (deps, build, all tests).
# Each step says what it does and does nothing when nothing changed.
SHELL := /bin/bash
BUILD ?= build
JOBS  ?= $(shell nproc)
VENV  := build/venv
BIN   := $(BUILD)/bin
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# Waiting OpenMP threads sleep instead of spinning: on a busy machine small models are ten times faster so.
export OMP_WAIT_POLICY ?= passive

.PHONY: amnesia-base all build deps configure demo test test-asan fuzz bench package gpu-bundle format clean help

all: build

help:
	@echo "make demo        install what is missing, build, run examples/amnesia on the CPU"
	@echo "make amnesia-base  the base model of examples/amnesia from nothing, on a GPU"
	@echo "make test        install what is missing, build, run every test"
	@echo "make test-asan   the rooms' tests on the CPU under AddressSanitizer and UBSan, in build-asan"
	@echo "make fuzz        mutated inputs for every reader of files, in build-asan; FUZZ_RUNS=200000 of each, FUZZ_SEED=1, FUZZ='config report'"
	@echo "make build       sft-train, niah-probe, qk-restore, libqk_restore_ops.so in $(BUILD)/; pip install . packs them"
	@echo "make bench       our operators against their peers, on the GPU if there is one; BENCH='--benchmark_filter=polar'"
	@echo "make package     a .deb and a .tar.gz of programs, libraries, headers and the CMake package, in $(BUILD)/package"
	@echo "make gpu-bundle  binaries and fixtures for a GPU machine, in $(BUILD)/gpu-bundle"
	@echo "make format      clang-format on what is ours"

deps: $(VENV)/.ready

# The stamp depends on what the script installs, so a changed list is installed again.
$(VENV)/.ready: scripts/deps.sh
	@scripts/deps.sh $(VENV)
	@touch $@

configure: $(BUILD)/build.ninja

$(BUILD)/build.ninja: $(VENV)/.ready scripts/configure.sh
	@scripts/configure.sh $(BUILD)

build: configure
	@echo "== building into $(BUILD)/ ($(JOBS) jobs)"
	@ninja -C $(BUILD) -j $(JOBS) sft-train niah-probe qk-restore qk_restore_ops qk_restore_binding

demo: build
	@scripts/demo.sh $(BIN)

# The weights in examples/amnesia/model again, on one GPU in two minutes: the result is runs/amnesia-base-2/model.
amnesia-base: build
	@mkdir -p build/amnesia
	@python3 examples/amnesia/make.py --corpus build/amnesia/short.jsonl 40000 --lengths 40 450 --seed 11
	@python3 examples/amnesia/make.py --corpus build/amnesia/long.jsonl 40000 --lengths 60 900 --seed 12
	@$(BIN)/sft-train --config examples/amnesia/base-1.yaml
	@$(BIN)/sft-train --config examples/amnesia/base-2.yaml

test: configure
	@echo "== building programs and tests into $(BUILD)/ ($(JOBS) jobs)"
	@ninja -C $(BUILD) -j $(JOBS)
	@echo "== running the tests"
	@ctest --test-dir $(BUILD) --output-on-failure

# Not e2e and bench: they run the programs, whose parts are tested here. Leaks are not looked for: Torch's tables never go.
# Not hooks: built like this it asks for type information that Torch does not export.
ASAN_ROOMS ?= core io hf config data ops model optim restore probe checkpoint loop report
test-asan: build-asan/build.ninja
	@ninja -C build-asan -j $(JOBS) $(ASAN_ROOMS:%=test_%) fuzz
	@ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 ctest --test-dir build-asan --output-on-failure \
	  -R "^($$(tr ' ' '|' <<< 'fuzz $(ASAN_ROOMS)'))(\.fixtures)?$$"

# A run keeps the inputs that reach more of the rooms' code, and stops at the first finding, whose input it saves in build-asan.
FUZZ_RUNS ?= 200000
FUZZ_SEED ?= 1
fuzz: build-asan/build.ninja
	@ninja -C build-asan -j $(JOBS) fuzz
	@OMP_NUM_THREADS=1 build-asan/bin/fuzz --runs $(FUZZ_RUNS) --seed $(FUZZ_SEED) --save build-asan $(FUZZ)

build-asan/build.ninja: $(VENV)/.ready scripts/configure.sh
	@scripts/configure.sh build-asan -DQKR_CUDA=OFF -DQKR_SANITIZE=address,undefined,float-cast-overflow -DQKR_FUZZ_COVERAGE=ON \
	  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 -g1 -fno-sanitize-recover=all"

bench: configure
	@ninja -C $(BUILD) -j $(JOBS) bench_ops
	@$(BIN)/bench_ops $(BENCH)

package: configure
	@ninja -C $(BUILD) -j $(JOBS) sft-train niah-probe qk-restore qk_restore_ops qk_restore_trainer
	@cpack --config $(BUILD)/CPackConfig.cmake -B $(BUILD)/package

gpu-bundle: configure
	@ninja -C $(BUILD) -j $(JOBS)
	@scripts/gpu_bundle.sh $(BUILD)

format:
	@git ls-files 'csrc/*' 'ops/*' 'trainer/*' 'tests/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs clang-format-14 -i

clean:
	rm -rf $(BUILD)/{CMakeCache.txt,CMakeFiles,build.ninja,bin,lib,cargo}
