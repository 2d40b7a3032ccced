// SPDX-License-Identifier: GPL-2.0

#include <linux/io_uring/cmd.h>

__rust_helper struct file *
rust_helper_io_uring_cmd_file(const struct io_uring_cmd *cmd)
{
	return cmd->file;
}

__rust_helper u32 rust_helper_io_uring_cmd_op(const struct io_uring_cmd *cmd)
{
	return cmd->cmd_op;
}

__rust_helper const void *
rust_helper_io_uring_sqe_cmd(const struct io_uring_cmd *cmd)
{
	return cmd->sqe->cmd;
}
