/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Requests of the guest cases to the test module, by requests to /dev/p2pmem_test.
 * All that a file was asked for is undone when it is closed.
 */
#ifndef _P2PMEM_TEST_H
#define _P2PMEM_TEST_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * struct p2pmem_test_pte - how an address of the caller is mapped
 * @address: in: a mapped address
 * @value: out: the entry of the page table that maps it, 0 if there is none
 * @leaf_order: out: how many pages that entry maps, as a power of two
 * @folio_order: out: how many pages the folio has that it maps, as a power of two
 */
struct p2pmem_test_pte {
	__u64 address;
	__u64 value;
	__u32 leaf_order;
	__u32 folio_order;
};

/**
 * struct p2pmem_test_bar - a BAR of a PCI device
 * @domain: PCI domain
 * @bus: PCI bus
 * @devfn: device and function
 * @bar: number of the BAR
 */
struct p2pmem_test_bar {
	__u32 domain;
	__u8 bus;
	__u8 devfn;
	__u16 bar;
};

/**
 * struct p2pmem_test_detour - a function of the kernel that is to fail, or take longer
 * @symbol: its name
 * @milliseconds: for how long the calling process sleeps at its beginning
 * @result: what it returns instead of being executed, 0 to have it executed
 * @hits: out: how often that was so far
 *
 * The function must be one that may sleep, with no more than six arguments and a
 * result of type int. One at a time, for the calling process.
 */
struct p2pmem_test_detour {
	char symbol[52];
	__u32 milliseconds;
	__s32 result;
	__u32 hits;
};

/* Deliberate mistakes, which a kernel that looks for mistakes reports. */
enum p2pmem_test_mistake {
	P2PMEM_TEST_USE_AFTER_FREE,
	P2PMEM_TEST_LOCK_ORDER,
	P2PMEM_TEST_LEAK,
};

/**
 * struct p2pmem_test_import - a dma-buf that a PCI device imports
 * @fd: the dma-buf
 * @flags: P2PMEM_TEST_IMPORT_*
 * @domain: PCI domain of the device
 * @bus: PCI bus
 * @devfn: device and function
 * @milliseconds: time from revocation until the device unmaps
 * @address: out: where the memory is for the device
 * @length: out: how long the first run is
 */
struct p2pmem_test_import {
	__s32 fd;
	__u32 flags;
	__u32 domain;
	__u8 bus;
	__u8 devfn;
	__u16 milliseconds;
	__u64 address;
	__u64 length;
};

/* The importer obeys when the memory goes away. */
#define P2PMEM_TEST_IMPORT_REVOCABLE	0x1
/* It knows what memory of other devices is. */
#define P2PMEM_TEST_IMPORT_PEER	0x2
/* It is one of the old kind. */
#define P2PMEM_TEST_IMPORT_STATIC	0x4

/**
 * struct p2pmem_test_linger - how long p2pmem_rs and p2pmem_roles stay after their code has ended
 * @milliseconds: in: for no longer than that, and until this is set to 0
 * @count: out: how often that began
 */
struct p2pmem_test_linger {
	__u32 milliseconds;
	__u32 count;
};

/**
 * struct p2pmem_test_register - a register of a PCI device
 * @bar: the BAR that it is in
 * @offset: where it is in that BAR
 * @value: what is written to it; out: what is in it
 */
struct p2pmem_test_register {
	struct p2pmem_test_bar bar;
	__u32 offset;
	__u32 value;
};

#define P2PMEM_TEST_PTE _IOWR(0xbe, 0, struct p2pmem_test_pte)
/* Takes the BAR as a driver does. EBUSY if a driver has it. */
#define P2PMEM_TEST_CLAIM _IOW(0xbe, 1, struct p2pmem_test_bar)
/* Again with the same symbol: reads the hits. */
#define P2PMEM_TEST_DETOUR _IOWR(0xbe, 2, struct p2pmem_test_detour)
#define P2PMEM_TEST_MISTAKE _IO(0xbe, 3)
/* One at a time for each file. */
#define P2PMEM_TEST_IMPORT _IOWR(0xbe, 4, struct p2pmem_test_import)
/* For the whole module. */
#define P2PMEM_TEST_LINGER _IOWR(0xbe, 5, struct p2pmem_test_linger)
/* Independent of the owner of the BAR. */
#define P2PMEM_TEST_READ _IOWR(0xbe, 6, struct p2pmem_test_register)
/* As a reset of the device would. */
#define P2PMEM_TEST_WRITE _IOWR(0xbe, 7, struct p2pmem_test_register)

#endif /* _P2PMEM_TEST_H */
