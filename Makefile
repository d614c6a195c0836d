# What one types: install, uninstall (as root, on a server); check, unit, host, vm, test, demo, bench, soak (in a checkout).
PYTHON ?= python3
DS01_CACHE ?= /var/cache/ds01
export DS01_CACHE
export PYTHONDONTWRITEBYTECODE = 1

venv = $(shell $(PYTHON) .ci/devenv.py path)
py = $(venv)/bin/python
pytest = PYTHONPATH=build/typing $(py) -m pytest
shell_files = demo test .ci/run .ci/bootstrap.sh tests/vm/init $(wildcard tests/host/images/site/usr/local/lib/testhost/*) tests/host/images/make-images $(wildcard tests/fakenvml/nvidia-cdi-hook)
python_files = services cli packaging tests .ci

pages = PYTHONPATH=build/typing $(py) packaging/pages.py

.PHONY: pages install uninstall check unit host vm test demo bench soak host-image vm-image lock devenv typing clean

install:
	$(PYTHON) packaging/installer.py install

uninstall:
	$(PYTHON) packaging/installer.py uninstall

devenv:
	@$(PYTHON) .ci/devenv.py make

# mypy can't follow setuptools' package-dir: it gets a tree of links that looks like the installed package.
typing:
	@rm -rf build/typing && mkdir -p build/typing/ds01 build/reports
	@for part in services/*; do ln -s "../../../$$part" build/typing/ds01/; done
	@ln -s ../../../cli build/typing/ds01/cli

check: devenv typing
	$(py) -m ruff check $(python_files) tests/host/testhost tests/vm/testvm
	$(py) -m ruff format --check $(python_files) tests/host/testhost tests/vm/testvm
	cd build/typing && MYPYPATH=. $(py) -m mypy --strict --explicit-package-bases -p ds01
	MYPYPATH=packaging $(py) -m mypy --strict packaging/installer.py packaging/ds01_installer
	MYPYPATH=tests/host $(py) -m mypy --strict --explicit-package-bases tests/host/lib
	MYPYPATH=tests/host:tests/vm $(py) -m mypy --strict --explicit-package-bases tests/vm/machine
	$(pytest) tests/unit/test_architecture.py
	shellcheck $(shell_files)

pages: devenv typing
	$(pages) shim > docs/SHIM.md
	$(pages) catalog > packaging/ds01.catalog
	$(pages) built-in > config/policy.json
	$(pages) reference > config/resource-limits.reference.yaml
	$(pages) policy > build/POLICY.md && mv build/POLICY.md docs/POLICY.md
	$(pages) man > build/man && mv build/man docs/man/ds01-resource-limits.5

unit: devenv typing
	$(pytest) tests/unit --junit-xml=build/reports/unit.xml

host: devenv typing
	$(pytest) tests/host --ignore=tests/host/soak --timeout=300 --junit-xml=build/reports/host.xml

vm: devenv typing
	$(pytest) tests/vm --timeout=900 --junit-xml=build/reports/vm.xml

test: unit host vm

demo:
	./demo

bench: devenv typing
	$(py) tests/bench/run.py

soak: devenv typing
	$(pytest) tests/host/soak --timeout=7200

host-image:
	$(PYTHON) tests/host/testhost image

vm-image:
	$(PYTHON) tests/vm/testvm image

lock:
	$(PYTHON) -P -c 'import sys; sys.path.insert(0, "tests/host"); from lib import wheels; wheels.write_lock()'

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
