// SPDX-License-Identifier: GPL-2.0

#include <linux/cgroup_dmem.h>

/* Functions or inline ones, without types that only their header has. */
__rust_helper void *rust_helper_dmem_register(u64 size, const char *name)
{
	const struct dmem_cgroup_init init = { .size = size };

	return dmem_cgroup_register_region(&init, "%s", name);
}

__rust_helper void rust_helper_dmem_unregister(void *region)
{
	dmem_cgroup_unregister_region(region);
}

__rust_helper int rust_helper_dmem_try_charge(void *region, u64 size, void **pool)
{
	struct dmem_cgroup_pool_state *charged;
	int ret = dmem_cgroup_try_charge(region, size, &charged, NULL);

	*pool = charged;

	return ret;
}

__rust_helper void rust_helper_dmem_uncharge(void *pool, u64 size)
{
	dmem_cgroup_uncharge(pool, size);
}
