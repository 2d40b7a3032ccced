# SPDX-License-Identifier: GPL-2.0
"""Reading of KTAP, the form in which guest cases report.

Only what kernel self-tests use: a version line, a plan, result lines with optional SKIP
directives, and diagnostics. See Documentation/dev-tools/ktap.rst of the kernel.
"""

import re
from dataclasses import dataclass, field

RESULT = re.compile(r"^(not ok|ok) (\d+)(?: -)? ?([^#]*?)\s*(?:# *(SKIP)\b *(.*))?$")
PLAN = re.compile(r"^1\.\.(\d+)$")


@dataclass
class Report:
    """Results of a run of cases."""

    planned: int | None = None
    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def feed(self, line: str) -> None:
        """Takes one line. What is not KTAP is passed over."""
        line = line.rstrip()
        if plan := PLAN.match(line):
            self.planned = int(plan[1])
        elif result := RESULT.match(line):
            verdict, _, name, skip, why = result.groups()
            if verdict == "not ok":
                self.failed.append(name)
            elif skip:
                self.skipped.append((name, why))
            else:
                self.passed.append(name)

    def missing(self) -> int:
        """Returns the number of planned cases without a result; 1 without a plan."""
        if self.planned is None:
            return 1
        done = len(self.passed) + len(self.failed) + len(self.skipped)
        return max(0, self.planned - done)
