# make help says what there is. Everything happens in ./target and ./.venv; nothing is installed elsewhere.

# A cargo that rustup has just installed is found without a new login.
export PATH := $(PATH):$(HOME)/.cargo/bin
# The libraries are looked for where those built for the host lie.
unexport CARGO_BUILD_TARGET

CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
CFLAGS ?= -O2

help:
	@echo 'make demo   builds the library, then shows processes sharing a pool for a few seconds'
	@echo 'make test   runs every test; the last line is the count'
	@echo 'make soak   the randomised and timed tests, each for SOAK_SECONDS (60)'
	@echo 'make bench  builds other allocators and measures the pool beside them; BENCH_FLAGS=--quick measures for under a minute'
	@echo 'make programs  times real programs with their heap in a pool beside other allocators'
	@echo 'make fuzz   the fuzz targets, both at once, each for FUZZ_SECONDS (1800)'
	@echo 'make coverage  which lines of src/ the tests execute; needs llvm-cov of the version of rustc'"'"'s LLVM'
	@echo 'make tsan   the C programs with threads under the thread sanitizer, where there is a nightly Rust'
	@echo 'make docs   the manual page, the Rust reference and, where there is doxygen, the C reference, in target/docs'
	@echo 'make dist   what is released: the installed tree, the Python and the Rust package, in target/dist'
	@echo 'make dist-check  unpacks each of these elsewhere and uses it there'
	@echo 'make clean  removes what the others made'

demo:
	@tests/preflight demo
	cargo build --locked --release --lib
	$(CC) -std=c11 $(CFLAGS) -Iinclude examples/demo.c -o $(CARGO_TARGET_DIR)/demo \
	    $(CARGO_TARGET_DIR)/release/libmempool.a -lpthread -ldl -lm -lrt -lutil
	@$(CARGO_TARGET_DIR)/demo

test:
	@tests/preflight test || { echo '0 passed, 1 failed, 0 skipped'; exit 1; }
	@python3 tests/run.py

soak:
	@tests/preflight test || { echo '0 passed, 1 failed, 0 skipped'; exit 1; }
	@python3 tests/run.py --soak

# Two builds that must not share a folder: one as it ships, and one that counts its locks. With that, every
# workload runs once more and checks that each block keeps its bytes.
bench:
	CARGO_TARGET_DIR=$(abspath $(CARGO_TARGET_DIR))/bench cargo run --locked --release \
	    --manifest-path benches/Cargo.toml -- \
	    --json $(abspath $(CARGO_TARGET_DIR))/bench.json --plots docs $(BENCH_FLAGS)
	CARGO_TARGET_DIR=$(abspath $(CARGO_TARGET_DIR))/counts cargo run --locked --release \
	    --manifest-path benches/Cargo.toml --no-default-features --features counts -- \
	    --locks --verify --peers mempool $(filter --quick,$(BENCH_FLAGS))

fuzz:
	@tests/preflight test
	@tests/fuzz.py

coverage:
	@tests/coverage.py

programs:
	python3 benches/programs.py

tsan:
	@tests/tsan

docs:
	python3 docs/manual.py $(CARGO_TARGET_DIR)/docs
	cargo doc --locked --no-deps --package mempool
	@command -v doxygen >/dev/null || { echo 'doxygen is not here: no C reference'; exit 0; } && \
	    mkdir -p $(CARGO_TARGET_DIR)/docs && \
	    printf '%s\n' PROJECT_NAME=mempool INPUT='include README.md' USE_MDFILE_AS_MAINPAGE=README.md QUIET=YES \
	    OPTIMIZE_OUTPUT_FOR_C=YES EXTRACT_ALL=YES GENERATE_LATEX=NO OUTPUT_DIRECTORY=$(CARGO_TARGET_DIR)/docs | doxygen -

dist:
	python3 tests/dist.py make

dist-check:
	python3 tests/dist.py check

clean:
	rm -rf $(CARGO_TARGET_DIR) .venv

.PHONY: help demo test soak bench programs fuzz coverage tsan docs dist dist-check clean
