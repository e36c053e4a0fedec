# The first use of a target makes .venv and installs the versions of constraints.txt; later uses start at once.
#
#   make run MODEL=DreamRec DATASET=ml-100k [PROTOCOL=leave_one_out] [PAPER=...] [ARGS="--epochs=3"]
#   make test [ARGS="-k diffusion"]
#
# PYTHON=python3.12 make ... makes .venv with that interpreter (anew, if it was made with another version).
#
# On Linux the public torch wheel brings CUDA, several GB. On a machine without a GPU, offer pip a CPU build and it
# prefers it (2.13.0+cpu counts as newer than 2.13.0): in a folder of wheels, PIP_FIND_LINKS=/my/wheels make ..., or
# in a package index that has the CPU builds, PIP_EXTRA_INDEX_URL=<its address> make ...

PYTHON ?= python3
VENV ?= .venv

py := $(VENV)/bin/python
stamp := $(VENV)/.stamp
version = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: run test lint types install clean

run: $(stamp)
	$(py) run_recbole_gen.py $(strip $(if $(MODEL),--model=$(MODEL)) $(if $(DATASET),--dataset=$(DATASET)) \
	$(if $(PROTOCOL),--protocol=$(PROTOCOL)) $(if $(PAPER),--paper=$(PAPER)) $(ARGS))

test: $(stamp)
	$(py) -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(stamp)
	$(py) -m ruff check
	$(py) -m ruff format --check

types: $(stamp)
	$(py) -m mypy

install: $(stamp)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache

# RecBole comes last and alone: pip refuses its cap on Ray (pyproject.toml says why).
$(stamp): pyproject.toml constraints.txt
	test -d $(VENV)/lib/python$(version) || $(PYTHON) -m venv --clear $(VENV)
	$(py) -m pip install -c constraints.txt -e ".[test]"
	$(py) -m pip install --no-deps recbole==1.2.1
	touch $@

# An interpreter asked for by name that .venv was not made with: install again.
ifneq ($(origin PYTHON),file)
ifeq ($(wildcard $(VENV)/lib/python$(version)),)
.PHONY: $(stamp)
endif
endif
