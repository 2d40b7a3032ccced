# SPDX-License-Identifier: GPL-2.0
"""Which guest cases run on which topology, and a boot that runs them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ktap import Report

TOP = Path(__file__).resolve().parents[1]
# Exit status of qemu/boot: the job is done, but the kernel reported a mistake.
LAB_FAILED = 125
PROGRAMS = TOP / "build/bin"

# Topology, and which of the guest cases need just that one.
BOOTS = [
    ("switch", []),  # all others
    ("switch-two-bars", ["providers"]),
    ("no-switch", ["unreachable"]),
    ("any-bar", ["override"]),
    ("cmb", ["adopt", "cmb"]),
    ("pmr", ["pmr"]),
    ("hotplug", ["hotplug", "torture"]),
    ("hotplug-native", ["native"]),
]

# What is passed on to the cases.
SETTINGS = ["TORTURE_SECONDS", "TORTURE_SEED", "FEW_ROUNDS"]

# The cases, and then what an instrumented module counted.
JOB = """%s
status=$?
for name in cnts data; do
	[ ! -e /tmp/coverage.$name ] || echo "lab: coverage $name $(base64 -w 0 /tmp/coverage.$name)"
done
exit $status"""

# Not for the debug kernel: lockdep finds that mainline's pciehp takes its locks in either order when
# it removes ports within ports.
STOCK_ONLY = ["hotplug-native"]
# More for the debug kernel. The last one makes mistakes on purpose.
DEBUG_BOOTS = [
    ("switch", ["nth"]),
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


def guest(
    tally: Tally, kernel: str, debug: bool, topology: str, cases: list[str],
    products: Path | None = None, take: Callable[[str], bool] = lambda line: False,
) -> None:
    """Boots a topology and runs guest cases there: those named, or all.

    Lines that `take` takes are for the caller.
    """
    settings = [f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
    limit = (1800 if debug else 900) + int(os.environ.get("TORTURE_SECONDS") or 0)
    products = products or TOP / ("build/debug" if debug else "build")
    command = [
        str(TOP / "qemu/boot"), "--kernel", kernel, "--topology", topology,
        "--name", f"test-{topology}", "--timeout", str(limit),
        # Every report of KASAN counts, not only the first; reports are long.
        "--append", "kasan_multi_shot log_buf_len=4M" if debug else "",
        "--module", str(products / "module/p2pmem_rs.ko"),
        "--module", str(products / "kmod/p2pmem_test.ko"),
        "--program", str(PROGRAMS / "guest-tests"), "--program", str(PROGRAMS / "p2pmem"),
        "--", JOB % " ".join([*settings, "guest-tests", "--no-skip", *cases]),
    ]
    environment = dict(os.environ)
    if topology == "no-switch":
        # What the kernel allows depends on the CPU: take one that is the same everywhere.
        environment["P2PMEM_ACCEL"] = "tcg"
    report = Report()
    with subprocess.Popen(
        command, cwd=TOP, env=environment, stdout=subprocess.PIPE, text=True
    ) as boot:
        for line in boot.stdout:
            if not take(line):
                print(line, end="", flush=True)
                report.feed(line)
    failed = len(report.failed) + len(report.skipped) + report.missing()
    # Mistakes that were made on purpose must be found on the host as well.
    if cases == ["debug"] and boot.returncode == LAB_FAILED:
        print("# these mistakes were made on purpose")
    elif boot.returncode != 0 and failed == 0:
        print(f"# the guest ended with status {boot.returncode}, see above")
        failed = 1
    name = f"{topology}, debug kernel" if debug else topology
    tally.add(f"tests/guest on {name}", len(report.passed), failed)
