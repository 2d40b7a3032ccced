/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Requests of the guest cases to the driver of a device that writes to memory of others
 * (tests/devices/src/models/pusher.rs), by requests to /dev/p2pmem_pusher.
 */
#ifndef _P2PMEM_PUSHER_H
#define _P2PMEM_PUSHER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The driver unmaps the memory on revocation. */
#define P2PMEM_PUSHER_REVOCABLE	0x1
/* Again and again, until it is stopped. */
#define P2PMEM_PUSHER_FOREVER	0x2

/**
 * struct p2pmem_pusher_start - what is to be written, and where to
 * @fd: a dma-buf; -1 for memory of the driver, which read() returns
 * @flags: P2PMEM_PUSHER_*
 * @length: bytes from the beginning of the memory
 * @seed: which pattern
 */
struct p2pmem_pusher_start {
	__s32 fd;
	__u32 flags;
	__u32 length;
	__u32 seed;
};

/**
 * struct p2pmem_pusher_status - how far it is
 * @busy: whether it goes on
 * @error: errno of what failed, 0 if nothing did
 * @rounds: how often all was written
 * @revoked: whether the memory was taken back
 */
struct p2pmem_pusher_status {
	__u32 busy;
	__u32 error;
	__u32 rounds;
	__u32 revoked;
};

/* One at a time. */
#define P2PMEM_PUSHER_START _IOW(0xbf, 0, struct p2pmem_pusher_start)
#define P2PMEM_PUSHER_STATUS _IOR(0xbf, 1, struct p2pmem_pusher_status)
/* Gives the memory back; so does closing the file. */
#define P2PMEM_PUSHER_STOP _IO(0xbf, 2)

#endif /* _P2PMEM_PUSHER_H */
