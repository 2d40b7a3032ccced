/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User-space interface of p2pmem_rs: PCI peer-to-peer memory as /dev/p2pmemN.
 *
 * A /dev/p2pmemN node stands for one provider: the peer-to-peer memory that one
 * PCI device offers. There are three ways to have some of it:
 *
 *   mmap(NULL, length, prot, MAP_SHARED, fd, 0)
 *	allocates @length bytes (rounded up to whole pages) and maps them,
 *	uncached. They are given back when the last mapping in any process is
 *	gone. With %P2PMEM_CAP_LARGE_PAGES each aligned 2 MiB of them (more on
 *	some architectures) is one large page.
 *   P2PMEM_IOC_ALLOC
 *	allocates memory and returns a dma-buf: a descriptor that can be mapped
 *	any number of times, sent to other processes, and given to devices that
 *	import dma-bufs. The memory is given back when its last user is gone.
 *	It is mapped in large pages where address and offset are the same
 *	modulo the size of one: the kernel does not choose those addresses by itself.
 *   P2PMEM_URING_REGISTER
 *	puts the dma-buf of an allocation into a slot of the buffer table of an io_uring, for
 *	IORING_OP_READ_FIXED and the like, without mapping or pinning it.
 *
 * All of them return, when there is no memory:
 *
 *   ENOSPC  the provider has no free run of that many bytes
 *   EDQUOT  more than the administrator allows to an open file or a user
 *   ENOMEM  the kernel has no memory for what it must remember
 *   EINTR   killed while the memory was being cleared
 *   EIO     the device does not return the zeroes that were written to it
 *   EPERM   memory that is not mapped needs a right that the caller lacks, see
 *	     below
 *   ENODEV  the device is gone
 *
 * A mapping of the node that is private, or whose offset is not 0, is EINVAL.
 *
 * Memory is cleared before its first use, unless the administrator turned that
 * off for the device: by mmap() of the node each 2 MiB when it is first touched
 * (SIGBUS in place of EIO), by %P2PMEM_IOC_ALLOC all of it at once.
 *
 * Slots of a ring and irrevocable exports need CAP_SYS_RAWIO, unless the
 * administrator allowed them to every process, or to no process (the attribute
 * "slots" of the node in sysfs). A request by a slot is not asked two questions
 * that the kernel asks of mapped memory: whether the block device takes device
 * memory at all, and with which other requests it may be merged. Behind an
 * IOMMU, data of others can be lost by that.
 *
 * After the device went away (unbind, unplug) touching a mapping raises SIGBUS,
 * each call on the node's descriptor fails with ENODEV, and poll() of it reports
 * POLLERR | POLLHUP. A program that has memory in an io_uring must empty the slot
 * then, or close the ring: the device waits for that. Only slots in rings of the
 * thread that unbinds the device are emptied, since it cannot do that while it waits.
 *
 * All structures are the same for 32-bit and 64-bit callers. They may grow at
 * their end: the size a caller was built with is part of the request number, the
 * kernel fills what both sides know and clears the rest of the caller's buffer.
 */
#ifndef _UAPI_LINUX_P2PMEM_H
#define _UAPI_LINUX_P2PMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The type (group) of every request below. */
#define P2PMEM_IOC_MAGIC	0xBD

/*
 * Numbers of the requests and commands.
 *
 * An unknown number is ENOTTY (EOPNOTSUPP for a command), a bad pointer EFAULT, a
 * device that went away ENODEV, and an unknown flag EINVAL.
 */
#define P2PMEM_NR_INFO			0x00
#define P2PMEM_NR_REGION		0x01
#define P2PMEM_NR_ALLOC			0x02
#define P2PMEM_NR_URING_REGISTER	0x03
#define P2PMEM_NR_URING_UNREGISTER	0x04

/* Capabilities of struct p2pmem_info, above the numbers of requests. */
/* Memory is mapped in large pages where addresses allow it. */
#define P2PMEM_CAP_LARGE_PAGES	(1U << 31)

/* Flags of struct p2pmem_info. */
/* Another driver has the device, and published the memory. */
#define P2PMEM_INFO_ADOPTED	(1U << 0)
/* Memory is cleared before its first use. */
#define P2PMEM_INFO_CLEARED	(1U << 1)

/**
 * struct p2pmem_info - what a provider is
 * @size: bytes of device memory the provider registered
 * @allocated: bytes of it that are allocated through this node at the moment
 * @available: the other bytes
 * @largest: the longest run of them in bytes
 * @granule: the unit of allocation in bytes; lengths are multiples of it
 * @regions: the number of regions the memory consists of, see
 *	struct p2pmem_region
 * @flags: %P2PMEM_INFO_ADOPTED, %P2PMEM_INFO_CLEARED
 * @capabilities: bit n is set if request or command number n is known;
 *	P2PMEM_CAP_*
 * @numa_node: the NUMA node that the device is near to, -1 if it is not known
 * @pci_domain: PCI domain of the device
 * @pci_bus: PCI bus
 * @pci_devfn: PCI device (upper five bits) and function (lower three)
 *
 * The kernel's own users (and mainline's sysfs "p2pmem/allocate") take memory
 * from the same pool; what they hold is not part of @allocated.
 */
