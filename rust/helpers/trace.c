// SPDX-License-Identifier: GPL-2.0

#include "p2pmem_trace.h"

__rust_helper void rust_helper_trace_p2pmem_alloc(struct pci_dev *pdev, u64 address, u64 size)
{
	trace_p2pmem_alloc(pdev, address, size);
}

__rust_helper void rust_helper_trace_p2pmem_map(struct pci_dev *pdev, u64 address, u64 size)
{
	trace_p2pmem_map(pdev, address, size);
}

__rust_helper void rust_helper_trace_p2pmem_free(struct pci_dev *pdev, u64 address, u64 size)
{
	trace_p2pmem_free(pdev, address, size);
}

__rust_helper void rust_helper_trace_p2pmem_revoke(struct pci_dev *pdev, u64 address, u64 size)
{
	trace_p2pmem_revoke(pdev, address, size);
}
