# SPDX-License-Identifier: GPL-2.0
"""Uses a node by numpy. Arguments: node, bytes of its memory, drive."""

import errno
import os
import sys

import numpy

LENGTH = 4 << 20

node, size, drive = sys.argv[1], int(sys.argv[2]), sys.argv[3]
disk = os.open(drive, os.O_RDWR | os.O_DIRECT)
ordinary = numpy.empty(LENGTH + 4096, dtype="u1")
ordinary = ordinary[-ordinary.ctypes.data % 4096:][:LENGTH]
assert os.preadv(disk, [ordinary], 0) == LENGTH
assert ordinary.any()

# With a shape, for reading and writing. Neither mode changes what is there.
for mode in "r+", "w+":
    memory = numpy.memmap(node, dtype="u8", mode=mode, shape=(LENGTH // 8,))
    assert not memory.any()
    assert os.preadv(disk, [memory], 0) == LENGTH
    assert numpy.array_equal(memory, ordinary.view("u8"))
    assert memory.sum() == ordinary.view("u8").sum()
    memory ^= numpy.uint64(0x5555555555555555)
    memory.flush()
    assert os.pwritev(disk, [memory], 0) == LENGTH
    assert os.preadv(disk, [ordinary], 0) == LENGTH
    assert numpy.array_equal(memory, ordinary.view("u8"))
    del memory

# Without one it is all that the provider has.
memory = numpy.memmap(node, dtype="u1", mode="r+")
assert memory.shape == (size,)
# Nothing is left for a second one.
try:
    numpy.memmap(node, dtype="u1", mode="r+", shape=(4096,))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError("there is more memory than there is")
del memory

# Copy on write is not for memory that is shared.
try:
    numpy.memmap(node, dtype="u1", mode="c", shape=(4096,))
except OSError as error:
    assert error.errno == errno.EINVAL, error
else:
    raise AssertionError("a private mapping")
