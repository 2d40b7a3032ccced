// SPDX-License-Identifier: GPL-2.0

#include <linux/log2.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/page_ref.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>

__rust_helper bool rust_helper_is_pci_p2pdma_page(const struct page *page)
{
	return is_pci_p2pdma_page(page);
}

__rust_helper struct dev_pagemap *rust_helper_page_pgmap(const struct page *page)
{
	return page_pgmap(page);
}

/*
 * A run of device memory is kept in folios that are as large as alignment and length allow, up to
 * the size of a large page, where large pages can be mapped. Elsewhere it is single pages.
 */
static unsigned int p2pmem_block_order(const struct page *page, unsigned long nr)
{
	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) || !IS_ENABLED(CONFIG_FS_DAX))
		return 0;

	return min_t(unsigned long, ilog2(nr),
		     __ffs(page_to_pfn(page) | 1UL << (PMD_SHIFT - PAGE_SHIFT)));
}

/*
 * Makes folios of a run of pages without references. Each has one reference then. The pages of
 * those with more than one page hold a reference each to the pagemap.
 */
__rust_helper void rust_helper_zone_device_run_assemble(struct page *page,
							unsigned long nr)
{
	while (nr) {
		unsigned int order = p2pmem_block_order(page, nr);

		if (order) {
			zone_device_page_init(page, page_pgmap(page), order);
			/* No task waits for the lock yet: readers would. */
			unlock_page(page);
		} else {
			set_page_count(page, 1);
		}
		page += 1UL << order;
		nr -= 1UL << order;
	}
}

/*
 * Takes the last reference to each folio of a run, if it is the only one of each: all of
 * them or none.
 */
__rust_helper bool rust_helper_zone_device_run_freeze(struct page *page,
						      unsigned long nr)
{
	unsigned long i, frozen;

	for (i = 0; i < nr; i += folio_nr_pages(page_folio(page + i))) {
		if (folio_ref_freeze(page_folio(page + i), 1))
			continue;
		for (frozen = 0; frozen < i;) {
			struct folio *folio = page_folio(page + frozen);

			frozen += folio_nr_pages(folio);
			folio_ref_unfreeze(folio, 1);
		}
		return false;
	}

	return true;
}

/* Returns how many pages are in folios of a run that have more than one reference. */
__rust_helper unsigned long rust_helper_zone_device_run_referred(struct page *page,
								 unsigned long nr)
{
	unsigned long i, pages, referred = 0;

	for (i = 0; i < nr; i += pages) {
		struct folio *folio = page_folio(page + i);

		pages = folio_nr_pages(folio);
		if (folio_ref_count(folio) > 1)
			referred += pages;
	}

	return referred;
}

/*
 * Takes a folio apart whose references are frozen: what zone_device_page_init() and its users left
 * in the pages is removed, so that each is as a page of the pool again.
 */
static void p2pmem_dissolve(struct folio *folio, unsigned long nr)
{
	struct dev_pagemap *pgmap = folio->pgmap;
	unsigned long i;

	folio->flags.f &= ~(0xffUL | 1UL << PG_active | 1UL << PG_workingset);
	folio->mapping = NULL;
	folio->_flags_1 &= ~PAGE_FLAGS_SECOND;
#ifdef NR_PAGES_IN_LARGE_FOLIO
	/* The same place is memcg_data of a single page. */
	folio->_nr_pages = 0;
#endif

	for (i = 1; i < nr; i++) {
		struct folio *tail = (struct folio *)folio_page(folio, i);

		/* Removes the link to the head as well. */
		tail->pgmap = pgmap;
		tail->page.zone_device_data = NULL;
		tail->mapping = NULL;
		tail->share = 0;
		/* Pages 1 to 3 carry fields of the folio. */
		if (i < 4)
			tail->private = NULL;
	}

	percpu_ref_put_many(&pgmap->ref, nr);
}

/* Takes all folios of a run apart, whose references are frozen. */
__rust_helper void rust_helper_zone_device_run_dissolve(struct page *page,
							unsigned long nr)
{
	while (nr) {
		struct folio *folio = page_folio(page);
		unsigned long pages = folio_nr_pages(folio);

		if (pages > 1)
			p2pmem_dissolve(folio, pages);
		page += pages;
		nr -= pages;
	}
}
