// SPDX-License-Identifier: GPL-2.0

#include <linux/page_ref.h>

__rust_helper int rust_helper_page_ref_count(const struct page *page)
{
	return page_ref_count(page);
}

__rust_helper bool rust_helper_page_ref_freeze(struct page *page, int count)
{
	return page_ref_freeze(page, count);
}

__rust_helper void rust_helper_set_page_count(struct page *page, int v)
{
	set_page_count(page, v);
}
