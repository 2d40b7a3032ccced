// SPDX-License-Identifier: GPL-2.0

#include <linux/suspend.h>

/* Functions or inline ones, as the kernel is configured. */
__rust_helper int rust_helper_sleep_notifier_register(struct notifier_block *nb)
{
	return register_pm_notifier(nb);
}

__rust_helper int rust_helper_sleep_notifier_unregister(struct notifier_block *nb)
{
	return unregister_pm_notifier(nb);
}

__rust_helper bool rust_helper_sleep_is_prepared(unsigned long event)
{
	return event == PM_SUSPEND_PREPARE || event == PM_HIBERNATION_PREPARE;
}

__rust_helper bool rust_helper_sleep_is_over(unsigned long event)
{
	return event == PM_POST_SUSPEND || event == PM_POST_HIBERNATION;
}

__rust_helper int rust_helper_notifier_from_errno(int err)
{
	return notifier_from_errno(err);
}
