# SPDX-License-Identifier: GPL-2.0
#
# The front door. What kbuild reads is Kbuild.
#
# Targets that need tools run in a build root, a Debian 13 made by tools/build/enter;
# they are at the end of this file. With KDIR= the module is built right here, by the
# tools of this machine.

MAKEFLAGS += --no-print-directory

# The folder of products.
BUILD := build
MO ?= $(CURDIR)/$(BUILD)/module

help:
	@echo 'p2pmem_rs: PCI peer-to-peer memory for user space'
	@echo
	@echo '  make run              build all, boot the lab, copy drive to drive through device memory'
	@echo '  make test             all tests; T=NAME runs the guest cases whose names begin so'
	@echo '  make test-debug       guest cases on a kernel that finds mistakes (10 minutes to build, once)'
	@echo '  make test-all         make test on amd64 and on rt-amd64, and make test-debug'
	@echo '  make coverage         lines of the module that guest cases reach, in $(BUILD)/coverage/'
	@echo '  make stacks           write docs/stacks.md: direct I/O on each stack of the lab'
	@echo '  make bench            benchmarks against mainline and ordinary memory, in $(BUILD)/bench/'
	@echo '                        PART="counted-map free-map-threads" measures only these, see qemu/bench'
	@echo '  make torture          random load of all kinds; SECONDS=600, SEED=N to repeat a run'
	@echo '  make torture-debug    the same on the kernel that finds mistakes'
	@echo '  make lab              a shell in the guest; TOPOLOGY=NAME, one of qemu/topologies/'
	@echo '  make modules          p2pmem_rs.ko for the newest stock kernel, in $(BUILD)/module/'
	@echo '  make modules KDIR=DIR the same for any kernel build tree with Rust, 7.3 or newer'
	@echo '  make modules_install  put the built module under /lib/modules (as root)'
	@echo '  make tools            programs in $(BUILD)/bin/, man pages and completions in $(BUILD)/share/'
	@echo '  make deb              Debian packages of module, command and interface, in $(BUILD)/deb/'
	@echo '  make deb-again        builds them twice and compares: the packages are reproducible'
	@echo '  make test-deb         installs them in a fresh Debian 13 and boots it; SHORT=1: one kernel, one boot'
	@echo '  make lint             formats, lints, warnings of all languages'
	@echo '  make doc              rustdoc of the module and the library, in $(BUILD)/doc/'
	@echo '  make clean            remove $(BUILD)/'
	@echo
	@echo '  FLAVOUR=amd64         the stock kernel: amd64, rt-amd64 or cloud-amd64'
	@echo '  P2PMEM_REFRESH=1      ask the mirror for a newer kernel now, not once a day'
	@echo '  P2PMEM_MIRROR=URL     a Debian mirror, default http://deb.debian.org/debian'
	@echo '  FEW_ROUNDS=1          a tenth of the rounds, in cases that repeat to hit a race'
	@echo '  P2PMEM_ACCEL=tcg|kvm  the accelerator of QEMU, default: KVM if it works'

.PHONY: help clean modules modules_install test-all

# All of them, even if some fail. The kernels differ, and so do the modules: one after the other.
test-all:
	@failed=; \
	for words in 'FLAVOUR=amd64 test' 'FLAVOUR=rt-amd64 test' test-debug; do \
		echo "== make $$words"; \
		$(MAKE) $$words || failed="$$failed, make $$words"; \
	done; \
	[ -z "$$failed" ] || { echo "error: failed:$${failed#,}" >&2; exit 1; }

clean:
	rm -rf $(BUILD)

# The commands of kbuild, for the tree in KDIR.
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(MO)

ifdef KDIR

ifeq ($(wildcard $(KDIR)/Makefile),)
$(error KDIR=$(KDIR) is not a kernel build tree: it has no Makefile)
endif
# Arch has the Rust metadata in its headers package, Ubuntu in a package of its own, to which the
# headers have a link. The headers of Debian have none.
ifeq ($(wildcard $(KDIR)/rust/libkernel.rmeta),)
ifneq ($(shell test -L $(KDIR)/rust && echo link),)
$(error KDIR=$(KDIR) has a link to the Rust metadata, which is not there: install $(patsubst linux-headers-%,linux-lib-rust-%,$(notdir $(realpath $(KDIR)))))
endif
$(error KDIR=$(KDIR) has no Rust metadata (rust/libkernel.rmeta): use a tree in which CONFIG_RUST was built, or leave KDIR out to have it made for the stock kernel)
endif

