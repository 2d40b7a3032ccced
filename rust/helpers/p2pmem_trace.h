/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Events of peer-to-peer memory that is given to user space: /sys/kernel/tracing/events/p2pmem/.
 * Addresses are those of the CPU, sizes are in bytes.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM p2pmem

#if !defined(_P2PMEM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _P2PMEM_TRACE_H

#include <linux/pci.h>
#include <linux/tracepoint.h>

DECLARE_EVENT_CLASS(p2pmem_memory,
	TP_PROTO(struct pci_dev *pdev, u64 address, u64 size),
	TP_ARGS(pdev, address, size),
	TP_STRUCT__entry(
		__string(device, pci_name(pdev))
		__field(u64, address)
		__field(u64, size)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->address = address;
		__entry->size = size;
	),
	TP_printk("%s address=0x%llx size=%llu", __get_str(device),
		  __entry->address, __entry->size)
);

/* Memory was taken from the pool. */
DEFINE_EVENT(p2pmem_memory, p2pmem_alloc,
	TP_PROTO(struct pci_dev *pdev, u64 address, u64 size),
	TP_ARGS(pdev, address, size)
);

/* Pages became present in the address space of the current process. */
DEFINE_EVENT(p2pmem_memory, p2pmem_map,
	TP_PROTO(struct pci_dev *pdev, u64 address, u64 size),
	TP_ARGS(pdev, address, size)
);

/* A run without references went back to the pool. */
DEFINE_EVENT(p2pmem_memory, p2pmem_free,
	TP_PROTO(struct pci_dev *pdev, u64 address, u64 size),
	TP_ARGS(pdev, address, size)
);

/* Memory was taken back from its owner, since the device goes away. */
DEFINE_EVENT(p2pmem_memory, p2pmem_revoke,
	TP_PROTO(struct pci_dev *pdev, u64 address, u64 size),
	TP_ARGS(pdev, address, size)
);

#endif /* _P2PMEM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE p2pmem_trace
#include <trace/define_trace.h>
