# SPDX-License-Identifier: GPL-2.0
"""Topologies of guest cases, and boots that run them."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ktap import Report

TOP = Path(__file__).resolve().parents[1]
# Exit statuses of qemu/boot: the job is done, but the kernel reported a mistake; QEMU made one.
LAB_FAILED = 125
MACHINE_FAILED = 126
# Attempts of a boot in which QEMU makes one.
ATTEMPTS = 3
PROGRAMS = TOP / "build/bin"

# Topologies, and the groups of guest cases that need each of them. Those that take long come first;
# some have a boot of their own only because of that.
BOOTS = [
    ("switch", ["unbind"]),
    ("devices", ["controller", "endpoint", "pusher", "torture"]),
    ("switch", ["buffers", "handle", "uring", "slots", "copy"]),
    ("switch", ["large", "many"]),
    ("switch", []),  # all others
    ("switch-two-bars", ["providers"]),
    ("fanout", ["fanout"]),
    ("large-bar", ["huge"]),
    ("no-switch", ["unreachable", "apart"]),
    ("one-apart", ["outside"]),
    ("acs", ["redirected"]),
    ("host-bridge", ["bridged"]),
    ("virtual-function", ["virtual"]),
    ("programs", ["programs"]),
    ("iommu", ["translated", "merged"]),
    ("stacks", ["stacks"]),
    ("stacks", ["table"]),
    ("stacks-iommu", ["iotable"]),
    ("multipath", ["multipath"]),
    ("any-bar", ["override", "manage", "apply", "metrics", "cdi"]),
    ("any-bar", ["lockdown"]),
    ("far-bar", ["unmappable"]),
    ("stacks", ["sent"]),
    ("cmb", ["adopt", "cmb", "lend"]),
    ("pmr", ["pmr"]),
    ("nvmet", ["nvmet"]),
    ("own-memory", ["own"]),
    ("small-window", ["window"]),
    ("ats", ["ats"]),
    ("hotplug", ["hotplug"]),
    ("hotplug-native", ["native"]),
]

# Environment variables that are passed on to the cases.
SETTINGS = ["TORTURE_SECONDS", "TORTURE_SEED", "FEW_ROUNDS"]

# The cases, and then what instrumented modules counted.
JOB = """%s
status=$?
for file in /tmp/coverage.*; do
	[ ! -e $file ] || echo "lab: coverage ${file#*coverage.} $(base64 -w 0 $file)"
done
exit $status"""

# Not for the debug kernel: lockdep finds that mainline's pciehp takes its locks in either order
# when it removes ports within ports; and it has neither TCP nor stacked block devices, no
# NVMe target, no virtual functions (CONFIG_PCI_IOV), nor what programs of the build root need. Many
# providers and 64 GiB take it too long.
STOCK_ONLY = [
    "hotplug-native", "stacks", "stacks-iommu", "multipath", "programs", "fanout", "large-bar", "nvmet",
    "virtual-function",
]
# If threads handle interrupts, mainline's pciehp ignores requests of a button and of sysfs:
# irq_wake_thread() wakes the thread of its first handler, not the one that serves them. It serves
# them when it polls.
REALTIME_ARGUMENTS = "pciehp.pciehp_poll_mode=1 pciehp.pciehp_poll_time=1"
# Every report of KASAN counts, not only the first; reports are long. Five levels of page tables are
# off: KASAN takes good addresses for bad ones while the kernel finds out what the processor can do.
DEBUG_ARGUMENTS = "kasan_multi_shot log_buf_len=4M no5lvl"
# More for the debug kernel. The last one makes mistakes on purpose.
DEBUG_BOOTS = [
    ("switch", ["nth"]),
    ("switch", ["dmem"]),
    ("switch", ["debug"]),
]


class Tally:
    """Counts over all groups."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def add(self, group: str, passed: int, failed: int, note: str = "") -> None:
        self.passed += passed
        self.failed += failed
        print(f"== {group}: {passed} passed, {failed} failed{note}\n", flush=True)


