// SPDX-License-Identifier: GPL-2.0

#include <linux/sysfs.h>

/*
 * As sysfs_attr_init(), where the caller says what the lock class of the attribute
 * is known by: the address of something static.
 */
__rust_helper void rust_helper_sysfs_attr_init_class(struct attribute *attr,
						     const void *class)
{
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	attr->key = (struct lock_class_key *)class;
#endif
}
