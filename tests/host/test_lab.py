# SPDX-License-Identifier: GPL-2.0
"""The pure parts of the lab: topologies, the scan of the kernel's log, the report."""

import json
import sys
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "qemu"))
from lab import LabError  # noqa: E402
from lab.console import findings  # noqa: E402
from lab.interrupts import halted, in_service  # noqa: E402
from lab.report import Facts, first_difference, render  # noqa: E402
from lab.topology import load, parse  # noqa: E402

SMALL = """
# A comment.
root-port rp0
  switch-upstream up0   # another
    switch-downstream dn0
      nvme disk0 image=64M cmb_size_mb=8
    switch-downstream dn1
      ivshmem bar0 memory=2M
root-port rp1
  pci-testdev odd membar=1M
"""


# Output of QEMU about a machine that stood still.
REGISTERS = """\r
CPU#0\r
RAX=0000000000000000 RBX=0000000000000000\r
RIP=ffffffffa4fb8d0f RFL=00000212 [----A--] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
\r
CPU#1\r
RIP=ffffffffa4fb8d0f RFL=00000016 [----AP-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
\r
CPU#2\r
RIP=ffffffffa4fb8d0f RFL=00000216 [----AP-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r
"""
LAPIC = "dumping local APIC state for CPU 0\r\n\r\nESR\t 0x00000000\r\nISR\t 236 \r\nIRR\t 35 36 236 \r\n"


class Interrupts(unittest.TestCase):
    def test_a_lost_one_is_known_by_both(self):
        self.assertEqual(halted(REGISTERS), [0])
        self.assertEqual(in_service(LAPIC), "236")
        self.assertEqual(in_service(LAPIC.replace("236 \r\nIRR", "48 236 \r\nIRR")), "48 236")
        self.assertEqual(in_service(LAPIC.replace("236 \r\nIRR", "33(level) \r\nIRR")), "33(level)")
        self.assertEqual(in_service(LAPIC.replace("236 \r\nIRR", "(none)\r\nIRR")), "")


