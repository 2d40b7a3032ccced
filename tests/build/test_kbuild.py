# SPDX-License-Identifier: GPL-2.0
"""Tests of the build: rebuilt files, and refusals."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
KDIR = Path(os.environ["P2PMEM_KERNEL"]) / "kdir"
SOURCES = ("Kbuild", "Makefile", "include", "rust", "src")


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs make in a copy of the tree, and returns its output."""
    return subprocess.run(
        ["make", "-C", str(folder), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
    )


def headers() -> tuple[Path, Path]:
    """Returns the unpacked headers packages: of the flavour, and common to all."""
    flavour = (KDIR / "include").resolve().parent
    common = next(flavour.parent.glob("linux-headers-*-common*"))
    return flavour, common


def copy_sources(target: Path) -> None:
    """Copies the files that a build reads."""
    target.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (TOP / name).is_dir() else shutil.copy2
        copy(TOP / name, target / name)


class Build(unittest.TestCase):
    """Works on one copy of the tree, which is built once."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.tree = Path(cls.temporary.name) / "tree"
        copy_sources(cls.tree)
        first = cls.build()
        if first.returncode != 0:
            raise AssertionError(first.stdout)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def build(cls):
        return make(cls.tree, f"KDIR={KDIR}", "modules")

    def rebuilt(self, touched: str) -> set[str]:
        """Returns the files that are rebuilt after a file changed."""
        with open(self.tree / touched, "a", encoding="ascii") as file:
            file.write("\n")
        run = self.build()
        self.assertEqual(run.returncode, 0, run.stdout)
        return self.steps(run.stdout)

    @staticmethod
    def steps(output: str) -> set[str]:
        return {
            line.split()[-1]
            for line in output.splitlines()
            if line.startswith("  ") and line.split()[0] in ("RUSTC", "CC", "BINDGEN", "LD")
        }

    def test_nothing_changed_nothing_rebuilt(self):
        run = self.build()
        self.assertEqual((run.returncode, self.steps(run.stdout)), (0, set()), run.stdout)

    def test_driver_changed(self):
        self.assertEqual(
            self.rebuilt("src/node/mmap.rs"),
            {"src/p2pmem.o", "p2pmem_rs.o", "p2pmem_rs.ko"},
        )

    def test_abstraction_changed(self):
        self.assertEqual(
            self.rebuilt("rust/kernel/gate.rs"),
            {"rust/kernel/lib.o", "src/p2pmem.o", "p2pmem_rs.o", "p2pmem_rs.ko"},
        )

    def test_helper_changed(self):
        self.assertEqual(
            self.rebuilt("rust/helpers/page.c"),
            {
                "rust/helpers/helpers.o", "rust/bindings/bindings_helpers_generated.rs",
                "rust/kernel/lib.o", "src/p2pmem.o", "p2pmem_rs.o", "p2pmem_rs.ko",
            },
        )

    def test_interface_changed(self):
        self.assertEqual(
            self.rebuilt("include/uapi/linux/p2pmem.h"),
            {
                "rust/uapi/uapi_generated.rs",
                "rust/kernel/lib.o", "src/p2pmem.o", "p2pmem_rs.o", "p2pmem_rs.ko",
            },
        )

    def test_unsafe_code_in_the_driver_does_not_compile(self):
        number = self.tree / "src/node/id.rs"
        kept = number.read_text()
        number.write_text(kept + "fn f(p: *const u8) -> u8 { unsafe { *p } }\n")
        try:
            run = self.build()
        finally:
            number.write_text(kept)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("usage of an `unsafe` block", run.stdout)

    def test_kbuild_works_in_the_tree(self):
        tree = Path(self.temporary.name) / "in-tree"
        copy_sources(tree)
        before = {path for path in tree.rglob("*") if path.is_file()}
        run = make(KDIR, f"M={tree}", "modules")
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertTrue((tree / "p2pmem_rs.ko").exists())
        run = make(KDIR, f"M={tree}", "clean")
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertEqual({path for path in tree.rglob("*") if path.is_file()}, before)


class Distributions(unittest.TestCase):
    """Build trees of the shapes that other distributions have, made of the stock kernel's."""

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.top = Path(cls.temporary.name)
        copy_sources(cls.top / "tree")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def flat(self, name: str) -> Path:
        """Makes a folder that is source and output in one, without Rust metadata."""
        tree = self.top / name
        flavour, common = headers()
        # Folders of its own, since links of folders lead into the kernel in the cache.
        for source in common, flavour:
            for folder, _, files in os.walk(source, followlinks=True):
                target = tree / Path(folder).relative_to(source)
                target.mkdir(parents=True, exist_ok=True)
                for file in files:
                    (target / file).unlink(missing_ok=True)
                    (target / file).symlink_to(Path(folder, file))
        # The headers of Debian are of two packages, and these two files join them.
        (tree / ".kernelvariables").unlink()
        (tree / "Makefile").unlink()
        (tree / "Makefile").symlink_to(common / "Makefile")
        (tree / "scripts/target.json").symlink_to(KDIR / "scripts/target.json")
        return tree

    def metadata(self, folder: Path) -> None:
        """Puts the metadata into a folder."""
        folder.mkdir(parents=True)
        for file in (KDIR / "rust").iterdir():
            (folder / file.name).symlink_to(file)

    def build(self, tree: Path) -> subprocess.CompletedProcess:
        module = self.top / f"{tree.name}-module"
        return make(self.top / "tree", f"KDIR={tree}", f"MO={module}", "CC=gcc-14", "modules")

    def expect_module(self, tree: Path) -> None:
        run = self.build(tree)
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertTrue((self.top / f"{tree.name}-module/p2pmem_rs.ko").exists())

    def test_metadata_in_the_headers(self):
        tree = self.flat("build")
        self.metadata(tree / "rust")
        self.expect_module(tree)

    def test_metadata_in_a_package_of_its_own(self):
        tree = self.flat("linux-headers-7.3.4-1-generic")
        (tree / "rust").symlink_to("../linux-lib-rust-7.3.4-1-generic/rust")
        run = self.build(tree)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("install linux-lib-rust-7.3.4-1-generic", run.stdout)
        self.metadata(self.top / "linux-lib-rust-7.3.4-1-generic/rust")
        self.expect_module(tree)


class Refusals(unittest.TestCase):
    """Settings that cannot work are refused in one line that names the cure."""

    def error(self, *words: str) -> str:
        run = make(TOP, *words)
        self.assertNotEqual(run.returncode, 0)
        errors = [line for line in run.stdout.splitlines() if "***" in line and "Error " not in line]
        self.assertEqual(len(errors), 1, run.stdout)
        return errors[0]

    def test_no_tree(self):
        self.assertIn("not a kernel build tree", self.error("KDIR=/nowhere", "modules"))

    def test_tree_without_rust_metadata(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "Makefile").touch()
            self.assertIn("no Rust metadata", self.error(f"KDIR={folder}", "modules"))

    def test_old_kernel(self):
        with tempfile.TemporaryDirectory() as output:
            words = [f"M={TOP}", f"MO={output}", "VERSION=7", "PATCHLEVEL=2", "modules"]
            run = make(KDIR, *words)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("needs Linux 7.3 or newer, this tree is 7.2", run.stdout)


if __name__ == "__main__":
    unittest.main()
