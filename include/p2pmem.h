/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Device memory for programs in C, on the interface of <linux/p2pmem.h>.
 *
 * Functions that can fail return a negative error number, as liburing does:
 *
 *	int node = p2pmem_open("/dev/p2pmem0");
 *	int memory = p2pmem_allocate(node, 1 << 20, 0);
 *	void *address;
 *	int error = p2pmem_map(memory, 0, 1 << 20, &address);
 *
 * A node and memory are descriptors. Memory is a dma-buf: processes inherit it and
 * pass it on, devices import it, and it goes back to the device when the last of
 * them has closed and unmapped it.
 */
#ifndef P2PMEM_H
#define P2PMEM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/p2pmem.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Opens a node, /dev/p2pmemN. Returns a descriptor. */
static inline int p2pmem_open(const char *path)
{
	int node = open(path, O_RDWR | O_CLOEXEC);

	return node < 0 ? -errno : node;
}

/* Fills in the state of the provider. ENODEV if its device is gone. */
static inline int p2pmem_get_info(int node, struct p2pmem_info *info)
{
	return ioctl(node, P2PMEM_IOC_INFO, info) ? -errno : 0;
}

/*
 * Allocates memory. Returns a descriptor, which is closed by execve().
 * @size: bytes, a multiple of the granule of struct p2pmem_info
 * @flags: P2PMEM_ALLOC_WRITE_COMBINING, P2PMEM_ALLOC_IRREVOCABLE
 */
static inline int p2pmem_allocate(int node, __u64 size, __u32 flags)
{
	struct p2pmem_alloc request = { .size = size, .flags = flags };

	return ioctl(node, P2PMEM_IOC_ALLOC, &request) ? -errno : request.fd;
}

/* Gives memory back, once it is mapped nowhere and no other descriptor is open. */
static inline int p2pmem_free(int memory)
{
	return close(memory) ? -errno : 0;
}

/* Maps a part of memory for reading and writing, by the CPU and by direct I/O. */
static inline int p2pmem_map(int memory, __u64 offset, size_t length, void **address)
{
	void *start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memory, offset);

	if (start == MAP_FAILED)
		return -errno;
	*address = start;
	return 0;
}

/* Allocates memory of a node and maps it. It goes back when it is unmapped. */
static inline int p2pmem_map_node(int node, size_t length, void **address)
{
	return p2pmem_map(node, 0, length, address);
}

/* Removes a mapping. */
static inline int p2pmem_unmap(void *address, size_t length)
{
	return munmap(address, length) ? -errno : 0;
}

/*
 * Makes a request that puts all of memory into a slot of the ring's buffer table. The
 * node and the memory must be open until it has completed; its result is 0 or a
 * negative error number. In requests that use the slot, addresses count from 0.
 */
static inline void p2pmem_prep_register(struct io_uring_sqe *sqe, int node, int memory,
					unsigned int slot)
{
	struct p2pmem_uring_register request = { .fd = memory, .slot = slot };

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = node;
	sqe->cmd_op = P2PMEM_URING_REGISTER;
	memcpy(sqe->cmd, &request, sizeof(request));
}

/* Makes a request that empties a slot. */
static inline void p2pmem_prep_unregister(struct io_uring_sqe *sqe, int node, unsigned int slot)
{
	struct p2pmem_uring_unregister request = { .slot = slot };

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = node;
	sqe->cmd_op = P2PMEM_URING_UNREGISTER;
	memcpy(sqe->cmd, &request, sizeof(request));
}

#endif /* P2PMEM_H */
