// SPDX-License-Identifier: GPL-2.0

#include <linux/io.h>
#include <linux/mm.h>

__rust_helper phys_addr_t rust_helper_page_to_phys(const struct page *page)
{
	return page_to_phys(page);
}

__rust_helper void *rust_helper_page_to_virt(struct page *page)
{
	return page_to_virt(page);
}

__rust_helper struct page *rust_helper_virt_to_page(const void *addr)
{
	return virt_to_page(addr);
}
