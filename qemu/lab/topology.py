# SPDX-License-Identifier: GPL-2.0
"""Topologies: small files that read like the machine, and the QEMU arguments they stand for.

A line is `kind name key=value ...`; what is indented is plugged into what is above it. A kind is
one of KINDS or any device of QEMU. A `vfio-user` is a device that QEMU does not have: `model=NAME`
says which of tests/devices/src/models, and the other keys are for that. `image=SIZE` gives an nvme
its drive, `memory=SIZE` gives an ivshmem its memory and an nvme a persistent memory region; both
are files that the host can read. Other keys are properties of the QEMU device; `count=N` stands for
N devices, eight in a slot, which have numbers behind their name. A line `global
DRIVER.PROPERTY=VALUE` sets a property that the machine has anyway, a line `cpu MODEL` chooses a CPU
for which there is no KVM, because what the kernel does depends on it, a line `kernel WORDS` adds to
the kernel's command line, and a line `ram SIZE` gives it more memory than usual. A line `modules
NAME ...` adds modules of the stock kernel that cases may load, and a line `programs NAME ...` names
programs of the build root that cases run: the guest then has the build root at /debian, read-only.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from lab import LabError

KINDS = {
    "root-port": "pcie-root-port",
    "switch-upstream": "x3130-upstream",
    "switch-downstream": "xio3130-downstream",
    "ivshmem": "ivshmem-plain",
    "vfio-user": "vfio-user-pci",
}
# These are part of the machine, on no bus of it.
BUSLESS = ("intel-iommu", "nvme-subsys")
# These sit on the first bus of a controller with the name of the controller and a number.
NUMBERED_BUS = ("ide-hd", "scsi-hd", "usb-storage", "usb-uas")
# These are slots of a chassis.
SLOTS = ("pcie-root-port", "xio3130-downstream")
# No ROM, and no write that is not waited for.
VFIO_USER = {"rombar": 0, "x-no-posted-writes": True}
SIZE = re.compile(r"^(\d+)([KMG])$")
UNITS = {"K": 10, "M": 20, "G": 30}


@dataclass
class Device:
    """A line of a topology, and what is plugged into it."""

    name: str
    driver: str
    properties: dict[str, str]
    image: int = 0
    memory: int = 0
    children: list["Device"] = field(default_factory=list)

    def walk(self):
        """Returns the device and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass
class Topology:
    """A whole machine's worth of PCIe devices."""

    name: str
    roots: list[Device]
    properties: list[str] = field(default_factory=list)
    cpu: str = ""
    append: str = ""
    ram: str = "2G"
    modules: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)

    def devices(self) -> list[Device]:
        """Returns all devices, parents first."""
        return [device for root in self.roots for device in root.walk()]

    def images(self) -> list[Device]:
        """Returns the devices that have an image."""
        return [device for device in self.devices() if device.image]

    def drives(self) -> list[Device]:
        """Returns the devices that the guest waits for: NVMe drives."""
        return [device for device in self.images() if device.driver.startswith("nvme")]

    def servers(self) -> list[Device]:
        """Returns the devices that are processes of their own."""
        return [device for device in self.devices() if device.driver == KINDS["vfio-user"]]

    def machine(self) -> str:
        """Returns the machine, and what its memory is made of: processes share it with QEMU."""
        return "q35,memory-backend=ram" if self.servers() else "q35"

    def create_files(self, folder: Path) -> None:
        """Creates images and memories that are not there yet. They take no space yet."""
        for device in self.devices():
            for size, path in (
                (device.image, folder / f"{device.name}.img"),
                (device.memory, folder / f"{device.name}.mem"),
            ):
                if size and not path.exists():
                    with open(path, "wb") as file:
                        file.truncate(size)

    def arguments(self, folder: Path) -> list[str]:
        """Returns the QEMU arguments; images and memories are files of `folder`."""
        words = [word for text in self.properties for word in ("-global", text)]
        if self.servers():
            words += ["-object", f"memory-backend-memfd,id=ram,share=on,size={self.ram}"]
        slot = 0

        def plug(device: Device, bus: str) -> None:
            nonlocal slot
            properties = {"id": device.name}
            if device.driver == KINDS["vfio-user"]:
                words.extend(["-device", json.dumps(
                    {"driver": device.driver, "id": device.name, "bus": bus} | VFIO_USER
                    | {"socket": {"type": "unix", "path": socket_of(device.name)}}
                )])
                return
            if device.driver not in BUSLESS:
                properties["bus"] = f"{bus}.0" if device.driver in NUMBERED_BUS else bus
            if device.driver in SLOTS:
                slot += 1
                properties |= {"chassis": str(slot), "slot": str(slot)}
            if device.image:
                drive = f"drive-{device.name}"
                path = folder / f"{device.name}.img"
                words.extend(["-drive", f"if=none,id={drive},format=raw,file={path}"])
                properties["drive"] = drive
                if device.driver != "nvme-ns":
                    properties["serial"] = device.name
            if device.memory:
                memory = f"memory-{device.name}"
                path = folder / f"{device.name}.mem"
                words.extend([
                    "-object",
                    f"memory-backend-file,id={memory},share=on,size={device.memory},mem-path={path}",
                ])
                properties["pmrdev" if device.driver == "nvme" else "memdev"] = memory
            properties |= device.properties
            pairs = [f"{key}={value}" for key, value in properties.items()]
            words.extend(["-device", ",".join([device.driver, *pairs])])
            for child in device.children:
                plug(child, device.name)

        for root in self.roots:
            plug(root, "pcie.0")
        return words


