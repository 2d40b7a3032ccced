// SPDX-License-Identifier: GPL-2.0
/* Copies the first 4 MiB from drive to drive through device memory that is mapped. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LENGTH (4 << 20)

int main(int argc, char **argv)
{
	int node = argc == 4 ? open(argv[1], O_RDWR) : -1;
	int from = argc == 4 ? open(argv[2], O_RDONLY | O_DIRECT) : -1;
	int to = argc == 4 ? open(argv[3], O_WRONLY | O_DIRECT) : -1;
	void *memory;

	if (node < 0 || from < 0 || to < 0)
		err(1, "map /dev/p2pmemN SOURCE TARGET");
	/* The length is yours to choose: each mapping is memory of its own. */
	memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, node, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	close(node); /* The mapping keeps the memory. */
	if (pread(from, memory, LENGTH, 0) != LENGTH)
		err(1, "read");
	if (pwrite(to, memory, LENGTH, 0) != LENGTH)
		err(1, "write");
	return 0;
}
