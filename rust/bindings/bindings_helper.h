/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Headers and constants of which bindgen makes what kernel::bindings lacks.
 *
 * Sorted alphabetically.
 */

#include <linux/poll.h>

/* Macros with casts, which bindgen does not evaluate. */
const __poll_t RUST_CONST_HELPER_EPOLLERR = EPOLLERR;
const __poll_t RUST_CONST_HELPER_EPOLLHUP = EPOLLHUP;
