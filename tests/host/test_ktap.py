# SPDX-License-Identifier: GPL-2.0
"""The parser of guest reports."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ktap import Report  # noqa: E402


def report(text: str) -> Report:
    result = Report()
    for line in text.splitlines():
        result.feed(line)
    return result


class Ktap(unittest.TestCase):
    def test_results_are_counted_by_kind(self):
        seen = report(
            "KTAP version 1\n1..4\n# case mmap_4k\nok 1 mmap_4k\n"
            "# errno 22, expected 12\nnot ok 2 mmap_too_much\n"
            "ok 3 - share_fork\nok 4 direct_io # SKIP one drive only\n"
        )
        self.assertEqual(seen.passed, ["mmap_4k", "share_fork"])
        self.assertEqual(seen.failed, ["mmap_too_much"])
        self.assertEqual(seen.skipped, [("direct_io", "one drive only")])
        self.assertEqual(seen.missing(), 0)

    def test_cases_that_never_reported_are_missing(self):
        self.assertEqual(report("KTAP version 1\n1..3\nok 1 a\n").missing(), 2)

    def test_no_plan_is_not_success(self):
        self.assertEqual(report("").missing(), 1)
        self.assertEqual(report("ok 1 a\n").missing(), 1)

    def test_other_lines_are_passed_over(self):
        seen = report("1..1\nokay 1 a\n  ok 1 sub\nnot okay\nok 1 a\n")
        self.assertEqual((seen.passed, seen.failed), (["a"], []))

    def test_a_failed_case_is_failed_whatever_it_claims(self):
        self.assertEqual(report("1..1\nnot ok 1 a # SKIP no\n").failed, ["a"])


if __name__ == "__main__":
    unittest.main()
