# SPDX-License-Identifier: GPL-2.0
"""Finds reports of mistakes in the kernel's log."""

import re

# Any of these in the log of a test is a failure.
SIGNS = re.compile(
    r"""
    \bWARNING:\ |\bBUG:\ |\bBUG\ at\ |\bOops\b|\bKASAN:|\bKFENCE:|\bUBSAN:|\bkernel\ BUG\b
    |general\ protection\ fault|Unable\ to\ handle\ kernel|\bCall\ Trace:|\brefcount_t:
    |possible\ (circular|recursive)\ locking|possible\ irq\ lock\ inversion
    |inconsistent\ lock\ state|suspicious\ RCU\ usage|held\ lock\ freed|bad\ unlock\ balance
    |INFO:\ task\ .*\ blocked\ for\ more\ than|soft\ lockup|hard\ LOCKUP
    |rcu:\ INFO:|detected\ stall|Kernel\ panic|unreferenced\ object|DMA-API:
    |sleeping\ function\ called|scheduling\ while\ atomic|Bad\ page\ (state|map)
    |list_(add|del)\ corruption
    """,
    re.VERBOSE,
)
CONTEXT = 30
# Between these are stacks that the guest asked for.
STACKS = re.compile(r"lab: stacks of all tasks(.*?lab: end of stacks|.*)", re.DOTALL)


def findings(log: str, mark: str) -> list[str]:
    """Returns the lines around each mistake that the kernel reported after `mark`.

    Without the mark the whole log counts: the guest did not get as far as its job.
    """
    lines = STACKS.sub("", log).splitlines()
    start = next((number for number, line in enumerate(lines) if mark in line), 0)
    found = []
    number = start
    while number < len(lines):
        if SIGNS.search(lines[number]):
            found.append("\n".join(lines[max(start, number - 2) : number + CONTEXT]))
            number += CONTEXT
        number += 1
    return found
