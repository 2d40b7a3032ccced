# SPDX-License-Identifier: GPL-2.0
"""One boot of the stock kernel in QEMU: started, watched, and judged."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab import LabError, image
from lab.console import findings
from lab.interrupts import halted, in_service
from lab.topology import Topology, socket_of

TOP = Path(__file__).resolve().parents[2]
RUNS = TOP / "build/lab"
KEPT_RUNS = 20
QEMU = "qemu-system-x86_64"
# The devices that QEMU does not have.
DEVICE = TOP / "build/bin/lab-device"

# Exit statuses of a boot that are not the job's own.
TIMED_OUT = 124
LAB_FAILED = 125
# QEMU lost an interrupt, or died, or the kernel did before the job began (TCG does not always see
# code that the other processor patches): the boot proves nothing.
MACHINE_FAILED = 126

# For how long a guest may say nothing before it is looked at, in seconds.
SILENCE = 60

KERNEL_ARGUMENTS = [
    "console=ttyS0,115200",
    # A crash ends the boot, and QEMU with it.
    "oops=panic",
    "panic=-1",
    # Cases mark their place in the log: none of these lines may be left out.
    "printk.devkmsg=on",
    # For the question what a guest that hangs is doing.
    "sysrq_always_enabled",
]
ACCELERATORS = {
    "kvm": ["-accel", "kvm"],
    "tcg": ["-accel", "tcg,thread=multi"],
}
CPUS = {"kvm": "host", "tcg": "max"}
# The guest's clock counts instructions: costs are the same in each boot, to some parts in a
# thousand. Addresses must be the same, too.
COUNTED = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]
COUNTED_ARGUMENTS = "nokaslr norandmaps"


@dataclass
class Outcome:
    """How a boot ended."""

    status: int
    folder: Path
    seconds: float
    accelerator: str


def kvm_works() -> bool:
    """Whether KVM can really run the kernel: the device alone says little."""
    loaded = any(Path("/sys/module", name).exists() for name in ("kvm_intel", "kvm_amd"))
    if not loaded or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    # A machine that stops itself at once, if it can be started at all.
    command = [QEMU, "-M", "q35", *ACCELERATORS["kvm"], "-cpu", CPUS["kvm"], "-nodefaults", "-display", "none",
               "-S", "-qmp", "stdio"]
    words = '{"execute":"qmp_capabilities"}{"execute":"quit"}'
    try:
        run = subprocess.run(command, input=words, capture_output=True, text=True, timeout=10,
                             check=False)
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def choose_accelerator() -> str:
    """Returns kvm or tcg; P2PMEM_ACCEL decides where it is set."""
    wanted = os.environ.get("P2PMEM_ACCEL", "")
    if wanted and wanted not in ACCELERATORS:
        raise LabError(f"P2PMEM_ACCEL={wanted}: it is tcg or kvm")
    if wanted == "kvm" and not kvm_works():
        raise LabError("P2PMEM_ACCEL=kvm, but KVM does not work here: load kvm_intel or kvm_amd, "
                       "get access to /dev/kvm, or use P2PMEM_ACCEL=tcg")
    return wanted or ("kvm" if kvm_works() else "tcg")


def new_folder(name: str) -> Path:
    """Makes the directory of a run, and removes the oldest ones that have ended."""
    try:
        RUNS.mkdir(parents=True, exist_ok=True)
        for old in sorted(RUNS.iterdir())[: -KEPT_RUNS]:
            pid = old.name.rsplit("-", 1)[-1]
            if not Path("/proc", pid).exists():
                shutil.rmtree(old, ignore_errors=True)
        folder = RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{os.getpid()}"
        folder.mkdir()
    except OSError as error:
        raise LabError(f"cannot make a directory in {RUNS}: {error.strerror}") from None
    return folder


class Qmp:
    """As much of QEMU's monitor as the lab needs."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        # Pulling a device takes some seconds: the button can be pressed again during that. The
        # debug kernel takes longer under load.
        self.socket.settimeout(120)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments):
        """Sends a command and returns its answer; for a device that is pulled, once it is gone."""
        words = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(words).encode() + b"\n")
        answered = False
        result = None
        gone = command != "device_del"
        while not (answered and gone):
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise LabError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                answered = True
                result = answer["return"]
            gone |= (answer.get("event") == "DEVICE_DELETED"
                     and answer["data"].get("device") == arguments.get("id"))
        return result


