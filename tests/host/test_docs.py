# SPDX-License-Identifier: GPL-2.0
"""Tests of the pages: links lead somewhere, lines are short, the README is a page."""

import re
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAGES = [*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")]
COLUMNS = 100
README_LINES = 160


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as web pages of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


class Docs(unittest.TestCase):
    """All pages."""

    def test_links_lead_somewhere(self):
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
                if re.match(r"https?:", target):
                    continue
                name, _, anchor = target.partition("#")
                other = (page.parent / name).resolve() if name else page
                with self.subTest(page=page.name, target=target):
                    self.assertTrue(other.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(other))

    def test_lines_are_short(self):
        for page in PAGES:
            # Rows of tables and commands cannot be broken.
            text = re.sub(r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"),
                          page.read_text(), flags=re.S | re.M)
            for number, line in enumerate(text.splitlines(), 1):
                if not line.startswith(("|", "    ")):
                    with self.subTest(page=page.name, line=number):
                        self.assertLessEqual(len(line), COLUMNS)

    def test_readme_is_a_page(self):
        lines = (TOP / "README.md").read_text().splitlines()
        self.assertLessEqual(len(lines), README_LINES)


if __name__ == "__main__":
    unittest.main()
