# SPDX-License-Identifier: GPL-2.0
"""A program outside the workspace with the library, and a program in C with the header."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

MANIFEST = """\
[package]
name = "outside"
version = "0.1.0"
edition = "2021"

[dependencies]
p2pmem = {{ path = "{path}" }}
"""

PROGRAM = """\
use p2pmem::{fabric::Fabric, size, sysfs, PciAddress, Provider, Root};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: PciAddress = "5:0.0".parse()?;
    println!("{address} {}", size::parse("64K")?);
    let root = Root::new("/nonexistent");
    assert!(sysfs::providers(&root).is_err() && Fabric::read(&root).is_err());
    assert!(Provider::open("/nonexistent").is_err());
    Ok(())
}
"""

C_PROGRAM = """\
#include <p2pmem.h>
#include <stdio.h>

int main(void)
{
	struct p2pmem_info info;
	struct io_uring_sqe sqe;
	void *address;

	p2pmem_prep_register(&sqe, 3, 4, 5);
	p2pmem_prep_unregister(&sqe, 3, 5);
	printf("%d %d %d %d %d %d\\n", p2pmem_open("/nonexistent") == -ENOENT,
	       p2pmem_get_info(-1, &info) == -EBADF, p2pmem_allocate(-1, 4096, 0) == -EBADF,
	       p2pmem_map_node(-1, 4096, &address) == -EBADF, p2pmem_free(-1) == -EBADF,
	       p2pmem_unmap(&info, 0) == -EINVAL);
	return 0;
}
"""

# A command has these; a library must not.
COMMAND = ["clap", "anyhow", "comfy-table", "indicatif", "plotters", "termtree", "textwrap"]


class Library(unittest.TestCase):
    """Uses it by its path."""

    def setUp(self):
        # The build's folder: what was compiled once is used again.
        folder = TOP / "build"
        folder.mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_in(self, *command: str) -> str:
        """Runs a command in the folder. Returns its output."""
        environment = {**os.environ, "CARGO_TARGET_DIR": str(TOP / "build/cargo-outside")}
        run = subprocess.run(command, cwd=self.folder, env=environment, check=False,
                             capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_a_program_outside_the_workspace(self):
        (self.folder / "src").mkdir()
        path = TOP / "tools/p2pmem"
        (self.folder / "Cargo.toml").write_text(MANIFEST.format(path=path))
        (self.folder / "src/main.rs").write_text(PROGRAM)
        # The same versions, which need no network.
        shutil.copy(TOP / "tools/Cargo.lock", self.folder)
        tree = self.run_in("cargo", "tree", "--offline", "--prefix", "none", "--edges", "normal")
        crates = {line.split()[0] for line in tree.splitlines() if line}
        self.assertIn("p2pmem", crates)
        self.assertEqual(crates & set(COMMAND), set())
        self.assertEqual(self.run_in("cargo", "run", "--offline", "--quiet"),
                         "0000:05:00.0 65536\n")

    def test_a_program_in_c(self):
        (self.folder / "test.c").write_text(C_PROGRAM)
        self.run_in("gcc-14", "-Wall", "-Wextra", "-Werror", "-std=gnu11", f"-I{TOP}/include",
                    f"-I{TOP}/include/uapi", "-o", "test", "test.c")
        self.assertEqual(self.run_in("./test"), "1 1 1 1 1 1\n")


if __name__ == "__main__":
    unittest.main()
