// SPDX-License-Identifier: GPL-2.0
/*
 * Driver of a device that writes to the memory of others, as that of an FPGA or an
 * accelerator might be: it imports a dma-buf, and has its engine write there. When the
 * memory is taken back it stops the engine first. What the device has in BAR 2 it
 * publishes for others.
 */

#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/iopoll.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci-p2pdma.h>
#include <linux/uaccess.h>

#include "p2pmem_pusher.h"

#define PUSHER_ADDRESS	0x00
#define PUSHER_LENGTH	0x08
#define PUSHER_SEED	0x0c
#define PUSHER_CONTROL	0x10
#define PUSHER_STATUS	0x14
#define PUSHER_ROUNDS	0x18

#define PUSHER_ONCE	1
#define PUSHER_AGAIN	2
#define PUSHER_BUSY	0x1

struct pusher {
	/* Serialises requests. Taken before the lock of a dma-buf. */
	struct mutex lock;
	struct pci_dev *pdev;
	void __iomem *registers;
	bool in_use;
	struct dma_buf_attachment *attachment;
	/* Guarded by the lock of the dma-buf, as is the engine while it writes there. */
	struct sg_table *table;
	bool revoked;
	/* Memory of the driver. */
	void *memory;
	dma_addr_t address;
	size_t length;
};

/* There is one device of this kind. */
static struct pusher pusher = {
	.lock = __MUTEX_INITIALIZER(pusher.lock),
};

static void pusher_go(dma_addr_t address,
		      const struct p2pmem_pusher_start *request)
{
	bool again = request->flags & P2PMEM_PUSHER_FOREVER;

	iowrite32(lower_32_bits(address), pusher.registers + PUSHER_ADDRESS);
	iowrite32(upper_32_bits(address),
		  pusher.registers + PUSHER_ADDRESS + sizeof(u32));
	iowrite32(request->length, pusher.registers + PUSHER_LENGTH);
	iowrite32(request->seed, pusher.registers + PUSHER_SEED);
	iowrite32(again ? PUSHER_AGAIN : PUSHER_ONCE,
		  pusher.registers + PUSHER_CONTROL);
}

/* Writes in flight have arrived when this returns. */
static void pusher_halt(void)
{
	u32 status;

	iowrite32(0, pusher.registers + PUSHER_CONTROL);
	/* A device that is gone returns all ones, and writes nothing. */
	if (read_poll_timeout(ioread32, status,
			      status == ~0U || !(status & PUSHER_BUSY), 100,
			      5 * USEC_PER_SEC, false,
			      pusher.registers + PUSHER_STATUS))
		dev_err(&pusher.pdev->dev, "the engine does not stop\n");
}

/* With the lock of the dma-buf held. */
static void pusher_let_go(void)
{
	if (!pusher.table)
		return;
	pusher_halt();
	dma_buf_unmap_attachment(pusher.attachment, pusher.table,
				 DMA_BIDIRECTIONAL);
	pusher.table = NULL;
}

static void pusher_invalidate(struct dma_buf_attachment *attachment)
{
	pusher_let_go();
	pusher.revoked = true;
}

static const struct dma_buf_attach_ops pusher_revocable_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = pusher_invalidate,
};

static const struct dma_buf_attach_ops pusher_ops = {
	.allow_peer2peer = true,
};

static void pusher_stop(void)
{
	struct dma_buf *dmabuf;

	if (pusher.memory) {
		pusher_halt();
		dma_free_coherent(&pusher.pdev->dev, pusher.length,
				  pusher.memory, pusher.address);
		pusher.memory = NULL;
	}
	if (pusher.attachment) {
		dmabuf = pusher.attachment->dmabuf;
		dma_resv_lock(dmabuf->resv, NULL);
		pusher_let_go();
		dma_resv_unlock(dmabuf->resv);
		dma_buf_detach(dmabuf, pusher.attachment);
		dma_buf_put(dmabuf);
		pusher.attachment = NULL;
	}
	pusher.revoked = false;
}

static int pusher_start_own(const struct p2pmem_pusher_start *request)
{
	pusher.length = PAGE_ALIGN(request->length);
	pusher.memory = dma_alloc_coherent(&pusher.pdev->dev, pusher.length,
					   &pusher.address, GFP_KERNEL);
	if (!pusher.memory)
		return -ENOMEM;
	pusher_go(pusher.address, request);

	return 0;
}

