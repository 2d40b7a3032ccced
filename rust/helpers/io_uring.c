// SPDX-License-Identifier: GPL-2.0

#include <linux/io_uring/cmd.h>
#include <linux/io_uring_types.h>

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

/*
 * Registers a segment, and tells by which node the slot has it and in which ring: the node does not
 * change as long as it has it. The lock of the ring is held if @issue_flags say so.
 */
__rust_helper int rust_helper_io_buffer_register_slot(struct io_uring_cmd *cmd,
						      const struct bio_vec *segment,
						      void (*release)(void *), void *priv,
						      u8 dir, unsigned int index,
						      unsigned int issue_flags,
						      void **ring, void **node)
{
	struct io_ring_ctx *ctx = cmd_to_io_kiocb(cmd)->ctx;
	bool unlocked = issue_flags & IO_URING_F_UNLOCKED;
	int ret;

	if (unlocked)
		mutex_lock(&ctx->uring_lock);
	ret = io_buffer_register_bvec(cmd, segment, 1, release, priv, dir, index,
				      issue_flags & ~IO_URING_F_UNLOCKED);
	if (!ret) {
		*ring = ctx;
		*node = ctx->buf_table.nodes[index];
	}
	if (unlocked)
		mutex_unlock(&ctx->uring_lock);

	return ret;
}

/*
 * Empties a slot if it still has @node, and if the ring is one of the current task's: its entry in
 * the task's list of rings keeps a ring until the task itself removes it, which it does not do
 * during this call. Nothing keeps other rings. 0 if there is nothing more to do, EBUSY if the
 * ring is locked, EPERM if it is not the task's.
 *
 * There is no command of the ring, and io_buffer_unregister() takes nothing else from its command.
 */
__rust_helper int rust_helper_io_buffer_try_empty_slot(void *ring, unsigned int index,
						       void *node)
{
	struct io_uring_task *tctx = current->io_uring;
	struct io_ring_ctx *ctx = ring;
	struct io_kiocb request = { .ctx = ctx };

	if (!tctx || !xa_load(&tctx->xa, (unsigned long)ring))
		return -EPERM;
	if (!mutex_trylock(&ctx->uring_lock))
		return -EBUSY;
	if (index < ctx->buf_table.nr && ctx->buf_table.nodes[index] == node)
		io_buffer_unregister((struct io_uring_cmd *)&request, index, 0);
	mutex_unlock(&ctx->uring_lock);

	return 0;
}
