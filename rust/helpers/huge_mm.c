// SPDX-License-Identifier: GPL-2.0

#include <linux/fs.h>
#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

__rust_helper bool rust_helper_vma_is_dax(const struct vm_area_struct *vma)
{
	return vma_is_dax(vma);
}

/* Whether a leaf of the second level of page tables is at @address of @vma, which is locked. */
__rust_helper bool rust_helper_vma_has_large_page(struct vm_area_struct *vma,
						  unsigned long address)
{
	pgd_t *pgd = pgd_offset(vma->vm_mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (pgd_none(*pgd))
		return false;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return false;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_leaf(*pud))
		return false;

	return pmd_leaf(pmdp_get_lockless(pmd_offset(pud, address)));
}

#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && defined(CONFIG_FS_DAX)
/*
 * vmf_insert_folio_pmd() warns of a page table where it is to make an entry writable: it is
 * only asked to where there is a large page. A new entry has the rights of the area anyway.
 */
__rust_helper vm_fault_t rust_helper_vmf_insert_large_folio(struct vm_fault *vmf,
							    struct folio *folio)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;

	return vmf_insert_folio_pmd(vmf, folio, write && pmd_leaf(vmf->orig_pmd));
}
#endif
