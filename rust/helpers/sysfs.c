// SPDX-License-Identifier: GPL-2.0

#include <linux/sysfs.h>

/* All attributes that are initialised so are one lock class. */
__rust_helper void rust_helper_sysfs_attr_init(struct attribute *attr)
{
	sysfs_attr_init(attr);
}
