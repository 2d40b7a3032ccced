# SPDX-License-Identifier: GPL-2.0
"""The guest's initramfs: busybox, modules, programs, and an init that runs a job."""

import lzma
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from lab import LabError
from lab.topology import Topology

# Modules of the stock kernel that every guest has; what they depend on comes along.
MODULES = ["nvme"]

INIT = """\
#!/bin/sh
# Made by qemu/lab/image.py.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
export PATH=/bin HOME=/root TERM=@TERM@

for module in @MODULES@; do
	modprobe $module
done

# The drives that the topology has.
left=300
while [ "$(ls -d /sys/class/nvme/nvme*/nvme*n1 2>/dev/null | wc -l)" -lt @DRIVES@ ]; do
	left=$((left - 1))
	if [ $left -eq 0 ]; then
		echo "lab: of @DRIVES@ drives only these came up:" $(ls /sys/class/nvme) >/dev/ttyS1
		break
	fi
	sleep 0.1
done

@RUN@
"""

JOB = """\
# The verdict has a channel of its own. Through a pipe: programs talk to no terminal.
stty -F /dev/ttyS1 raw -echo
echo '@MARK@' >/dev/kmsg
{
	sh -c @JOB@ 2>&1 </dev/null
	echo "@VERDICT@ $?"
} | cat >/dev/ttyS1
sleep 0.1
poweroff -f
"""

SHELL = """\
cat /etc/motd
cd /root
setsid cttyhack sh -l
poweroff -f
"""

# In the kernel log: what comes after it belongs to the job.
MARK = "lab: the job begins"
# On the verdict channel: the job's exit status follows.
VERDICT = "lab: exit"


class Image:
    """A tree of files that becomes an initramfs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("bin", "dev", "etc", "lib", "modules", "proc", "root", "sys", "tmp"):
            (root / folder).mkdir(parents=True)
        # init's, before there is a devtmpfs.
        if os.geteuid() == 0:
            os.mknod(root / "dev/console", 0o600 | stat.S_IFCHR, os.makedev(5, 1))

    def add(self, source: Path, target: str, mode: int = 0o755) -> None:
        """Adds a file."""
        path = self.root / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, path)
        except FileNotFoundError:
            raise LabError(f"{source} is missing: build it first (make modules tools)") from None
        path.chmod(mode)

    def write(self, target: str, text: str, mode: int = 0o755) -> None:
        """Adds a file with a text."""
        path = self.root / target.lstrip("/")
        path.write_text(text)
        path.chmod(mode)

    def add_busybox(self) -> None:
        """Adds busybox under all its names."""
        busybox = shutil.which("busybox")
        if not busybox:
            raise LabError("busybox is missing: install the package busybox-static")
        self.add(Path(busybox), "/bin/busybox")
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for name in names.stdout.split():
            if name != "busybox" and not (self.root / "bin" / name).exists():
                (self.root / "bin" / name).symlink_to("busybox")

    def add_kernel_modules(self, kernel: Path, release: str, wanted: list[str]) -> None:
        """Adds modules of the stock kernel, and those they depend on."""
        folder = kernel / "modules"
        needs: dict[str, list[str]] = {}
        paths: dict[str, str] = {}
        for line in (folder / "modules.dep").read_text().splitlines():
            path, _, dependencies = line.partition(":")
            name = Path(path).name.split(".")[0].replace("-", "_")
            paths[name] = path
            needs[name] = [path, *dependencies.split()]

        target = self.root / "lib/modules" / release
        target.mkdir(parents=True)
        lines = []
        done: set[str] = set()
        pending = [name.replace("-", "_") for name in wanted]
        while pending:
            name = pending.pop()
            if name in done:
                continue
            done.add(name)
            if name not in paths:
                raise LabError(f"the stock kernel has no module {name}")
            files = []
            for path in needs[name]:
                plain = path.removesuffix(".xz")
                files.append(plain)
                pending.append(Path(path).name.split(".")[0].replace("-", "_"))
            (target / files[0]).parent.mkdir(parents=True, exist_ok=True)
            data = (folder / paths[name]).read_bytes()
            (target / files[0]).write_bytes(
                lzma.decompress(data) if paths[name].endswith(".xz") else data
            )
            lines.append(f"{files[0]}: {' '.join(files[1:])}\n")
        (target / "modules.dep").write_text("".join(lines))

    def pack(self, output: Path) -> None:
        """Writes the initramfs, not compressed: that would take longer than it saves."""
        names = sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))
        with open(output, "wb") as file:
            subprocess.run(
                ["cpio", "--create", "--format=newc", "--owner=+0:+0", "--null", "--quiet"],
                cwd=self.root, stdout=file, input="\0".join(names).encode(), check=True,
            )


def build(
    folder: Path,
    kernel: Path,
    topology: Topology,
    modules: list[Path],
    programs: list[Path],
    job: str | None,
) -> Path:
    """Makes an initramfs in `folder` that runs `job`, or a shell, and returns its path."""
    try:
        release = (kernel / "release").read_text().strip()
    except OSError:
        raise LabError(f"{kernel} is not a prepared kernel: tools/build/kernel makes one") from None

    root = folder / "initramfs"
    image = Image(root)
    image.add_busybox()
    image.add_kernel_modules(kernel, release, MODULES)
    for module in modules:
        image.add(module, f"/modules/{module.name}", 0o644)
    for program in programs:
        image.add(program, f"/bin/{program.name}")

    if job is None:
        run = SHELL
        image.write(
            "/etc/motd",
            f"\nThe modules under test are in /modules, not loaded: insmod /modules/{modules[0].name}\n"
            "Leave by `exit`.\n\n" if modules else "\nLeave by `exit`.\n\n",
        )
    else:
        run = JOB.replace("@JOB@", shlex.quote(job))
    init = (
        INIT.replace("@RUN@", run)
        .replace("@MARK@", MARK)
        .replace("@VERDICT@", VERDICT)
        .replace("@MODULES@", " ".join(MODULES))
        .replace("@DRIVES@", str(len(topology.images())))
        .replace("@TERM@", os.environ.get("TERM", "linux"))
    )
    image.write("/init", init)
    output = folder / "initramfs.cpio"
    image.pack(output)
    shutil.rmtree(root)
    return output
