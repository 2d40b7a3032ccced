// SPDX-License-Identifier: GPL-2.0
/* Copies the first MiB from drive to drive through device memory that is never mapped. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <liburing.h>
#include <p2pmem.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH 1048576

static void run(struct io_uring *ring, const char *what, int expected)
{
	struct io_uring_cqe *cqe;

	if (io_uring_submit(ring) != 1 || io_uring_wait_cqe(ring, &cqe))
		errx(1, "the ring does not work");
	if (cqe->res != expected)
		errx(1, "%s: %s", what, cqe->res < 0 ? strerror(-cqe->res) : "too short");
	io_uring_cqe_seen(ring, cqe);
}

static int copy(int node, int memory, int from, int to)
{
	struct io_uring ring;

	if (io_uring_queue_init(1, &ring, 0) || io_uring_register_buffers_sparse(&ring, 1))
		errx(1, "no io_uring with a table of buffers");
	p2pmem_prep_register(io_uring_get_sqe(&ring), node, memory, 0);
	run(&ring, "register", 0);
	/* Addresses count from the start of the memory. */
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), from, NULL, LENGTH, 0, 0);
	run(&ring, "read", LENGTH);
	io_uring_prep_write_fixed(io_uring_get_sqe(&ring), to, NULL, LENGTH, 0, 0);
	run(&ring, "write", LENGTH);
	p2pmem_prep_unregister(io_uring_get_sqe(&ring), node, 0);
	run(&ring, "unregister", 0);
	return 0;
}

int main(int argc, char **argv)
{
	int node = argc == 4 ? p2pmem_open(argv[1]) : -EINVAL;
	int memory = p2pmem_allocate(node, LENGTH, 0);
	int from = argc == 4 ? open(argv[2], O_RDONLY | O_DIRECT) : -1;
	int to = argc == 4 ? open(argv[3], O_WRONLY | O_DIRECT) : -1, status;

	if (node < 0 || memory < 0 || from < 0 || to < 0)
		errx(1, "usage: copy /dev/p2pmemN SOURCE TARGET");
	if (!fork()) /* Memory is a descriptor: the child has it, too. */
		return copy(node, memory, from, to);
	return wait(&status) < 0 || status;
}
