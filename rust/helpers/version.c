// SPDX-License-Identifier: GPL-2.0
/*
 * The version of the module, which module!() of the kernel crate does not take: that of its source,
 * and the build of the kernel that it is made for. Kbuild passes both.
 */

#include <linux/module.h>

MODULE_VERSION(P2PMEM_VERSION);