def selection(cases: list[str]) -> list[str]:
    """Returns the arguments of guest-tests for the cases named, or for all that no boot names."""
    if cases:
        return cases
    named = {group for _, groups in BOOTS + DEBUG_BOOTS for group in groups}
    return [word for group in sorted(named) for word in ("--except", f"{group}_")]


def name_of(topology: str, cases: list[str]) -> str:
    """Returns the name of a boot."""
    return "-".join([topology, *cases])


@dataclass
class Guests:
    """Boots topologies and runs guest cases there, as many side by side as there are processors."""

    kernel: str
    debug: bool = False
    # The folder of module/ and kmod/.
    products: Path | None = None
    # Takes lines of a boot, known by its name, that are for the caller.
    take: Callable[[str, str], bool] = lambda name, line: False
    tally: Tally = field(default_factory=Tally)

    def run(self, boots: list[tuple[str, list[str]]]) -> None:
        """Runs all and prints their output, one after the other."""
        if len(boots) == 1:
            self.tally.add(*self.boot(*boots[0], lambda line: print(line, end="", flush=True)))
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            texts: list[list[str]] = [[] for _ in boots]
            results = [
                pool.submit(self.boot, topology, cases, text.append)
                for (topology, cases), text in zip(boots, texts)
            ]
            for result, text in zip(results, texts):
                verdict = result.result()
                print("".join(text), end="")
                self.tally.add(*verdict)

    def arguments(self) -> list[str]:
        """Returns the arguments that this kernel needs."""
        words = [DEBUG_ARGUMENTS] if self.debug else []
        if "-rt-" in (Path(self.kernel) / "release").read_text():
            words.append(REALTIME_ARGUMENTS)
        return words

    def boot(
        self, topology: str, cases: list[str], say: Callable[[str], None]
    ) -> tuple[str, int, int]:
        """Boots a topology and runs the cases named, or all. Returns the report."""
        settings = [f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
        limit = (1800 if self.debug else 900) + int(os.environ.get("TORTURE_SECONDS") or 0)
        products = self.products or TOP / ("build/debug" if self.debug else "build")
        command = [
            str(TOP / "qemu/boot"), "--kernel", self.kernel, "--topology", topology,
            "--name", f"test-{topology}", "--timeout", str(limit),
            "--append", " ".join(self.arguments()),
            "--module", str(products / "module/p2pmem_rs.ko"),
            "--module", str(products / "kmod/p2pmem_test.ko"),
            "--module", str(products / "kmod/p2pmem_roles.ko"),
            "--module", str(products / "kmod/p2pmem_pusher.ko"),
            "--program", str(PROGRAMS / "guest-tests"), "--program", str(PROGRAMS / "p2pmem"),
            *(word for path in sorted(PROGRAMS.glob("example-*")) for word in ("--program", str(path))),
            "--", JOB % " ".join([*settings, "guest-tests", "--no-skip", *selection(cases)]),
        ]
        for _ in range(ATTEMPTS):
            report = Report()
            with subprocess.Popen(
                command, cwd=TOP, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as boot:
                for line in boot.stdout:
                    if not self.take(name_of(topology, cases), line):
                        say(line)
                        report.feed(line)
            # Lines of the failed boot do not count.
            if boot.returncode != MACHINE_FAILED:
                break
        failed = len(report.failed) + len(report.skipped) + report.missing()
        # Mistakes that were made on purpose must be found on the host as well.
        if cases == ["debug"] and boot.returncode == LAB_FAILED:
            say("# these mistakes were made on purpose\n")
        elif boot.returncode != 0 and failed == 0:
            say(f"# the guest ended with status {boot.returncode}, see above\n")
            failed = 1
        kernel = ", debug kernel" if self.debug else ""
        return f"tests/guest on {name_of(topology, cases)}{kernel}", len(report.passed), failed
