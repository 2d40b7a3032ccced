# SPDX-License-Identifier: GPL-2.0
"""Uses a node by Python's open() and mmap. Arguments: node, bytes of its memory, drive."""

import errno
import mmap
import os
import stat
import sys

LENGTH = 4 << 20

node, size, drive = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def fails(number, call, *arguments, **more):
    """Checks that a call fails in a certain way."""
    try:
        call(*arguments, **more)
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(f"{call} succeeded")


# Every way to open it: buffered, unbuffered, for reading, for what numpy calls w+.
for mode in "r+b", "rb", "w+b", "a+b", "wb":
    for buffering in -1, 0:
        with open(node, mode, buffering) as file:
            assert file.seekable() and not file.isatty(), mode
            assert file.seek(0, os.SEEK_END) == size, mode
            assert file.seek(4096) == file.tell() == 4096, mode
with open(node, "r+b") as file:
    fails(errno.EINVAL, file.read, 1)
    fails(errno.EINVAL, file.truncate, LENGTH)
    status = os.fstat(file.fileno())
    assert stat.S_ISCHR(status.st_mode) and status.st_size == 0
    # The length must be given.
    fails(errno.EINVAL, mmap.mmap, file.fileno(), 0)
    fails(errno.EINVAL, mmap.mmap, file.fileno(), LENGTH, access=mmap.ACCESS_COPY)
    fails(errno.EINVAL, mmap.mmap, file.fileno(), LENGTH, offset=mmap.ALLOCATIONGRANULARITY)
    fails(errno.ENOSPC, mmap.mmap, file.fileno(), size + 1)
    memory = mmap.mmap(file.fileno(), LENGTH)

# The mapping outlives the file, and is memory like any other.
assert len(memory) == LENGTH and memory.size() == 0
assert memory[:4096] == bytes(4096)
memory[:5] = b"hello"
memory.seek(5)
memory.write(b" world")
assert memory.find(b"world", 0) == 6
memory.flush()
memory.flush(4096, 4096)
memory.madvise(mmap.MADV_SEQUENTIAL)
fails(errno.EINVAL, memory.resize, 2 * LENGTH)

# Direct I/O, compared with what went through ordinary memory.
disk = os.open(drive, os.O_RDONLY | os.O_DIRECT)
ordinary = mmap.mmap(-1, LENGTH)
assert os.preadv(disk, [ordinary], 0) == LENGTH
assert os.preadv(disk, [memory], 0) == LENGTH
assert any(ordinary[:4096])
assert memory[:] == ordinary[:]
view = memoryview(memory)
assert os.preadv(disk, [view[65536:131072]], 0) == 65536
assert memory[65536:131072] == ordinary[:65536]
view.release()
memory.close()

# Of a descriptor that may only be read.
with open(node, "rb") as file:
    fails(errno.EACCES, mmap.mmap, file.fileno(), 4096)
    assert mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ)[:] == bytes(4096)
