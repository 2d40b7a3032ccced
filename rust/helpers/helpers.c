// SPDX-License-Identifier: GPL-2.0
/*
 * Static inline functions and function-like macros that the kernel crate's own
 * helpers lack, so that Rust can call them.
 *
 * Sorted alphabetically.
 */

#include <linux/compiler_types.h>

#define __rust_helper

#include "cgroup.c"
#include "device.c"
#include "fs.c"
#include "huge_mm.c"
#include "io_uring.c"
#include "memremap.c"
#include "page.c"
#include "pci.c"
#include "percpu-refcount.c"
#include "pgtable.c"
#include "scatterlist.c"
#include "sched.c"
#include "security.c"
#include "suspend.c"
#include "sysfs.c"
#include "trace.c"
