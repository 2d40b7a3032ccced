// SPDX-License-Identifier: GPL-2.0

#include <linux/fs_context.h>
#include <linux/pseudo_fs.h>

/* init_pseudo(), without a type that only its header has. */
__rust_helper bool rust_helper_init_pseudo_fs(struct fs_context *fc,
					      unsigned long magic)
{
	return init_pseudo(fc, magic);
}