# The build of the kernel that the module is made for: the output of uname -v there, or a word of
# it. The release does not tell builds apart.
MADE_FOR ?= $(shell sed -n 's/^\#define UTS_VERSION "\(.*\)"$$/\1/p' $(KDIR)/include/generated/utsversion.h 2>/dev/null)
export P2PMEM_MADE_FOR := $(MADE_FOR)

# Nothing in the objects tells them from those of another kernel: start afresh when it changes.
KERNEL_ID := $(KDIR) $(P2PMEM_MADE_FOR) $(shell sha256sum < $(KDIR)/rust/libkernel.rmeta)

modules: $(MO)/.kernel
	+$(kbuild) modules

$(MO)/.kernel: FORCE
	@mkdir -p $(MO)
	@echo '$(KERNEL_ID)' | cmp -s - $@ || { rm -rf $(MO)/* && echo '$(KERNEL_ID)' > $@; }

modules_install: modules
	+$(kbuild) modules_install

else # !KDIR

# kbuild's own rule would look for the kernel where only the build root has it.
modules_install:
	@test -f $(MO)/p2pmem_rs.ko || { echo 'error: no module to install: run make modules first' >&2; exit 1; }
	@command -v depmod >/dev/null || { echo 'error: depmod is missing: install the package kmod' >&2; exit 1; }
	release=$$(cat $(MO)/release) && \
	install -D -m 644 $(MO)/p2pmem_rs.ko $(INSTALL_MOD_PATH)/lib/modules/$$release/updates/p2pmem_rs.ko && \
	depmod $(if $(INSTALL_MOD_PATH),-b $(INSTALL_MOD_PATH)) $$release

INSIDE := run test stacks bench test-debug coverage torture torture-debug lab lint doc deb deb-again tools modules modules-debug \
	kmod kdir

.PHONY: $(INSIDE) test-deb

ifndef P2PMEM_IN_BUILD_ROOT

torture torture-debug: export TORTURE_SECONDS := $(or $(SECONDS),60)
torture torture-debug: export TORTURE_SEED := $(SEED)

$(INSIDE):
	@tools/build/enter -- make $@

# A system of its own is made as root.
test-deb: deb
	@tools/build/enter --root -- tests/package/run $(if $(SHORT),--short)

else # inside the build root

QUIET_MAKE = $(MAKE) -j$(shell nproc) $(if $(V),,-s)
export CARGO_TARGET_DIR := $(CURDIR)/$(BUILD)/cargo

# The prepared stock kernel, found or made when it is first asked for.
KERNEL = $(eval KERNEL := $(shell tools/build/kernel))$(or $(KERNEL),$(error no kernel to build for))

kdir:
	@echo $(KERNEL)/kdir

modules:
	@$(QUIET_MAKE) KDIR=$(KERNEL)/kdir MADE_FOR=$$(cat $(KERNEL)/version) modules
	@cp $(KERNEL)/release $(MO)/release

# The module that only tests load.
kmod:
	@$(QUIET_MAKE) -C $(KERNEL)/kdir M=$(CURDIR)/tests/kmod MO=$(CURDIR)/$(BUILD)/kmod modules

# The same two modules for the debug kernel, which LLVM builds.
DEBUG_KERNEL = $(eval DEBUG_KERNEL := $(shell tools/build/kernel --debug))$(or $(DEBUG_KERNEL),$(error no debug kernel))
DEBUG := $(CURDIR)/$(BUILD)/debug

modules-debug:
	@$(QUIET_MAKE) LLVM=-19 KDIR=$(DEBUG_KERNEL)/kdir MO=$(DEBUG)/module modules
	@$(QUIET_MAKE) LLVM=-19 -C $(DEBUG_KERNEL)/kdir M=$(CURDIR)/tests/kmod MO=$(DEBUG)/kmod modules

tools:
	@cd tools && cargo build --locked --quiet --release && \
		cargo build --locked --quiet --release --package p2pmem --examples
	@mkdir -p $(BUILD)/bin
	@cp -u --remove-destination $(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release/p2pmem \
		$(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release/guest-tests \
		$(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release/lab-device \
		$(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release/example-map-rust $(BUILD)/bin/
	@for name in map child uring; do \
		cp -u --remove-destination \
			$(CARGO_TARGET_DIR)/x86_64-unknown-linux-gnu/release/examples/$$name \
			$(BUILD)/bin/example-library-$$name || exit 1; \
	done
	@gcc-14 -static -O2 -Wall -Wextra -Werror -Iinclude -Iinclude/uapi \
		-o $(BUILD)/bin/example-copy \
		tests/example/copy.c -luring
	@gcc-14 -static -O2 -Wall -Wextra -Werror -o $(BUILD)/bin/example-map tests/example/map.c
	@$(BUILD)/bin/p2pmem generate $(BUILD)/share

# Debian packages, checked by lintian.
deb: tools
	@tools/build/deb $(BUILD)

# Builds the packages a second time, all from source, and compares them.
deb-again: deb
	@umask 077 && TZ=Pacific/Apia LC_ALL=C $(MAKE) -s BUILD=$(BUILD)/again deb
	@for name in $(BUILD)/deb/*.deb; do cmp $$name $(BUILD)/again/deb/$${name##*/} || exit 1; done
	@rm -rf $(BUILD)/again

