/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User-space interface of p2pmem_rs: PCI peer-to-peer memory as /dev/p2pmemN.
 *
 * A /dev/p2pmemN node stands for one provider: the peer-to-peer memory that one
 * PCI device offers. Besides the calls below a node can be mapped:
 *
 *   mmap(NULL, length, prot, MAP_SHARED, fd, 0)
 *
 * allocates @length bytes of device memory (rounded up to whole pages) and maps
 * them. Each mapping is an allocation of its own; it is given back when its last
 * mapping in any process is gone. Errors of mmap:
 *
 *   EINVAL  the mapping is private, or the offset is not 0
 *   ENOMEM  the provider has no free run of that many bytes
 *   ENODEV  the device is gone
 *
 * After the device went away (unbind, unplug) touching a mapping raises SIGBUS,
 * each call on the descriptor fails with ENODEV, and poll() reports
 * POLLERR | POLLHUP.
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

/**
 * struct p2pmem_info - what a provider is
 * @size: bytes of device memory the provider registered
 * @allocated: bytes of it that are allocated through this node at the moment
 * @granule: the unit of allocation in bytes; lengths are rounded up to it
 * @regions: the number of regions the memory consists of, see
 *	struct p2pmem_region
 *
 * The kernel's own users (and mainline's sysfs "p2pmem/allocate") take memory
 * from the same pool; what they hold is not part of @allocated.
 */
struct p2pmem_info {
	__u64 size;
	__u64 allocated;
	__u32 granule;
	__u32 regions;
};

/**
 * struct p2pmem_region - where a part of the memory lies
 * @index: in: which region, from 0 to &p2pmem_info.regions - 1
 * @bar: out: the number of the PCI Base Address Register, 0 to 5
 * @offset: out: where the region starts, in bytes from the start of the BAR
 * @size: out: how long it is, in bytes
 */
struct p2pmem_region {
	__u32 index;
	__u32 bar;
	__u64 offset;
	__u64 size;
};

/*
 * Numbers of the requests.
 *
 * An unknown number is ENOTTY, a bad pointer EFAULT, a device that went away
 * ENODEV, and a region index that is too large EINVAL.
 */
#define P2PMEM_NR_INFO		0x00
#define P2PMEM_NR_REGION	0x01

#define P2PMEM_IOC_INFO		_IOR(P2PMEM_IOC_MAGIC, P2PMEM_NR_INFO, struct p2pmem_info)
#define P2PMEM_IOC_REGION	_IOWR(P2PMEM_IOC_MAGIC, P2PMEM_NR_REGION, struct p2pmem_region)

#endif /* _UAPI_LINUX_P2PMEM_H */