class Topologies(unittest.TestCase):
    def test_a_tree_becomes_devices_with_buses(self):
        words = parse("small", SMALL).arguments(Path("/run"))
        devices = [word for before, word in zip(words, words[1:]) if before == "-device"]
        self.assertEqual(devices, [
            "pcie-root-port,id=rp0,bus=pcie.0,chassis=1,slot=1",
            "x3130-upstream,id=up0,bus=rp0",
            "xio3130-downstream,id=dn0,bus=up0,chassis=2,slot=2",
            "nvme,id=disk0,bus=dn0,drive=drive-disk0,serial=disk0,cmb_size_mb=8",
            "xio3130-downstream,id=dn1,bus=up0,chassis=3,slot=3",
            "ivshmem-plain,id=bar0,bus=dn1,memdev=memory-bar0",
            "pcie-root-port,id=rp1,bus=pcie.0,chassis=4,slot=4",
            "pci-testdev,id=odd,bus=rp1,membar=1M",
        ])
        self.assertIn("if=none,id=drive-disk0,format=raw,file=/run/disk0.img", words)
        self.assertIn(
            "memory-backend-file,id=memory-bar0,share=on,size=2097152,mem-path=/run/bar0.mem", words
        )

    def test_a_count_stands_for_functions_of_slots(self):
        topology = parse("many", "pcie-pci-bridge b0\n  ivshmem bar memory=2M count=9\nnvme disk0")
        devices = topology.devices()
        self.assertEqual(len(devices), 11)
        self.assertEqual([device.name for device in devices][-2:], ["bar-8", "disk0"])
        words = topology.arguments(Path("/run"))
        self.assertIn("ivshmem-plain,id=bar-0,bus=b0,memdev=memory-bar-0,addr=1.0,multifunction=on", words)
        self.assertIn("ivshmem-plain,id=bar-8,bus=b0,memdev=memory-bar-8,addr=2.0,multifunction=on", words)

    def test_a_machine_has_more_than_buses(self):
        topology = parse("more", "cpu EPYC\nkernel a=1 b\nram 4G\nintel-iommu iommu0 aw-bits=48\nroot-port rp0")
        self.assertEqual((topology.cpu, topology.append, topology.ram), ("EPYC", "a=1 b", "4G"))
        self.assertEqual(parse("small", SMALL).ram, "2G")
        self.assertIn("intel-iommu,id=iommu0,aw-bits=48", topology.arguments(Path("/run")))

    def test_files_have_their_sizes_and_are_kept(self):
        topology = parse("small", SMALL)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "disk0.img").write_bytes(b"kept")
            topology.create_files(folder)
            self.assertEqual((folder / "disk0.img").read_bytes(), b"kept")
            self.assertEqual((folder / "bar0.mem").stat().st_size, 2 << 20)
            self.assertEqual(len(list(folder.iterdir())), 2)

    def test_mistakes_name_the_line(self):
        for text, what in (
            ("root-port", "line 1: write `kind name"),
            ("nvme image=64M", "line 1: write `kind name"),
            ("root-port rp0\nroot-port rp0", "line 2: there are two devices named rp0"),
            ("root-port Rp", "line 1: Rp is not a name"),
            ("  nvme disk0", "line 1: indented"),
            ("nvme disk0 image=64", "line 1: 64 is not a size"),
            ("nvme disk0 image=0M", "line 1: 0M is not a size"),
            ("nvme disk0 image", "line 1: image is not key=value"),
            ("nvme disk0 image=", "line 1: image= is not key=value"),
            ("root-port rp0\n\tnvme disk0", "line 2: a tab"),
            ("# nothing", "has no devices"),
            ("cpu", "line 1: write one line `cpu"),
            ("cpu max\ncpu EPYC", "line 2: write one line `cpu"),
            ("ram much", "line 1: much is not a size"),
            ("kernel quiet\nkernel", "line 2: write one line `kernel"),
            ("nvme disk0 count=many", "line 1: .*many"),
            ("root-port rp count=2\n  nvme disk0", "line 2: nothing can be plugged"),
        ):
            with self.subTest(text), self.assertRaisesRegex(LabError, what):
                parse("bad", text)

    def test_those_that_are_shipped_are_good(self):
        names = [path.name for path in (TOP / "qemu/topologies").iterdir()]
        self.assertIn("switch", names)
        for name in names:
            with self.subTest(name):
                self.assertTrue(load(name).devices())

    def test_controllers_have_numbered_buses_and_only_drives_are_waited_for(self):
        topology = parse("disks", "virtio-scsi-pci scsi0\n  scsi-hd disk image=1M\nnvme drive image=1M")
        words = topology.arguments(Path("/run"))
        self.assertIn("scsi-hd,id=disk,bus=scsi0.0,drive=drive-disk,serial=disk", words)
        self.assertEqual([device.name for device in topology.drives()], ["drive"])

    def test_devices_that_are_processes_of_their_own(self):
        topology = parse("own", "ram 1G\nroot-port rp0\n  vfio-user fpga model=memory size=16M\n")
        self.assertEqual([device.name for device in topology.servers()], ["fpga"])
        self.assertEqual(topology.machine(), "q35,memory-backend=ram")
        words = topology.arguments(Path("/run"))
        self.assertIn("memory-backend-memfd,id=ram,share=on,size=1G", words)
        device = json.loads(words[-1])
        self.assertEqual((device["driver"], device["bus"]), ("vfio-user-pci", "rp0"))
        self.assertEqual(device["socket"], {"type": "unix", "path": "fpga.sock"})
        # Properties of the model are not for QEMU.
        self.assertNotIn("size", device)
        self.assertEqual(parse("plain", "nvme drive image=1M").machine(), "q35")

    def test_a_process_of_its_own_has_a_model(self):
        for keys in ("size=16M", "model=memory memory=16M", "model=memory count=2"):
            line = f"vfio-user fpga {keys}"
            with self.assertRaisesRegex(LabError, "line 1: a vfio-user has a model=NAME"):
                parse("own", line)

    def test_programs_of_the_build_root(self):
        topology = parse("tools", "modules raid1 xfs\nprograms mdadm\nnvme drive image=1M")
        self.assertEqual(topology.modules, ["raid1", "xfs"])
        self.assertEqual(topology.programs, ["mdadm"])

    def test_one_that_is_not_there_names_those_that_are(self):
        with self.assertRaisesRegex(LabError, "no topology nowhere: there are .*switch"):
            load("nowhere")


