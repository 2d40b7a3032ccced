// SPDX-License-Identifier: GPL-2.0

#include <linux/page_ref.h>

__rust_helper int rust_helper_page_ref_count(const struct page *page)
{
	return page_ref_count(page);
}

/*
 * Freezes pages that follow each other, up to the first one that somebody else refers to, and
 * returns how many: a call for each of them would cost more than what it does.
 */
__rust_helper unsigned long rust_helper_page_ref_freeze_run(struct page *first,
							    unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++) {
		if (!page_ref_freeze(first + i, 1))
			break;
	}

	return i;
}