def socket_of(name: str) -> str:
    """Returns the socket of a device that is a process of its own, in the directory of the run."""
    return f"{name}.sock"


def copies(device: Device, count: int) -> list[Device]:
    """Returns that many devices like one, as functions of slots of a bus from 1 on."""
    return [
        Device(
            f"{device.name}-{number}", device.driver,
            {"addr": f"{1 + number // 8:x}.{number % 8}", "multifunction": "on"} | device.properties,
            device.image, device.memory,
        )
        for number in range(count)
    ]


def size_of(text: str) -> int:
    """Returns the bytes of a size like 64M. ValueError if it is not one."""
    match = SIZE.match(text)
    if not match or not int(match[1]):
        raise ValueError(f"{text} is not a size like 64M")
    return int(match[1]) << UNITS[match[2]]


def parse(name: str, text: str) -> Topology:
    """Reads a topology. Mistakes are LabErrors that name the line."""
    roots: list[Device] = []
    properties: list[str] = []
    settings = {"cpu": "", "kernel": "", "ram": "", "modules": "", "programs": ""}
    names: set[str] = set()
    above: list[tuple[int, Device]] = []
    counted: set[str] = set()

    for number, line in enumerate(text.splitlines(), 1):
        content = line.split("#", 1)[0].rstrip()
        if not content:
            continue

        def wrong(what: str, where: int = number) -> LabError:
            return LabError(f"topology {name}, line {where}: {what}")

        words = content.split()
        if "\t" in content:
            raise wrong("a tab: indent by spaces")
        if words[0] == "global":
            if len(words) != 2 or not re.fullmatch(r"[\w-]+\.[\w-]+=\S+", words[1]):
                raise wrong("write `global DRIVER.PROPERTY=VALUE`")
            properties.append(words[1])
            continue
        if words[0] in settings:
            setting = content.removeprefix(words[0]).strip()
            if not setting or settings[words[0]]:
                raise wrong(f"write one line `{words[0]} ...`")
            if words[0] == "ram" and not SIZE.match(setting):
                raise wrong(f"{setting} is not a size like 64M")
            settings[words[0]] = setting
            continue
        if len(words) < 2 or "=" in words[1]:
            raise wrong("write `kind name key=value ...`")
        kind, title, *pairs = words
        if not re.fullmatch(r"[a-z][a-z0-9-]*", title):
            raise wrong(f"{title} is not a name: use small letters, digits and dashes")
        if title in names:
            raise wrong(f"there are two devices named {title}")
        names.add(title)

        device = Device(title, KINDS.get(kind, kind), {})
        count = None
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not value:
                raise wrong(f"{pair} is not key=value")
            try:
                if key == "image":
                    device.image = size_of(value)
                elif key == "memory":
                    device.memory = size_of(value)
                elif key == "count":
                    count = int(value)
                else:
                    device.properties[key] = value
            except ValueError as error:
                raise wrong(str(error)) from None

        if device.driver == KINDS["vfio-user"] and (
            "model" not in device.properties or device.image or device.memory or count
        ):
            raise wrong("a vfio-user has a model=NAME, and keys that the model knows")

        indent = len(content) - len(content.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        if indent and not above:
            raise wrong("indented, but there is nothing above it to be plugged into")
        if above and above[-1][1].name in counted:
            raise wrong("nothing can be plugged into devices with a count")
        if count is not None:
            counted.add(title)
        siblings = above[-1][1].children if above else roots
        siblings.extend([device] if count is None else copies(device, count))
        above.append((indent, device))

    if not roots:
        raise LabError(f"topology {name} has no devices")
    return Topology(
        name, roots, properties, settings["cpu"], settings["kernel"], settings["ram"] or Topology.ram,
        settings["modules"].split(), settings["programs"].split(),
    )


def load(name: str) -> Topology:
    """Reads a topology of qemu/topologies."""
    folder = Path(__file__).resolve().parents[1] / "topologies"
    try:
        return parse(name, (folder / name).read_text())
    except OSError:
        known = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise LabError(f"no topology {name}: there are {known}") from None
