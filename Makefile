# make demo | demo-photos | test | soak | audit | lint | lock | mutants. Each sets up .venv first: some minutes once,
# nothing afterwards.
# PYTHON names the interpreter that .venv is made from: make test PYTHON=python3.12
# LOCK=no takes the newest packages in place of those that were tested: make test LOCK=no

PYTHON ?= python3
LOCK ?= yes
# Test files are shared out over so many processes.
TEST_PROCESSES ?= 2
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# There is a lock file for the Python versions that were tested; others take the newest packages.
LOCK_FILE := $(if $(filter-out no,$(LOCK)),$(wildcard requirements/lock-$(shell $(PYTHON) -c \
	"import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null).txt))
# Also the packages that Detectron2 brings are constrained.
CONSTRAINED := $(addprefix PIP_CONSTRAINT=,$(LOCK_FILE))
PIP_INSTALL = $(CONSTRAINED) $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check
REQUIREMENTS := requirements.txt $(addprefix requirements/,dev.txt serve.txt export.txt geo.txt)
# Written last, so that it stands for a complete set-up.
STAMP := $(VENV)/.complete
# Holds the process number of make while it sets up. A set-up that finds it left behind starts from scratch.
INCOMPLETE := .venv-incomplete
# pip-audit's own packages stay out of .venv.
AUDIT := .venv-audit
# So do mutmut's.
MUTMUT := .venv-mutants
# The part of hiervl/ whose tests are tested: losses, modeling, semi_supervised, evaluation or augmentation.
ROOM ?= losses

.PHONY: help .venv demo demo-photos test soak audit lint lock mutants

help:
	@echo "make demo   train and evaluate HierVL on a small synthetic world"
	@echo "make demo-photos  the same on CamVid's photographs, fetched unless DETECTRON2_DATASETS has them"
	@echo "make test   run the tests"
	@echo "make soak   the long form of the robustness tests (half an hour)"
	@echo "make audit  compare the installed packages with known vulnerabilities (asks the network)"
	@echo "make lint   check the code's style and types"
	@echo "make lock   write down the installed versions as those that were tested"
	@echo "make mutants ROOM=losses  small faults that no test of a part notices (up to hours; tests/mutants.md)"
	@echo "make .venv  only set up the environment in $(VENV)"

.venv: $(STAMP)

$(STAMP): $(REQUIREMENTS) $(LOCK_FILE) pyproject.toml setup.py tools/install_detectron2.py
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'error: HierVL needs Python 3.10 or \
newer, name one with PYTHON=')"
	@if kill -0 "$$(cat $(INCOMPLETE) 2>/dev/null)" 2>/dev/null; then echo "error: another make sets up $(VENV); \
wait for it, or remove $(INCOMPLETE) if there is none" >&2; exit 1; fi
	@if [ -e $(INCOMPLETE) ]; then echo "Removing an interrupted set-up of $(VENV) ..."; rm -rf $(VENV); fi
	@echo $$PPID > $(INCOMPLETE)
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing packages$(if $(LOCK_FILE), as in $(LOCK_FILE)) (PyTorch is large: some minutes) ..."
	@$(PIP_INSTALL) $(addprefix --requirement ,$(REQUIREMENTS))
	@$(CONSTRAINED) $(VENV_PYTHON) tools/install_detectron2.py
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
	@rm -f $(INCOMPLETE)

demo: $(STAMP)
	@$(VENV_PYTHON) -m hiervl demo

demo-photos: $(STAMP)
	@[ -d "$${DETECTRON2_DATASETS:-datasets}/camvid/images/train" ] || $(VENV_PYTHON) datasets/prepare_camvid.py
	@$(VENV_PYTHON) -m hiervl demo --config-file configs/camvid_12_cpu.yaml --output output/demo-photos

test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest tests --numprocesses $(TEST_PROCESSES)

soak: $(STAMP)
	HIERVL_SOAK=1 $(VENV_PYTHON) -m pytest --timeout 0 -rP tests/processes tests/untrusted \
		tests/engine/test_interruptions.py

# --strict: a service that cannot be asked, or knows none of the packages, is a failure and not a clean bill of health.
# Detectron2 is left out, since it is in no registry; tools/install_detectron2.py checks the hash of its archive.
audit: $(STAMP)
	@$(VENV_PYTHON) -m pip check
	@[ -x $(AUDIT)/bin/pip-audit ] || { $(PYTHON) -m venv $(AUDIT) && \
		$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@$(VENV_PYTHON) -m pip freeze --all --exclude detectron2 --exclude hiervl > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --requirement $(AUDIT)/installed.txt

lint: $(STAMP)
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

# Detectron2 is left out as in audit; pip belongs to the environment.
lock: $(STAMP)
	@{ echo "# What HierVL was tested with: constraints for pip. \`make lock\` writes them; Detectron2 is apart."; \
		$(VENV_PYTHON) -m pip freeze --all --exclude detectron2 --exclude hiervl --exclude pip; } > \
		requirements/lock-$$($(VENV_PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])").txt

# mutmut sees the packages of .venv by a path file. MUTANTS passes further arguments on, such as --again, --processes 2
# or 'hiervl.losses.targets*', which is done in a few minutes.
mutants: $(STAMP)
	@[ -x $(MUTMUT)/bin/mutmut ] || { $(PYTHON) -m venv $(MUTMUT) && \
		$(MUTMUT)/bin/python -m pip install --quiet --disable-pip-version-check "mutmut>=3.8,<4" && \
		$(VENV_PYTHON) -c "import site; print(site.getsitepackages()[0])" > \
		"$$($(MUTMUT)/bin/python -c "import site; print(site.getsitepackages()[0])")/hiervl.pth"; }
	$(MUTMUT)/bin/python tools/mutants.py $(ROOM) $(MUTANTS)
