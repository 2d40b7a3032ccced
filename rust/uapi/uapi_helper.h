/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Headers of which bindgen makes the types and numbers shared with user space.
 *
 * Sorted alphabetically.
 */

#include <linux/p2pmem.h>
