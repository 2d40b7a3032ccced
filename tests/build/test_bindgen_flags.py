# SPDX-License-Identifier: GPL-2.0
"""The list of compiler flags that bindgen must not see is the kernel's own."""

import os
import re
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
KERNEL = Path(os.environ["P2PMEM_KERNEL"])


def flags(makefile: Path, variable: str) -> set[str]:
    """Returns the words of a variable of a makefile."""
    text = makefile.read_text().replace("\\\n", " ")
    found = re.search(rf"^{variable}\s*:=\s*(.*)$", text, re.M)
    if not found:
        raise AssertionError(f"{makefile} does not set {variable}")
    return set(found[1].split())


class BindgenFlags(unittest.TestCase):
    def test_the_list_is_the_kernels(self):
        ours = flags(TOP / "rust/Makefile.include", "p2pmem_rs_skip_c_flags")
        theirs = flags(KERNEL / "source/rust/Makefile", "bindgen_skip_c_flags")
        self.assertGreater(len(theirs), 20)
        self.assertEqual(sorted(ours), sorted(theirs))

    def test_targets_are_the_kernels(self):
        for arch in ("x86", "arm64"):
            self.assertEqual(
                flags(TOP / "rust/Makefile.include", f"p2pmem_rs_bindgen_target_{arch}"),
                flags(KERNEL / "source/rust/Makefile", f"BINDGEN_TARGET_{arch}"),
            )


if __name__ == "__main__":
    unittest.main()
