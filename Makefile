# Two commands do everything, set-up included:
#   make demo   run a whole study on this machine
#   make test   tests, lint, types, import rules
# and a third builds the site of the documents:
#   make docs   into site/
# All create .venv and install the pinned versions of constraints.txt. A first study for the
# tutorial is made by
#   make first-study   into first-study/
# Apart from these,
#   make test-oldest   tests with the oldest versions that pyproject.toml allows
# in .venv-oldest, and
#   make release   the files of a release, from the last commit, into dist/

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
READY := $(VENV)/ready
OLDEST := .venv-oldest

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-oldest packages lint unit docs first-study release clean

demo: $(INSTALLED)
	$(BIN)/fedfs demo

test:
	$(MAKE) --jobs=2 $(READY) packages
	$(MAKE) lint unit

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Debian's, one after the other: apt-get holds a lock.
packages:
	sh tests/support/install_packages.sh "S3 tests will be SKIPPED" radosgw ceph-mon ceph-osd
	sh tests/support/install_packages.sh "HTTPS and proxy tests will be SKIPPED" nginx-light:/usr/sbin/nginx squid:/usr/sbin/squid
	sh tests/support/install_packages.sh "SFTP tests will be SKIPPED" openssh-server:/usr/sbin/sshd
	sh tests/support/install_packages.sh "sshfs mounts will NOT be tested" sshfs
	sh tests/support/install_packages.sh "rclone mounts will NOT be tested" rclone fuse3:fusermount3
	sh tests/support/install_packages.sh "SMB tests will be SKIPPED" samba:/usr/sbin/smbd
	sh tests/support/install_packages.sh "WebDAV tests will be SKIPPED" apache2-bin:/usr/sbin/apache2
	sh tests/support/install_packages.sh "keys on a token will NOT be tested" softhsm2:softhsm2-util opensc:pkcs11-tool
	sh tests/support/install_packages.sh "SLURM tests will be SKIPPED" slurmctld:/usr/sbin/slurmctld \
		slurmd:/usr/sbin/slurmd slurmdbd:/usr/sbin/slurmdbd munge:/usr/sbin/munged \
		slurm-client:sbatch mariadb-server:/usr/sbin/mariadbd
	[ -z "$$FEDFS_SLOW_TESTS" ] || sh tests/support/install_packages.sh "kernel mounts and systemd will NOT be tested" \
		nfs-ganesha:/usr/bin/ganesha.nfsd nfs-ganesha-vfs:/usr/bin/ganesha.nfsd \
		user-mode-linux:linux.uml busybox-static:busybox e2fsprogs:mke2fs systemd:systemctl iproute2:ip
	sh tests/support/install_packages.sh "the report will NOT be tested in a browser" chromium
	sh tests/support/install_packages.sh "payloads will NOT be opened by age" age

# One core each: the real nnU-Net runs beside the fast tests.
unit: $(READY)
	sh tests/support/install_azurite.sh "Azure tests will be SKIPPED" $(VENV)/azurite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup

# What depends on versions: nnU-Net, torch, numpy, S3, the command line. Not the documents.
test-oldest: $(OLDEST)/ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n 2 --dist loadgroup \
		tests/unit tests/nnunet tests/contract tests/property tests/golden

# For docs/tutorial.md.
first-study: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/first-study/prepare.sh first-study

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

release: $(READY)
	$(BIN)/python .ci/release.py

# Without the tools of developers, which take as long again: for the demo and the tutorial.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3.11-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "on Debian: apt-get install python3.11-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(INSTALLED) $@

$(OLDEST)/ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST) || { echo "on Debian: apt-get install python3.11-venv"; exit 1; }
	$(OLDEST)/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) site dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