class Servers:
    """The devices of a topology that are processes of their own."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        if topology.servers() and not DEVICE.exists():
            raise LabError(f"{DEVICE} is missing: build it first (make tools)")
        for device in topology.servers():
            properties = dict(device.properties)
            command = [str(DEVICE), properties.pop("model")]
            command += [f"{key}={value}" for key, value in properties.items()]
            with (
                socket.socket(socket.AF_UNIX) as listener,
                open(self.log(device.name), "wb") as log,
            ):
                # A socket's name is short: that of the directory may be too long.
                here = os.open(folder, os.O_PATH)
                listener.bind(f"/proc/self/fd/{here}/{socket_of(device.name)}")
                os.close(here)
                listener.listen()
                self.running[device.name] = subprocess.Popen(
                    command, stdin=listener, stdout=log, stderr=log
                )

    def log(self, name: str) -> Path:
        """Returns where a device complains."""
        return self.folder / f"{name}.err"

    def check(self) -> None:
        """LabError if a device has ended: it is there as long as the machine is."""
        for name, process in self.running.items():
            if process.poll() is not None:
                why = self.log(name).read_text(errors="replace").strip()
                raise LabError(f"the device {name} ended: {why or process.returncode}")

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


class Machine:
    """A virtual machine, from its command line to its end."""

    def __init__(
        self, topology: Topology, kernel: Path, folder: Path, shell: bool, counted: bool
    ) -> None:
        self.topology = topology
        # QEMU runs in the directory of the run.
        self.kernel = kernel.resolve()
        self.folder = folder
        self.shell = shell
        self.accelerator = "tcg" if topology.cpu or counted else choose_accelerator()
        self.counted = counted
        self.cpu = topology.cpu or CPUS[self.accelerator]
        self.verdict = folder / "verdict.log"
        self.console = folder / "console.log"
        self.share = folder / "share"
        self.qmp: Qmp | None = None
        topology.create_files(folder)

    def command(self, initramfs: Path, append: str) -> list[str]:
        """Returns the QEMU command."""
        console = f"logfile={self.console}"
        # A log has all messages, a terminal a clear screen.
        append = f"loglevel={3 if self.shell else 7} {self.topology.append} {append}"
        accelerator = ACCELERATORS[self.accelerator]
        if self.counted:
            accelerator = COUNTED
            append = f"{COUNTED_ARGUMENTS} {append}"
        share = []
        if self.topology.programs:
            share += ["-virtfs", "local,path=/,mount_tag=debian,security_model=none,readonly=on,multidevs=remap"]
        if self.shell:
            share += ["-virtfs", f"local,path={self.share},mount_tag=share,security_model=none"]
            console = f"stdio,id=console,signal=off,{console}"
        else:
            console = f"socket,id=console,path={self.folder}/console.sock,server=on,wait=off,{console}"
        return [
            QEMU, "-M", self.topology.machine(), *accelerator, "-cpu", self.cpu,
            "-smp", "1" if self.counted else "2", "-m", self.topology.ram,
            "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", str(self.kernel / "vmlinuz"), "-initrd", str(initramfs),
            "-append", " ".join([*KERNEL_ARGUMENTS, append]).strip(),
            "-chardev", console, "-serial", "chardev:console",
            "-chardev", f"file,id=verdict,path={self.verdict}", "-serial", "chardev:verdict",
            "-qmp", f"unix:{self.folder}/qmp.sock,server=on,wait=off",
            *self.topology.arguments(self.folder), *share,
        ]

    def run_shell(self, initramfs: Path, append: str) -> int:
        """Gives the terminal to the guest until it ends."""
        self.share.mkdir()
        with Servers(self.topology, self.folder):
            command = self.command(initramfs, append)
            return subprocess.run(command, cwd=self.folder, check=False).returncode

    def run_job(
        self, initramfs: Path, append: str, timeout: float, line: Callable[[str], None]
    ) -> int:
        """Runs the guest until its job ends. Returns the exit status of the boot."""
        command = self.command(initramfs, append)
        (self.folder / "qemu.cmd").write_text(shlex.join(command) + "\n")
        self.verdict.touch()
        errors = self.folder / "qemu.err"
        deadline = time.monotonic() + timeout

        with (
            open(errors, "wb") as stderr,
            open(self.verdict, encoding="utf-8", errors="replace") as verdict,
            Servers(self.topology, self.folder) as servers,
            subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr
            ) as qemu,
        ):
            status = None
            rest = ""
            try:
                ended = False
                look = time.monotonic() + SILENCE
                while True:
                    said = verdict.read()
                    if said:
                        look = time.monotonic() + SILENCE
                    rest += said
                    *lines, rest = rest.split("\n")
                    for text in lines:
                        text = text.rstrip("\r")
                        if text.startswith(image.VERDICT):
                            status = int(text.split()[-1])
                        elif text.startswith(image.QMP):
                            self.do(text.removeprefix(image.QMP), line)
                        else:
                            line(text)
                    if ended:
                        break
                    if time.monotonic() > deadline:
                        self.ask_what_it_does()
                        line(f"# the guest did not end within {timeout:.0f} s; the last it said is "
                             f"above and in {self.console.relative_to(TOP)}")
                        return TIMED_OUT
                    if time.monotonic() > look:
                        look += SILENCE
                        lost = self.lost_interrupt()
                        if lost:
                            line(f"# {lost}: run this again")
                            return MACHINE_FAILED
                    # One more round after the end: what was written last counts as well.
                    ended = qemu.poll() is not None
                    if not ended:
                        servers.check()
                        time.sleep(0.02)
            finally:
                qemu.kill()

        if qemu.returncode > 0:
            raise LabError(f"QEMU failed: {errors.read_text(errors='replace').strip() or qemu.returncode}")
        if qemu.returncode < 0 and status is None:
            # An assertion of QEMU's own, most likely.
            why = errors.read_text(errors="replace").strip() or "it said nothing"
            line(f"# QEMU died of signal {-qemu.returncode} ({why}): run this again")
            return MACHINE_FAILED
        if status is None:
            if image.MARK not in self.console.read_text(errors="replace"):
                line("# the guest ended before its job began: run this again")
                return MACHINE_FAILED
            line("# the guest ended without a verdict")
            return LAB_FAILED
        return status

    def do(self, text: str, line: Callable[[str], None]) -> None:
        """Does what the guest asks QEMU for."""
        try:
            words = json.loads(text)
            if not self.qmp:
                self.qmp = Qmp(self.folder / "qmp.sock")
            self.qmp.execute(words["execute"], **words.get("arguments", {}))
        except (OSError, LabError, ValueError, KeyError) as error:
            line(f"# QEMU cannot do {text}: {error}")
            if isinstance(error, OSError):
                # There is no reading from it any more.
                self.qmp = None

    def lost_interrupt(self) -> str:
        """Says which interrupt QEMU lost, if it did."""
        try:
            self.qmp = self.qmp or Qmp(self.folder / "qmp.sock")
            first = self.unfinished()
            if not first:
                return ""
            # Answers that follow each other may not fit together.
            time.sleep(2)
            for number, vectors in self.unfinished().items():
                if first.get(number) == vectors:
                    return (f"QEMU lost an interrupt: processor {number} is halted, and vector {vectors} "
                            "still in service")
        except (OSError, LabError, ValueError):
            # It ends at this very moment.
            self.qmp = None
        return ""

    def unfinished(self) -> dict[int, str]:
        """Returns the processors that wait for interrupts, and the vectors in service there."""
        def ask(text: str) -> str:
            return self.qmp.execute("human-monitor-command", **{"command-line": text})

        before = halted(ask("info registers -a"))
        vectors = {number: in_service(ask(f"info lapic {number}")) for number in before}
        after = halted(ask("info registers -a"))
        return {number: text for number, text in vectors.items() if text and number in after}

    def ask_what_it_does(self) -> None:
        """Makes a guest that hangs print its CPUs, blocked tasks, and the stacks of all tasks."""
        try:
            qmp = self.qmp or Qmp(self.folder / "qmp.sock")
            console = socket.socket(socket.AF_UNIX)
            console.connect(str(self.folder / "console.sock"))
            for key in b"l", b"w", b"t":
                qmp.execute("chardev-send-break", id="console")
                time.sleep(0.2)
                console.sendall(key)
                time.sleep(2)
        except (OSError, LabError, ValueError) as error:
            with open(self.console, "a", encoding="utf-8") as log:
                log.write(f"\nlab: the guest could not be asked what it does: {error}\n")


def boot(
    topology: Topology,
    kernel: Path,
    *,
    name: str,
    modules: list[Path],
    programs: list[Path],
    job: str | None,
    timeout: float,
    append: str = "",
    counted: bool = False,
    line: Callable[[str], None] = print,
    prepare: Callable[[Path], None] = lambda folder: None,
) -> Outcome:
    """Boots a topology and runs a job there, or a shell where there is none.

    `prepare` is called with the directory of the run before the machine starts. Images and
    memories are still there when this returns; `clean()` removes them. With `counted` there is one
    processor, and time is counted in instructions.
    """
    if not shutil.which(QEMU):
        raise LabError(f"{QEMU} is missing: install the package qemu-system-x86")
    folder = new_folder(name)
    machine = Machine(topology, kernel, folder, job is None, counted)
    initramfs = image.build(folder, kernel, topology, modules, programs, job)
    prepare(folder)

    started = time.monotonic()
    if job is None:
        status = machine.run_shell(initramfs, append)
    else:
        status = machine.run_job(initramfs, append, timeout, line)
        status = judge(machine, status, line)
    initramfs.unlink()
    return Outcome(status, folder, time.monotonic() - started, machine.accelerator)


def judge(machine: Machine, status: int, line: Callable[[str], None]) -> int:
    """Reads the kernel's log: a mistake in it fails the boot, also if the job passed."""
    log = machine.console.read_text(errors="replace")
    found = findings(log, image.MARK)
    for text in found:
        line("# in the kernel log:")
        for part in text.splitlines():
            line(f"#   {part}")
    if status == TIMED_OUT and not found:
        for part in log.splitlines()[-40:]:
            line(f"#   {part}")
    return status if status or not found else LAB_FAILED


def clean(outcome: Outcome) -> None:
    """Removes what is large from the directory of a run; logs stay."""
    for pattern in ("*.img", "*.mem", "*.sock"):
        for path in outcome.folder.glob(pattern):
            path.unlink()
