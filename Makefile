# `make demo` and `make test` need only python3 >= 3.11 and a package index; each sets its environment up by
# itself: .venv for python3, and .venv-3.12 for PYTHON=python3.12 where that is another Python than python3.
PYTHON ?= python3
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
WANTED := $(call version,$(PYTHON))
VENV := .venv$(if $(filter $(WANTED),$(call version,python3)),,-$(WANTED))
PY := $(VENV)/bin/python

.PHONY: demo figures test lint bench clean python help
help:            ## list the targets
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  +##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

demo: $(VENV)/.base      ## rerank real photos with a real ViT: a table, runs/demo/report.html
	$(VENV)/bin/vitjax demo

figures: demo    ## the README's figures, from the demo's
	cp runs/demo/figures/0014_ranking.png docs/before_after.png
	cp runs/demo/figures/0014_matches.png docs/matches.png

test: $(VENV)/.dev       ## run the tests (what .ci/run calls)
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.dev       ## ruff, ruff format --check, pyright, types of public names
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" pyright --verifytypes vitjax --ignoreexternal

bench: $(VENV)/.dev      ## pairs/s of the transport solvers
	$(PY) -m benchmarks.transport

clean:           ## remove the environment of PYTHON
	rm -rf $(VENV)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vitjax needs Python >= 3.11; run: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test ! -e $(VENV) || $(PY) -c 'import sys, pip; sys.exit("%d.%d" % sys.version_info[:2] != "$(WANTED)")' 2>/dev/null || \
	  { echo "$(VENV) is half made, or not of $(PYTHON) ($(WANTED)); run: make clean PYTHON=$(PYTHON)" >&2; exit 1; }

$(VENV)/bin/python: | python
	$(PYTHON) -m venv $(VENV)

install = $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(install) .
	@touch $@

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(install) '.[$*]'
	@touch $@
