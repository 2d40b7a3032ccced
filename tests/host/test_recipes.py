# SPDX-License-Identifier: GPL-2.0
"""Tests of the page docs/recipes.md: its code is that of the examples."""

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
