# SPDX-License-Identifier: GPL-2.0
"""The guest's initramfs: busybox, modules, programs, and the job of init."""

import lzma
import os
import shutil
import stat
import subprocess
from pathlib import Path

from lab import LabError
from lab.topology import Topology

# Modules of the stock kernel that every guest has; what they depend on comes along.
MODULES = ["nvme"]
# More of them where a directory of the host is shared: with a shell, or for programs of the build
# root.
SHARE_MODULES = ["virtio_pci", "9pnet_virtio", "9p"]
# Modules that a job may load.
SPARE_MODULES = ["ext4", "loop"]

INIT = Path(__file__).resolve().parents[1] / "guest/init"
# The line that init writes to the kernel log before the job: later lines belong to the job.
MARK = "lab: the job begins"
# The line that init writes to the verdict channel: the job's exit status follows.
VERDICT = "lab: exit"
# The line that a job writes to control QEMU, as to pull a device: a command of QMP follows.
QMP = "lab: qmp "


class Image:
    """A tree of files that becomes an initramfs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("bin", "dev", "lab", "lib", "modules", "proc", "root", "sys", "tmp"):
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

    def write(self, target: str, text: str) -> None:
        """Adds a file with a text."""
        (self.root / target.lstrip("/")).write_text(text)

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
        for path in (folder / "modules.builtin").read_text().split():
            needs[Path(path).stem.replace("-", "_")] = []

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
            if name not in needs:
                raise LabError(f"the kernel has no module {name}")
            if not needs[name]:
                # Built in.
                continue
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
    for program in topology.programs:
        if not shutil.which(program):
            raise LabError(f"topology {topology.name}: the build root has no program {program}: "
                           "add its package to tools/build/enter")
    loaded = MODULES + (SHARE_MODULES if job is None or topology.programs else [])
    image.add_kernel_modules(kernel, release, loaded + SPARE_MODULES + topology.modules)
    for module in modules:
        image.add(module, f"/modules/{module.name}", 0o644)
    for program in programs:
        image.add(program, f"/bin/{program.name}")

    image.add(INIT, "/init")
    image.write("/lab/modules", "".join(f"{name}\n" for name in loaded))
    image.write("/lab/drives", f"{len(topology.drives())}\n")
    if topology.programs:
        (root / "debian").mkdir()
    if job is None:
        hints = [f"  insmod /modules/{module.name}" for module in modules]
        image.write("/lab/motd", "\n".join(
            ["", "The modules under test are not loaded:", *hints,
             "What is written to /share is kept on the host. Leave by `exit`.", "", ""]
        ))
    else:
        image.write("/lab/job", job + "\n")
    output = folder / "initramfs.cpio"
    image.pack(output)
    shutil.rmtree(root)
    return output
