# make demo: the whole job with tiny models on two CPU cores; make test: every test. Both install what they need first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
GPU_GIB ?=
MINUTES ?= 30

.PHONY: setup setup-gpu demo test test-cluster torture check format bench bench-gpu tiny-assets clean

setup: $(INSTALLED)

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version), expected Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

setup-gpu: setup
	$(BIN)/python -m pip install --quiet wheel
	$(BIN)/python -m pip install --no-build-isolation --requirement requirements-gpu.txt

demo: setup
	$(BIN)/python -m trainer.demo

test: setup
	$(BIN)/python -m pytest

test-cluster: setup
	$(BIN)/python -m pytest -m cluster tests/cluster

torture: setup
	$(BIN)/python -m pytest -s -m torture tests/faults

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/unit/test_structure.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks.pack_plan
	$(BIN)/python -m benchmarks.traced_memory
	$(BIN)/python -m benchmarks.loader_speed --out runs/bench/loader_speed.json
	$(BIN)/python -m benchmarks.loader_work --out runs/bench/loader_work.json
	$(BIN)/python -m benchmarks.shared_prefix_speed
	$(BIN)/python -m data_shards synthetic --out runs/bench/shards --scenes 6 --frames-per-scene 1 --image-width 400
	$(BIN)/python -m benchmarks.predict_speed --model models/tiny/teacher-vlm --data runs/bench/shards --frames 6 \
		--out runs/bench/predict_speed.json
	$(BIN)/python -m benchmarks.top_k_gap --out runs/bench/top_k_gap.json
	$(BIN)/python -m benchmarks.cached_distillation --out runs/bench/cached_distillation.json

bench-gpu: setup
	$(BIN)/python -m trainer.bench.suite --minutes $(MINUTES) $(if $(GPU_GIB),--gpu-memory $(GPU_GIB)) --out runs/bench

tiny-assets: setup
	$(BIN)/python -m trainer.tiny

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