struct p2pmem_info {
	__u64 size;
	__u64 allocated;
	__u64 available;
	__u64 largest;
	__u32 granule;
	__u32 regions;
	__u32 flags;
	__u32 capabilities;
	__s32 numa_node;
	__u32 pci_domain;
	__u32 pci_bus;
	__u32 pci_devfn;
};

/* Memory kinds of struct p2pmem_region: a BAR, an NVMe CMB, an NVMe PMR. */
#define P2PMEM_KIND_BAR		0
#define P2PMEM_KIND_CMB		1
#define P2PMEM_KIND_PMR		2

/**
 * struct p2pmem_region - where a part of the memory lies
 * @index: in: which region, from 0 to &p2pmem_info.regions - 1
 * @bar: out: the number of the PCI Base Address Register, 0 to 5
 * @offset: out: where the region starts, in bytes from the start of the BAR
 * @size: out: how long it is, in bytes
 * @bus_address: out: where it starts on the PCI bus; 0 without CAP_SYS_ADMIN
 * @kind: out: what it is, P2PMEM_KIND_*
 * @reserved: out: 0
 *
 * EINVAL if there is no region of that index.
 */
struct p2pmem_region {
	__u32 index;
	__u32 bar;
	__u64 offset;
	__u64 size;
	__u64 bus_address;
	__u32 kind;
	__u32 reserved;
};

/* Flags of struct p2pmem_alloc. */
/* Mappings combine writes, which is faster, and needs a fence before others read. */
#define P2PMEM_ALLOC_WRITE_COMBINING	(1U << 0)
/*
 * Devices may import the dma-buf that cannot unmap it on revocation, as most
 * RDMA adapters cannot. The provider cannot be unbound while one has it mapped.
 * EPERM without the right to it, see above.
 */
#define P2PMEM_ALLOC_IRREVOCABLE	(1U << 1)
/*
 * The memory is to be the one at @offset. EOPNOTSUPP: the pool of the kernel
 * cannot allocate at a given offset.
 */
#define P2PMEM_ALLOC_FIXED		(1U << 2)

/**
 * struct p2pmem_alloc - allocates memory
 * @size: in: bytes, a multiple of &p2pmem_info.granule
 * @offset: in: 0 without %P2PMEM_ALLOC_FIXED
 * @flags: in: P2PMEM_ALLOC_*
 * @fd: out: a new descriptor of a dma-buf, closed on exec, with the access mode
 *	of the node's descriptor
 *
 * EINVAL for any other size, offset or flag.
 */
struct p2pmem_alloc {
	__u64 size;
	__u64 offset;
	__u32 flags;
	__s32 fd;
};

#define P2PMEM_IOC_INFO		_IOR(P2PMEM_IOC_MAGIC, P2PMEM_NR_INFO, struct p2pmem_info)
#define P2PMEM_IOC_REGION	_IOWR(P2PMEM_IOC_MAGIC, P2PMEM_NR_REGION, struct p2pmem_region)
#define P2PMEM_IOC_ALLOC	_IOWR(P2PMEM_IOC_MAGIC, P2PMEM_NR_ALLOC, struct p2pmem_alloc)

/**
 * struct p2pmem_uring_register - fills a slot of an io_uring's buffer table
 * @fd: a dma-buf from %P2PMEM_IOC_ALLOC of the same node
 * @slot: the slot; the ring must have been given a table that has it
 * @first: the first granule of the dma-buf that is to be used
 * @count: how many granules, less than 4 GiB; 0 for all from @first on
 *
 * For IORING_OP_URING_CMD, with %P2PMEM_URING_REGISTER as cmd_op and this structure
 * as the command's data. In requests that use the slot, addresses count from 0 at
 * the first byte. Takes the same time for any length. A dma-buf that can only be
 * read can only be written from.
 *
 * Errors: EBADF, EINVAL for any other descriptor, EXDEV for one of another node,
 * ERANGE for a part that is empty, not within the dma-buf, or 4 GiB or longer,
 * EINVAL for a slot that does not exist, EBUSY for one that is in use, EPERM
 * without the right to it, ENODEV once the device is gone.
 */
struct p2pmem_uring_register {
	__s32 fd;
	__u32 slot;
	__u32 first;
	__u32 count;
};

/**
 * struct p2pmem_uring_unregister - empties a slot
 * @slot: the slot
 * @reserved: 0
 *
 * With %P2PMEM_URING_UNREGISTER as cmd_op. Requests that use the buffer go on, and
 * keep the memory. Works on a device that is gone as well.
 *
 * Errors: EINVAL for a slot that does not exist or is empty, EBUSY for one that the
 * program filled by itself.
 */
struct p2pmem_uring_unregister {
	__u32 slot;
	__u32 reserved[3];
};

#define P2PMEM_URING_REGISTER	_IOW(P2PMEM_IOC_MAGIC, P2PMEM_NR_URING_REGISTER, \
				     struct p2pmem_uring_register)
#define P2PMEM_URING_UNREGISTER	_IOW(P2PMEM_IOC_MAGIC, P2PMEM_NR_URING_UNREGISTER, \
				     struct p2pmem_uring_unregister)

#endif /* _UAPI_LINUX_P2PMEM_H */
