// SPDX-License-Identifier: GPL-2.0

#include <linux/security.h>

/* A function or an inline one, as the kernel is configured. */
__rust_helper int rust_helper_security_locked_down_pci(void)
{
	return security_locked_down(LOCKDOWN_PCI_ACCESS);
}
