/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Headers and constants of which bindgen makes what kernel::bindings lacks.
 *
 * Sorted alphabetically.
 */

#include <linux/dma-buf-mapping.h>
#include <linux/io_uring/cmd.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/vmalloc.h>

/* Macros with casts, which bindgen does not evaluate. */
const __poll_t RUST_CONST_HELPER_EPOLLERR = EPOLLERR;
const __poll_t RUST_CONST_HELPER_EPOLLHUP = EPOLLHUP;
const vm_flags_t RUST_CONST_HELPER_VM_RAND_READ = VM_RAND_READ;
