# SPDX-License-Identifier: GPL-2.0
"""The report of the main job, from the output of the guest."""

import json
from dataclasses import dataclass, field
from pathlib import PurePath

# The ports that QEMU has.
PORTS = {
    "0x1b36:0x000c": "root port",
    "0x104c:0x8232": "switch, upstream port",
    "0x104c:0x8233": "switch, downstream port",
}


@dataclass
class Drive:
    """A drive as the guest sees it."""

    serial: str
    pci: str


@dataclass
class Facts:
    """Lines of the guest, parsed."""

    drives: dict[str, Drive] = field(default_factory=dict)
    # The PCI addresses from the root to each device.
    paths: list[list[str]] = field(default_factory=list)
    # Vendor and device ID of each PCI address.
    ids: dict[str, str] = field(default_factory=dict)
    copied: dict = field(default_factory=dict)
    providers: list[dict] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Takes a line, if it has a fact."""
        kind, _, rest = line.partition(" ")
        if kind == "drive":
            name, serial, pci = rest.split()
            self.drives[name] = Drive(serial, pci)
        elif kind == "pci":
            path, ids = rest.split()
            addresses = [part for part in PurePath(path).parts if part.count(":") == 2]
            self.paths.append(addresses)
            self.ids[addresses[-1]] = ids
        elif kind == "copy":
            self.copied = json.loads(rest)
        elif kind == "list":
            self.providers = json.loads(rest)["providers"]
        else:
            return False
        return True

    def label(self, pci: str) -> str:
        """Returns the label of a PCI device, for the tree."""
        for name, drive in self.drives.items():
            if drive.pci == pci:
                return f"/dev/{name}n1"
        for provider in self.providers:
            if provider["pci"] == pci:
                return provider["path"]
        return PORTS.get(self.ids.get(pci, ""), "bridge")


def tree(facts: Facts) -> list[str]:
    """Draws the part of the PCI tree that leads to drives and providers."""
    children: dict[str, set[str]] = {}
    wanted = {drive.pci for drive in facts.drives.values()}
    wanted |= {provider["pci"] for provider in facts.providers}
    for path in facts.paths:
        if path and path[-1] in wanted:
            for above, below in zip(["", *path], path):
                children.setdefault(above, set()).add(below)

    lines = []

    def draw(pci: str, indent: str) -> None:
        below = sorted(children.get(pci, ()))
        for number, child in enumerate(below):
            last = number == len(below) - 1
            lines.append(f"{indent}{'`-' if last else '|-'} {child}  {facts.label(child)}")
            draw(child, indent + ("   " if last else "|  "))

    draw("", "  ")
    return lines


def first_difference(one: bytes, other: bytes) -> int | None:
    """Returns the offset of the first byte that differs; the shorter one's length if one ends."""
    if one == other:
        return None
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high) // 2
        if one[low : middle + 1] == other[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


def render(
    facts: Facts,
    *,
    release: str,
    version: str,
    accelerator: str,
    boot_seconds: float,
    seconds: float,
    checks: list[tuple[str, bool, str]],
) -> str:
    """Returns the report. Fits a screen."""
    copied = facts.copied
    lines = [
        "",
        f"Kernel     {release}, package {version}, not modified",
        f"Machine    QEMU q35, {accelerator.upper()}; up and down in {boot_seconds:.1f} s",
        "Topology",
        *tree(facts),
        "Providers",
    ]
    for provider in facts.providers:
        regions = ", ".join(
            f"BAR {region['bar']} {region['size'] >> 20} MiB" for region in provider["regions"]
        )
        lines.append(
            f"  {provider['path']}  {provider['pci']} {provider['vendor']}:{provider['device']}"
            f"  {regions}, {provider['available'] >> 20} MiB free"
        )
    lines.append(
        f"Moved      {copied['bytes'] >> 20} MiB, {copied['chunk'] >> 20} MiB at a time:"
        f" {copied['source']} -> {copied['via']} -> {copied['destination']}"
    )
    lines.append("Verified")
    for what, good, detail in checks:
        lines.append(f"  {'ok    ' if good else 'FAILED'} {what}{': ' if detail else ''}{detail}")
    lines.append(f"Time       copy {copied['seconds']:.2f} s in the guest, {seconds:.1f} s in all")
    return "\n".join(lines)