run: modules tools
	@qemu/demo --kernel $(KERNEL) --module $(MO)/p2pmem_rs.ko --program $(BUILD)/bin/p2pmem

# Compares costs in one boot: ratios hold, times are those of the machine.
bench: modules tools
	@qemu/bench --kernel $(KERNEL) --module $(MO)/p2pmem_rs.ko --program $(BUILD)/bin/p2pmem \
		--output $(BUILD)/bench $(addprefix --part ,$(PART))

test: modules kmod tools
	@tests/run --kernel $(KERNEL) $(if $(T),--case '$(T)')

# docs/stacks.md: what direct I/O really does on each stack of the lab. The cases compare it.
stacks: modules kmod tools
	@tests/stacks --kernel $(KERNEL)

# The stock kernel with modules that count. The abstractions are compiled into both of them.
COVERAGE := $(CURDIR)/$(BUILD)/coverage
COUNTING := -Cinstrument-coverage -Zno-profiler-runtime -Zcoverage-options=branch \
	--remap-path-prefix=$(CURDIR)/tests/kmod/rust=$(CURDIR)/rust
coverage: tools
	@$(QUIET_MAKE) KDIR=$(KERNEL)/kdir MO=$(COVERAGE)/module KRUSTFLAGS='$(COUNTING)' modules
	@$(QUIET_MAKE) -C $(KERNEL)/kdir M=$(CURDIR)/tests/kmod MO=$(COVERAGE)/kmod \
		KRUSTFLAGS='$(COUNTING)' modules
	@tests/coverage --kernel $(KERNEL) --products $(COVERAGE)

torture: modules kmod tools
	@tests/run --kernel $(KERNEL) --case torture

torture-debug: modules-debug tools
	@tests/run --debug --kernel $(DEBUG_KERNEL) --case torture

test-debug: modules-debug tools
	@tests/run --debug --kernel $(DEBUG_KERNEL) $(if $(T),--case '$(T)')

lab: modules kmod tools
	@qemu/boot --kernel $(KERNEL) --topology $(or $(TOPOLOGY),switch) --shell \
		--module $(MO)/p2pmem_rs.ko --module $(BUILD)/kmod/p2pmem_test.ko \
		--program $(BUILD)/bin/p2pmem --program $(BUILD)/bin/guest-tests

lint:
	@tests/lint --kernel $(KERNEL)

doc: modules
	@tests/doc --kernel $(KERNEL)

endif
endif

FORCE:
.PHONY: FORCE
