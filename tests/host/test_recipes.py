# SPDX-License-Identifier: GPL-2.0
"""Tests of pages with code: it is that of the examples."""

import re
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
FILES = {"c": "map.c", "python": "map.py", "rust": "map.rs"}


class Recipes(unittest.TestCase):
    """The page, against the files it shows parts of."""

    def test_code_is_that_of_the_examples(self):
        page = (TOP / "docs/recipes.md").read_text()
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)
        for language, name in FILES.items():
            found = [text for kind, text in blocks if kind == language]
            self.assertEqual(len(found), 1, language)
            # In the order of the file, which has more.
            rest = iter((TOP / "tests/example" / name).read_text().splitlines())
            for line in found[0].splitlines():
                self.assertIn(line, rest, f"{name} lacks the line, or has it elsewhere")

    def test_commands_are_in_blocks_that_are_run(self):
        page = (TOP / "docs/recipes.md").read_text()
        blocks = re.findall(r"^```(\w*)\n.*?^```$", page, re.M | re.S)
        self.assertLessEqual(set(blocks), {"sh", *FILES})


class Libraries(unittest.TestCase):
    """The page docs/library.md, against the examples that it shows parts of."""

    def test_code_is_that_of_the_examples(self):
        page = (TOP / "docs/library.md").read_text()
        blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S))
        files = {"rust": "tools/p2pmem/examples/map.rs", "c": "tests/example/copy.c"}
        self.assertEqual(blocks.keys(), files.keys())
        for language, name in files.items():
            rest = iter((TOP / name).read_text().splitlines())
            for line in blocks[language].splitlines():
                self.assertIn(line, rest, f"{name} lacks the line, or has it elsewhere")


class Devices(unittest.TestCase):
    """The page docs/devices.md, against the model that it shows."""

    def test_code_is_that_of_the_smallest_model(self):
        page = (TOP / "docs/devices.md").read_text()
        code = re.findall(r"^```rust\n(.*?)^```$", page, re.M | re.S)
        model = (TOP / "tests/devices/src/models/plain.rs").read_text()
        self.assertEqual(len(code), 1)
        self.assertIn(code[0], model)

    def test_models_and_orders_are_those_of_the_server(self):
        page = (TOP / "docs/devices.md").read_text()
        names = (path.stem for path in (TOP / "tests/devices/src/models").glob("*.rs"))
        for name in names:
            self.assertIn(f"| `{name}` |", page)
        orders = (TOP / "tests/devices/src/device.rs").read_text()
        for name, number in re.findall(r"^    pub const (\w+): u32 = (\d+);", orders, re.M):
            self.assertIn(f"| {number}, `{name}` |", page)

    def test_the_line_of_the_topology_is_there(self):
        page = (TOP / "docs/devices.md").read_text()
        line = re.search(r"^ +(vfio-user \S+ model=plain .*)$", page, re.M)
        self.assertIn(line[1], (TOP / "qemu/topologies/devices").read_text())
