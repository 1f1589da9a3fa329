# What can be typed here: run, test, test-vm, check, mutations, fuzz, bench, bench-loss, floods, soak,
# rpm, image, clean.  Each works from a clean clone; CONTRIBUTING.md says what they need.  System packages
# are the business of tests/lab/require.sh.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WHEELS := .venv/wheels/bundled.macros
REQUIRE := PYTHON=$(PYTHON) tests/lab/require.sh

# Tests marked `root` run as root, or as root of a user namespace where the kernel allows one.
ifneq ($(shell id -u),0)
AS_ROOT := unshare --user --map-root-user --net --mount
TUN_HINT = : type sudo make $(MAKECMDGOALS)
endif

RPM_TOOLS := git pip3 rpmbuild rpm-macros createrepo_c rpmlint
DEBIAN = $(REQUIRE) --optional qemu-system-x86_64 qemu-img mmdebstrap mke2fs setpriv && \
  tests/lab/kernel.sh .venv/kernel && tests/lab/debian.sh .venv/debian .venv/kernel

export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: run tun test test-vm check lint mutations fuzz bench bench-loss floods soak rpm image clean
.DEFAULT_GOAL := check

$(STAMP): pyproject.toml
	@$(REQUIRE) venv
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# A guest on the network, shown from inside.  STAY=1 leaves it up, with a shell in the guest.
run: tun $(STAMP)
	@$(REQUIRE) nsenter ip ping curl
	@$(BIN)/python -m tests.demo $(if $(STAY),--stay)

tun:
	@test -c /dev/net/tun || { \
	  echo "make $(MAKECMDGOALS) needs /dev/net/tun, which is not there: type (as root) modprobe tun" >&2; \
	  exit 1; }
	@(: <>/dev/net/tun) 2>/dev/null || { \
	  echo "make $(MAKECMDGOALS) needs /dev/net/tun, which $$(id -un) may not open$(TUN_HINT)" >&2; \
	  exit 1; }

# Everything: the linters, and all tests with those that need root.
test: tun lint $(WHEELS)
	@$(REQUIRE) nsenter ip ping curl dig nft socat ssh sshd dhclient udhcpc
	@$(REQUIRE) $(RPM_TOOLS) dnf
	@$(REQUIRE) --optional qemu-system-x86_64 busybox-static podman mmdebstrap
	@tests/lab/kernel.sh .venv/kernel
	@$(BIN)/python -m tests.lab.base
	@$(AS_ROOT) true || { \
	  echo "make test needs root, or a kernel that allows user namespaces: type sudo make test" >&2; \
	  exit 1; }
	@$(BIN)/pytest -m "not root and not vm"
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)
	@# A folder of its own: the root of a user namespace may not write to real root's.  The tests
	@# are other users as well, who have to get through it.
	@folder=$$(mktemp -d -t t.XXXX) && chmod 755 "$$folder" && \
	  trap 'rm -rf "$$folder"' EXIT && trap 'exit 2' HUP INT TERM && \
	  TMPDIR=$$folder $(AS_ROOT) $(BIN)/pytest -m root
	@if $(DEBIAN); then $(BIN)/pytest -m vm tests/vm; fi

# The tests inside a Debian machine with systemd, which is made where it can be; else one line says why.
test-vm: $(STAMP) $(WHEELS)
	@$(REQUIRE) $(RPM_TOOLS)
	@$(DEBIAN)
	@$(BIN)/pytest -m vm tests/vm

# The quick loop: the linters, and the tests that need no root.
check: lint
	@$(BIN)/pytest -m "not root and not vm"

lint: $(STAMP)
	@$(BIN)/ruff format --quiet --check || { $(BIN)/ruff format --diff; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache

# Whether the tests notice a TCP engine that is broken in one place.  ONLY=congestion.py, JOBS=4
mutations: $(STAMP)
	@$(BIN)/python -m tests.mutations $(if $(ONLY),--only "$(ONLY)") $(if $(JOBS),--jobs $(JOBS))

# Inputs that nobody has thought of.  TARGET=frames, SECONDS=60 for each, SEED=... of a run that is to
# be repeated, COVERAGE=1 for atheris to choose them
fuzz: $(STAMP)
	@$(if $(COVERAGE),$(BIN)/python -c "import atheris" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]')
	@$(BIN)/python -m tests.fuzz $(TARGET) $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(COVERAGE),--coverage)

# Against plain loopback, slirp4netns and pasta.  SECONDS=3 per measurement, ROUNDS=3, ONLY=tcp1,...
bench: RUN = $(BIN)/python -m tests.bench $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))
bench: $(STAMP)
	@$(RUN) --check
	@$(REQUIRE) nsenter ip ping iperf3 nginx wrk dnsperf
	@$(REQUIRE) --optional slirp4netns pasta
	@$(RUN)

# Over a bad cable, against two kernels.  SECONDS=5, ROUNDS=3, ONLY=plain-loss1,..., CONGESTION=cubic
bench-loss: RUN = $(BIN)/python -m tests.bench.loss $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(CONGESTION),--congestion $(CONGESTION))
bench-loss: $(STAMP)
	@$(RUN) --check
	@$(REQUIRE) nsenter ip iperf3
	@$(RUN)

# Three guests at work while things go wrong (docs/reliability.md).  MINUTES=20, SEED=1, ONLY=agent,...
soak: tun $(STAMP)
	@$(REQUIRE) nsenter ip
	@$(BIN)/python -m tests.soak $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)")

# What a second guest notices while one floods the daemon.  SECONDS=1 per phase, ROUNDS=5, ONLY=macs,...
floods: tun $(STAMP)
	@$(REQUIRE) nsenter ip
	@$(BIN)/python -m tests.bench.floods $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

# The Python libraries as the bundled RPMs carry them.
$(WHEELS): $(STAMP)
	@echo "Fetching the libraries' wheels ..." >&2
	@rm -rf $(@D) && mkdir $(@D)
	@$(BIN)/python packaging/rpm/wheels.py $(@D)

# The last commit's RPMs, and a repository of them.  BUNDLED=1 carries the Python libraries along.
rpm image: FOLDER := build/rpm$(if $(BUNDLED),-bundled)
rpm: $(if $(BUNDLED),$(WHEELS),$(STAMP))
	@$(REQUIRE) $(RPM_TOOLS)
	@BUNDLED=$(BUNDLED) packaging/rpm/build.sh $(FOLDER)
	@packaging/rpm/lint.sh $(FOLDER)
	@ls $(FOLDER)/*/*.rpm

# A container image of the agent, of the RPMs that are there.  BASE=... instead of Fedora's minimal
# one, BUNDLED=1 as for rpm, IMAGE=name.
image:
	@command -v buildah >/dev/null || $(REQUIRE) podman
	@[ -d $(FOLDER)/repodata ] || $(MAKE) --no-print-directory rpm
	@BASE=$(BASE) containers/build.sh $(FOLDER) $(or $(IMAGE),vsock-tap)

clean:
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis bench.json bench-loss.json floods.json soak.json
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
