// SPDX-License-Identifier: GPL-2.0

#include <linux/sched.h>
#include <linux/sched/signal.h>

__rust_helper int rust_helper_fatal_signal_pending(struct task_struct *p)
{
	return fatal_signal_pending(p);
}

/* All of the field, which always ends with a zero. */
__rust_helper void rust_helper_get_task_comm(char *buf,
					     struct task_struct *task)
{
	memcpy(buf, task->comm, TASK_COMM_LEN);
}