class Console(unittest.TestCase):
    MARK = "the job begins"

    def scan(self, *lines: str) -> list[str]:
        return findings("\n".join(["[1.0] boot", f"[2.0] {self.MARK}", *lines]), self.MARK)

    def test_mistakes_are_found(self):
        for line in (
            "[3.0] WARNING: CPU: 0 PID: 97 at mm/memory.c:12 f+0x1/0x2",
            "[3.0] BUG: unable to handle page fault for address: 00000000c0000000",
            "[3.0] BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "[3.0] Oops: Oops: 0010 [#1] SMP NOPTI",
            "[3.0] kernel BUG at mm/slub.c:1!",
            "[3.0] WARNING: possible circular locking dependency detected",
            "[3.0] WARNING: suspicious RCU usage",
            "[3.0] INFO: task sh:90 blocked for more than 120 seconds.",
            "[3.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
            "[3.0] UBSAN: array-index-out-of-bounds in f.c:1:2",
            "[3.0] refcount_t: underflow; use-after-free.",
            "[3.0] general protection fault, probably for non-canonical address",
            "[3.0] Kernel panic - not syncing: Fatal exception",
            "[3.0] BUG: sleeping function called from invalid context at f.c:1",
            "[3.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "[3.0] BUG: Bad page state in process sh  pfn:1",
            "[3.0] DMA-API: device driver maps memory from stack",
        ):
            with self.subTest(line):
                self.assertEqual(len(self.scan(line)), 1)

    def test_what_was_there_before_the_job_does_not_count(self):
        log = f"WARNING: CPU: 0 PID: 1 at x\nCall Trace:\n{self.MARK}\nall is well"
        self.assertEqual(findings(log, self.MARK), [])
        self.assertEqual(len(findings(log.replace(self.MARK, ""), self.MARK)), 1)

    def test_stacks_that_were_asked_for_do_not_count(self):
        stacks = ["[3.0] lab: stacks of all tasks", "[3.0] task:sh", "[3.0] Call Trace:"]
        mistake = "[3.0] BUG: KASAN: slab-use-after-free in f+0x1/0x2"
        self.assertEqual(self.scan(*stacks), [])
        self.assertEqual(len(self.scan(*stacks, "[3.0] lab: end of stacks", mistake)), 1)

    def test_ordinary_lines_do_not_count(self):
        self.assertEqual(self.scan(
            "[3.0] p2pmem_rs 0000:05:00.0: p2pmem0: 128 MiB of BAR 2 at offset 0x0",
            "[3.0] nvme nvme0: Ignoring bogus Namespace Identifiers",
            "[3.0] p2pmem_rs: loading out-of-tree module taints kernel.",
            "[3.0] debug: oops_in_progress=0",
        ), [])

    def test_the_lines_around_are_shown_once(self):
        trace = ["[3.0] WARNING: CPU: 0 at f", "[3.0] Call Trace:", "[3.0]  f+0x1", "[3.0]  g+0x2"]
        found = self.scan("[2.9] before", *trace)
        self.assertEqual(len(found), 1)
        for line in ("[2.9] before", *trace):
            self.assertIn(line, found[0])


class Report(unittest.TestCase):
    GUEST = [
        "drive nvme0 disk1 0000:04:00.0",
        "drive nvme1 disk0 0000:03:00.0",
        "pci /sys/devices/pci0000:00/0000:00:00.0 0x8086:0x29c0",
        "pci /sys/devices/pci0000:00/0000:00:01.0 0x1b36:0x000c",
        "pci /sys/devices/pci0000:00/0000:00:01.0/0000:03:00.0 0x1b36:0x0010",
        "pci /sys/devices/pci0000:00/0000:00:01.0/0000:04:00.0 0x1b36:0x0010",
        "pci /sys/devices/pci0000:00/0000:00:01.0/0000:05:00.0 0x1af4:0x1110",
        'copy {"bytes":67108864,"chunk":4194304,"seconds":0.5,"via":"/dev/p2pmem0",'
        '"source":"/dev/nvme0n1","destination":"/dev/nvme1n1","verified":true}',
        'list {"providers":[{"path":"/dev/p2pmem0","pci":"0000:05:00.0","vendor":"1af4",'
        '"device":"1110","size":134217728,"allocated":0,"available":134217728,"granule":4096,'
        '"regions":[{"bar":2,"offset":0,"size":134217728}]}]}',
    ]

    def test_it_fits_a_screen_and_draws_the_tree(self):
        facts = Facts()
        for line in self.GUEST:
            self.assertTrue(facts.take(line), line)
        self.assertFalse(facts.take("Segmentation fault"))
        text = render(
            facts, release="7.3.4+deb13-cloud-amd64", version="7.3.4-1~bpo13+1",
            accelerator="tcg", boot_seconds=4.6, seconds=12.3,
            checks=[("in the guest", True, ""), ("on the host", False, "differs at 0x10")],
        )
        lines = text.splitlines()
        self.assertLessEqual(len(lines), 24)
        self.assertLessEqual(max(map(len, lines)), 80)
        self.assertIn("  `- 0000:00:01.0  root port", lines)
        self.assertIn("     |- 0000:03:00.0  /dev/nvme1n1", lines)
        self.assertIn("     `- 0000:05:00.0  /dev/p2pmem0", lines)
        self.assertIn("  FAILED on the host: differs at 0x10", lines)
        self.assertNotIn("00:00.0", text.replace("05:00.0", "").replace("03:00.0", "").replace("04:00.0", ""))

    def test_the_first_difference_is_found(self):
        for one, other, where in (
            (b"", b"", None), (b"abc", b"abc", None), (b"abc", b"abd", 2), (b"xbc", b"abc", 0),
            (b"abc", b"ab", 2), (b"", b"a", 0), (b"aaaa" * 1000 + b"b", b"aaaa" * 1000 + b"c", 4000),
        ):
            self.assertEqual(first_difference(one, other), where)


if __name__ == "__main__":
    unittest.main()