static int pusher_start_import(const struct p2pmem_pusher_start *request)
{
	struct dma_buf_attachment *attachment;
	const struct dma_buf_attach_ops *ops;
	struct sg_table *table;
	struct dma_buf *dmabuf;
	int ret = 0;

	ops = request->flags & P2PMEM_PUSHER_REVOCABLE ? &pusher_revocable_ops :
							 &pusher_ops;
	dmabuf = dma_buf_get(request->fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	attachment = dma_buf_dynamic_attach(dmabuf, &pusher.pdev->dev, ops,
					    NULL);
	if (IS_ERR(attachment)) {
		dma_buf_put(dmabuf);
		return PTR_ERR(attachment);
	}

	dma_resv_lock(dmabuf->resv, NULL);
	pusher.attachment = attachment;
	table = dma_buf_map_attachment(attachment, DMA_BIDIRECTIONAL);
	if (IS_ERR(table)) {
		ret = PTR_ERR(table);
	} else {
		pusher.table = table;
		/* The engine knows one address. */
		if (sg_dma_len(table->sgl) < request->length)
			ret = -EINVAL;
		else
			pusher_go(sg_dma_address(table->sgl), request);
	}
	dma_resv_unlock(dmabuf->resv);
	if (ret)
		pusher_stop();

	return ret;
}

static int pusher_start(const struct p2pmem_pusher_start __user *argument)
{
	struct p2pmem_pusher_start request;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (pusher.memory || pusher.attachment)
		return -EBUSY;
	if (!request.length || request.length % sizeof(u64) ||
	    request.length > SZ_64M)
		return -EINVAL;

	return request.fd == -1 ? pusher_start_own(&request) :
				  pusher_start_import(&request);
}

static int pusher_status(struct p2pmem_pusher_status __user *argument)
{
	u32 status = ioread32(pusher.registers + PUSHER_STATUS);
	struct p2pmem_pusher_status answer = {
		.busy = status & PUSHER_BUSY,
		.error = status >> 8,
		.rounds = ioread32(pusher.registers + PUSHER_ROUNDS),
		.revoked = READ_ONCE(pusher.revoked),
	};

	return copy_to_user(argument, &answer, sizeof(answer)) ? -EFAULT : 0;
}

static long pusher_ioctl(struct file *filp, unsigned int request,
			 unsigned long argument)
{
	void __user *pointer = (void __user *)argument;

	guard(mutex)(&pusher.lock);
	if (!pusher.pdev)
		return -ENODEV;
	switch (request) {
	case P2PMEM_PUSHER_START:
		return pusher_start(pointer);
	case P2PMEM_PUSHER_STATUS:
		return pusher_status(pointer);
	case P2PMEM_PUSHER_STOP:
		pusher_stop();
		return 0;
	default:
		return -ENOTTY;
	}
}

static ssize_t pusher_read(struct file *filp, char __user *buffer, size_t count,
			   loff_t *position)
{
	guard(mutex)(&pusher.lock);
	if (!pusher.memory)
		return -ENODEV;

	return simple_read_from_buffer(buffer, count, position, pusher.memory,
				       pusher.length);
}

static int pusher_open(struct inode *inode, struct file *filp)
{
	guard(mutex)(&pusher.lock);
	if (!pusher.pdev)
		return -ENODEV;
	if (pusher.in_use)
		return -EBUSY;
	pusher.in_use = true;

	return 0;
}

static int pusher_release(struct inode *inode, struct file *filp)
{
	guard(mutex)(&pusher.lock);
	if (pusher.pdev)
		pusher_stop();
	pusher.in_use = false;

	return 0;
}

static const struct file_operations pusher_fops = {
	.owner = THIS_MODULE,
	.open = pusher_open,
	.release = pusher_release,
	.read = pusher_read,
	.unlocked_ioctl = pusher_ioctl,
};

static struct miscdevice pusher_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &pusher_fops,
	.mode = 0600,
};

static int pusher_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	void __iomem *registers;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	registers = pcim_iomap_region(pdev, 0, KBUILD_MODNAME);
	if (IS_ERR(registers))
		return PTR_ERR(registers);
	pci_set_master(pdev);
	ret = pci_p2pdma_add_resource(pdev, 2, pci_resource_len(pdev, 2), 0);
	if (ret)
		return ret;
	pci_p2pmem_publish(pdev, true);

	guard(mutex)(&pusher.lock);
	if (pusher.pdev)
		return -EBUSY;
	pusher.registers = registers;
	pusher.pdev = pdev;

	return 0;
}

static void pusher_remove(struct pci_dev *pdev)
{
	guard(mutex)(&pusher.lock);
	pusher_stop();
	pusher.pdev = NULL;
	pci_clear_master(pdev);
}

static const struct pci_device_id pusher_ids[] = {
	{ PCI_DEVICE(0x1234, 0xf003) },
	{}
};
MODULE_DEVICE_TABLE(pci, pusher_ids);

static struct pci_driver pusher_driver = {
	.name = KBUILD_MODNAME,
	.id_table = pusher_ids,
	.probe = pusher_probe,
	.remove = pusher_remove,
};

static int __init pusher_init(void)
{
	int ret = misc_register(&pusher_device);

	if (ret)
		return ret;
	ret = pci_register_driver(&pusher_driver);
	if (ret)
		misc_deregister(&pusher_device);

	return ret;
}
module_init(pusher_init);

static void __exit pusher_exit(void)
{
	pci_unregister_driver(&pusher_driver);
	misc_deregister(&pusher_device);
}
module_exit(pusher_exit);

MODULE_DESCRIPTION("Driver of a device that writes to memory of others, for tests");
MODULE_AUTHOR("The p2pmem_rs developers");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
