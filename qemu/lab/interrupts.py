# SPDX-License-Identifier: GPL-2.0
"""Detects that QEMU lost an interrupt of the guest, by the processors' state in its monitor.

A processor that is halted and would take interrupts has none in service: the handler of the last
one ended it. If there is one all the same, the handler never ran, and no interrupt of that priority
or a lower one will come any more: timers stand still. QEMU's TCG does that once in a hundred boots
or so.
"""

import re

# Bit of RFLAGS: interrupts are taken.
INTERRUPT_FLAG = 1 << 9


def halted(registers: str) -> list[int]:
    """Returns the numbers of the processors that wait for interrupts, from `info registers -a`."""
    found = []
    for text in registers.split("CPU#")[1:]:
        flags = re.search(r"\bRFL=([0-9a-f]+)", text)
        if flags and int(flags[1], 16) & INTERRUPT_FLAG and re.search(r"\bHLT=1\b", text):
            found.append(int(text.split()[0]))
    return found


def in_service(lapic: str) -> str:
    """Returns the vectors that are in service, from `info lapic`; nothing if there are none."""
    vectors = re.search(r"^ISR\s+(\d.*?)\s*$", lapic, re.MULTILINE)
    return vectors[1] if vectors else ""
