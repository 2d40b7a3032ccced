#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Copies the first 4 MiB from drive to drive through device memory that is mapped."""

import mmap
import os
import sys

LENGTH = 4 << 20

if len(sys.argv) != 4:
    sys.exit("usage: map.py /dev/p2pmemN SOURCE TARGET")
node, source, target = sys.argv[1:]
with open(node, "r+b") as file:
    # The length is yours to choose: each mapping is memory of its own.
    memory = mmap.mmap(file.fileno(), LENGTH)
from_drive = os.open(source, os.O_RDONLY | os.O_DIRECT)
to_drive = os.open(target, os.O_WRONLY | os.O_DIRECT)
if os.preadv(from_drive, [memory], 0) != LENGTH:
    sys.exit("read: too short")
if os.pwritev(to_drive, [memory], 0) != LENGTH:
    sys.exit("write: too short")
