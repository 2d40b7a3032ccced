# SPDX-License-Identifier: GPL-2.0
"""Copies from drive to drive, judged from outside of the guest."""

import os
import unittest
from pathlib import Path

from lab.topology import load
from lab.vm import TOP, boot, clean

SIZE = 16 << 20
CHUNK = 2 << 20

# Drives are known by their serial numbers.
JOB = f"""
insmod /modules/p2pmem_rs.ko || exit 1
pci() {{ basename "$(readlink -f "$(dirname "$(grep -lw "$1" /sys/class/nvme/*/serial)")/device")"; }}
drive() {{ echo /dev/"$(basename "$(dirname "$(grep -lw "$1" /sys/class/nvme/*/serial)")")"n1; }}
memory() {{ basename /sys/bus/pci/devices/"$(pci "$1")"/misc/p2pmem*; }}
echo "$(pci pmr) pmr" >/sys/module/p2pmem_rs/regions || exit 1
p2pmem copy $(drive pmr) $(drive disk0) --via /dev/$(memory pmr) --size {SIZE} --chunk {CHUNK} || exit 1
p2pmem copy $(drive disk0) $(drive disk1) --via /dev/$(memory both) --size {SIZE} --chunk {CHUNK}
"""


class Copies(unittest.TestCase):
    """The host sees the images of the drives, and the memory behind a PMR."""

    def test_through_pmr_and_cmb(self):
        data = os.urandom(SIZE)
        said = []

        def prepare(folder: Path) -> None:
            (folder / "pmr.img").write_bytes(data + bytes(SIZE))

        outcome = boot(
            load("pmr"), Path(os.environ["P2PMEM_KERNEL"]),
            name="copies", modules=[TOP / "build/module/p2pmem_rs.ko"],
            programs=[TOP / "build/bin/p2pmem"],
            job=JOB, timeout=120, line=said.append, prepare=prepare,
        )
        self.assertEqual(outcome.status, 0, said)

        for name in ("disk0", "disk1"):
            image = (outcome.folder / f"{name}.img").read_bytes()
            self.assertTrue(image.startswith(data), f"{name} differs from the copied data")
        # The last data of the region is in its memory still.
        memory = (outcome.folder / "pmr.mem").read_bytes()
        self.assertGreaterEqual(memory.find(data[-CHUNK:]), 0, "the PMR was not passed through")
        clean(outcome)


if __name__ == "__main__":
    unittest.main()
