# SPDX-License-Identifier: Apache-2.0
#
# make demo       a container through create, start, state and delete
# make test       lint, types and all tests        make test-all   with the long figures
# make vm         the tests in virtual machines alone
# make bench      beside runc and crun             make lint       ruff and mypy alone
# make bench-net  networks, beside CNI's plugins
# make bench-shim the shim beside containerd's own
# make bench-images  pull and unpack, beside skopeo with umoci and podman
# make install    into PREFIX (/usr/local)         make uninstall  out of it again
#
# Each installs what it needs, as root on Debian; a second run finds it there.  pyrunc is installed
# as a wheel into .venv, and again whenever a source file is newer than that.

# The distribution's interpreter, and not whatever is first in PATH: the launcher embeds it.
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
VENV := .venv
DONE := $(VENV)/done

BUILD_PACKAGES := python3-venv python3-dev gcc libc6-dev libcap-dev
DEMO_PACKAGES := busybox-static
VM_PACKAGES := qemu-system-x86 kmod busybox-static debootstrap e2fsprogs apparmor secilc
IMAGE_PACKAGES := docker-registry skopeo umoci podman openssl xz-utils bzip2
CLIENT_PACKAGES := podman buildah conmon catatonit netavark iptables uidmap docker.io docker-cli? docker-buildx? \
	containerd containernetworking-plugins curl busybox-static
TEST_PACKAGES := $(DEMO_PACKAGES) runc crun debootstrap strace uidmap libcap2-bin procps iproute2 util-linux \
	tmux groff-base zsh fish libseccomp2 golang-go $(VM_PACKAGES) $(IMAGE_PACKAGES) $(CLIENT_PACKAGES)
# What checkpoints and their tests need.
TEST_PACKAGES += criu iptables gcc libc6-dev tar
# Networks and their tests.
TEST_PACKAGES += nftables iproute2 util-linux containernetworking-plugins slirp4netns passt \
	dbus-daemon python3-dbus python3-gi gir1.2-glib-2.0 libnftables1

SOURCES := $(shell find pyrunc shims launcher tools docs/man docs/completion setup.py pyproject.toml \
	-name __pycache__ -prune -o -type f ! -name '*.so' -print)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
export PIP_ROOT_USER_ACTION := ignore

.PHONY: demo test test-all vm bench bench-net bench-shim bench-images lint install uninstall clean
.SILENT:
.DELETE_ON_ERROR:

demo: $(DONE)/pyrunc $(DONE)/demo-packages
	PYRUNC=$(CURDIR)/$(VENV)/bin/pyrunc sh demo/demo.sh

test: lint
	$(VENV)/bin/python -m pytest

test-all: lint
	$(VENV)/bin/python -m pytest --long

vm: $(DONE)/pyrunc $(DONE)/test-tools
	$(VENV)/bin/python -m pytest tests/system/test_vm_lane.py

lint: $(DONE)/pyrunc $(DONE)/test-tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(DONE)/pyrunc $(DONE)/test-packages
	$(VENV)/bin/python bench/bench.py --runtime $(CURDIR)/$(VENV)/bin/pyrunc --runtime runc --runtime crun $(BENCH)

bench-net: $(DONE)/pyrunc $(DONE)/test-packages
	$(VENV)/bin/python -m bench.net --pyrunc $(CURDIR)/$(VENV)/bin/pyrunc $(BENCH)

bench-shim: $(DONE)/pyrunc $(DONE)/test-packages
	$(VENV)/bin/python -m bench.shim --bin $(VENV)/bin $(BENCH)

bench-images: $(DONE)/pyrunc $(DONE)/test-packages
	$(VENV)/bin/python -m bench.images --runtime $(CURDIR)/$(VENV)/bin/pyrunc $(BENCH)

# In a directory of its own, dependencies and all, so that an upgrade or a removal leaves nothing and
# no other program's packages are touched; the command finds it through the link.
install: $(DONE)/pyrunc uninstall
	$(PIP) install --ignore-installed --no-warn-script-location \
		$(if $(DESTDIR),--root $(DESTDIR)) --prefix $(PREFIX)/lib/pyrunc $(DONE)/wheel/pyrunc-*.whl
	mkdir -p $(DESTDIR)$(PREFIX)/bin
	ln -sf ../lib/pyrunc/bin/pyrunc ../lib/pyrunc/bin/containerd-shim-pyrunc-v1 ../lib/pyrunc/bin/pyrunc-cni \
		$(DESTDIR)$(PREFIX)/bin
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 docs/man/*.8
	install -D -m 644 docs/completion/pyrunc.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pyrunc
	install -D -m 644 docs/completion/_pyrunc $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pyrunc
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d docs/completion/pyrunc.fish
	echo "installed $(DESTDIR)$(PREFIX)/bin/pyrunc"

uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/lib/pyrunc
	rm -f $(DESTDIR)$(PREFIX)/bin/pyrunc $(DESTDIR)$(PREFIX)/bin/containerd-shim-pyrunc-v1 \
		$(DESTDIR)$(PREFIX)/bin/pyrunc-cni \
		$(DESTDIR)$(PREFIX)/share/man/man8/pyrunc.8 \
		$(DESTDIR)$(PREFIX)/share/man/man8/pyrunc-*.8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pyrunc \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_pyrunc \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/pyrunc.fish

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(DONE)/venv:
	tools/need.sh $(BUILD_PACKAGES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pyrunc needs Python 3.11; $(PYTHON) is older (make PYTHON=/path/to/python3)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install 'setuptools>=77' wheel
	mkdir -p $(DONE)
	touch $@

# Built as a wheel and installed from it, as users get it; dependencies when the project file changed.
$(DONE)/dependencies: pyproject.toml $(DONE)/venv
	$(VENV)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' >$@.txt
	$(PIP) install --no-build-isolation -r $@.txt
	touch $@

$(DONE)/pyrunc: $(SOURCES) $(DONE)/dependencies
	rm -rf build $(DONE)/wheel
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(DONE)/wheel .
	rm -rf build pyrunc.egg-info
	$(PIP) install --no-deps --force-reinstall $(DONE)/wheel/pyrunc-*.whl
	touch $@

$(DONE)/demo-packages: | $(DONE)/venv
	tools/need.sh $(DEMO_PACKAGES)
	touch $@

$(DONE)/test-packages: Makefile | $(DONE)/venv
	tools/need.sh $(TEST_PACKAGES)
	touch $@

$(DONE)/test-tools: pyproject.toml $(DONE)/venv $(DONE)/test-packages
	$(VENV)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["test"], sep="\n")' >$@.txt
	$(PIP) install -r $@.txt
	touch $@
