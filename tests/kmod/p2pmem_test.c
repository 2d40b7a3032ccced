// SPDX-License-Identifier: GPL-2.0
/*
 * Services inside the kernel that guest cases need and cannot have otherwise. Never
 * loaded but by tests.
 */

#include <linux/delay.h>
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "p2pmem_test.h"

/* State of a file. */
struct test_file {
	/* Serialises requests. */
	struct mutex lock;
	struct pci_dev *pdev;
	int bar;
	struct kprobe probe;
	struct p2pmem_test_detour detour;
	struct task_struct *task;
	atomic_t hits;
	/* The imported dma-buf. The mapping is guarded by the lock of the dma-buf. */
	struct pci_dev *importer;
	struct dma_buf_attachment *attachment;
	struct sg_table *table;
	unsigned int patience;
	struct delayed_work letting_go;
};

static int test_pte(struct p2pmem_test_pte __user *argument)
{
	struct mm_struct *mm = current->mm;
	struct p2pmem_test_pte request;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	pgd_t *pgd;
	pte_t pte;
	struct page *page;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.address >= TASK_SIZE)
		return -EINVAL;

	request.value = 0;
	request.leaf_order = 0;
	request.folio_order = 0;
	mmap_read_lock(mm);
	pgd = pgd_offset(mm, request.address);
	if (pgd_none(*pgd))
		goto out;
	p4d = p4d_offset(pgd, request.address);
	if (p4d_none(*p4d))
		goto out;
	pud = pud_offset(p4d, request.address);
	if (pud_none(*pud) || pud_leaf(*pud))
		goto out;
	pmd = pmd_offset(pud, request.address);
	if (pmd_none(*pmd))
		goto out;
	if (pmd_leaf(*pmd)) {
		request.value = pmd_val(*pmd);
		request.leaf_order = PMD_SHIFT - PAGE_SHIFT;
		page = pmd_page(*pmd);
	} else {
		pte = ptep_get(pte_offset_kernel(pmd, request.address));
		if (!pte_present(pte))
			goto out;
		request.value = pte_val(pte);
		page = pte_page(pte);
	}
	request.folio_order = folio_order(page_folio(page));
out:
	mmap_read_unlock(mm);

	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
}

static int test_register(struct p2pmem_test_register __user *argument,
			 bool write)
{
	struct p2pmem_test_register request;
	struct pci_dev *pdev;
	void __iomem *base;
	int ret = -EINVAL;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	pdev = pci_get_domain_bus_and_slot(request.bar.domain, request.bar.bus,
					   request.bar.devfn);
	if (!pdev)
		return -ENODEV;
	if (request.bar.bar >= PCI_STD_NUM_BARS ||
	    request.offset % sizeof(u32) ||
	    request.offset >= pci_resource_len(pdev, request.bar.bar))
		goto put;
	base = pci_iomap(pdev, request.bar.bar, 0);
	if (!base) {
		ret = -ENOMEM;
		goto put;
	}
	if (write)
		iowrite32(request.value, base + request.offset);
	request.value = ioread32(base + request.offset);
	pci_iounmap(pdev, base);
	ret = copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
put:
	pci_dev_put(pdev);

	return ret;
}

static int test_claim(struct test_file *file,
		      struct p2pmem_test_bar __user *argument)
{
	struct p2pmem_test_bar request;
	struct pci_dev *pdev;
	int ret;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (file->pdev)
		return -EBUSY;
	if (request.bar >= PCI_STD_NUM_BARS)
		return -EINVAL;

	pdev = pci_get_domain_bus_and_slot(request.domain, request.bus,
					   request.devfn);
	if (!pdev)
		return -ENODEV;
	ret = pci_request_region(pdev, request.bar, KBUILD_MODNAME);
	if (ret) {
		pci_dev_put(pdev);
		return ret;
	}
	file->pdev = pdev;
	file->bar = request.bar;

	return 0;
}

typedef unsigned long (*test_function)(unsigned long a, unsigned long b,
				       unsigned long c, unsigned long d,
				       unsigned long e, unsigned long f);

/* The file whose detour is in use, and the task that just takes it. */
static struct test_file *detouring;
static struct task_struct *detoured;

/*
 * Runs in place of the function: probes must not sleep, what they jump to may.
 * Passes on as many arguments as registers hold.
 */
static noinline unsigned long test_detour(unsigned long a, unsigned long b,
					  unsigned long c, unsigned long d,
					  unsigned long e, unsigned long f)
{
	struct test_file *file = READ_ONCE(detouring);
	unsigned long ret = file->detour.result;

	atomic_inc(&file->hits);
	if (file->detour.milliseconds)
		msleep(file->detour.milliseconds);
	if (!file->detour.result)
		ret = ((test_function)file->probe.addr)(a, b, c, d, e, f);
	WRITE_ONCE(detoured, NULL);

	return ret;
}

static int test_hit(struct kprobe *probe, struct pt_regs *regs)
{
	struct test_file *file = container_of(probe, struct test_file, probe);

	if (current->group_leader != file->task)
		return 0;
	/* The call by the detour, and calls by other threads during it. */
	if (cmpxchg(&detoured, NULL, current))
		return 0;
	instruction_pointer_set(regs, (unsigned long)test_detour);

	return 1;
}

/* That there is one makes the kernel expect that the probe jumps. */
static void test_hit_end(struct kprobe *probe, struct pt_regs *regs,
			 unsigned long flags)
{
}

static int test_set_detour(struct test_file *file,
			   struct p2pmem_test_detour __user *argument)
{
	struct p2pmem_test_detour request;
	int ret;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (strnlen(request.symbol, sizeof(request.symbol)) ==
	    sizeof(request.symbol) || request.milliseconds > 5000)
		return -EINVAL;

	if (!file->task) {
		if (cmpxchg(&detouring, NULL, file))
			return -EBUSY;
		file->detour = request;
		file->task = current->group_leader;
		file->probe.symbol_name = file->detour.symbol;
		file->probe.pre_handler = test_hit;
		file->probe.post_handler = test_hit_end;
		ret = register_kprobe(&file->probe);
		if (ret) {
			file->task = NULL;
			WRITE_ONCE(detouring, NULL);
			return ret;
		}
	} else if (strcmp(request.symbol, file->detour.symbol)) {
		return -EBUSY;
	}
	request.hits = atomic_read(&file->hits);

	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
}

static void test_let_go(struct test_file *file)
{
	dma_resv_assert_held(file->attachment->dmabuf->resv);
	if (file->table)
		dma_buf_unmap_attachment(file->attachment, file->table,
					 DMA_BIDIRECTIONAL);
	file->table = NULL;
}

static void test_let_go_later(struct work_struct *work)
{
	struct test_file *file = container_of(to_delayed_work(work),
					      struct test_file, letting_go);
	struct dma_resv *resv = file->attachment->dmabuf->resv;

	dma_resv_lock(resv, NULL);
	test_let_go(file);
	dma_resv_unlock(resv);
}

static void test_invalidate(struct dma_buf_attachment *attachment)
{
	struct test_file *file = attachment->importer_priv;

	if (file->patience)
		schedule_delayed_work(&file->letting_go,
				      msecs_to_jiffies(file->patience));
	else
		test_let_go(file);
}

static const struct dma_buf_attach_ops test_peer_ops = {
	.allow_peer2peer = true,
	.invalidate_mappings = test_invalidate,
};

static const struct dma_buf_attach_ops test_irrevocable_peer_ops = {
	.allow_peer2peer = true,
};

static const struct dma_buf_attach_ops test_host_ops = {
	.invalidate_mappings = test_invalidate,
};

static const struct dma_buf_attach_ops *test_ops(u32 flags)
{
	if (flags & P2PMEM_TEST_IMPORT_STATIC)
		return NULL;
	if (!(flags & P2PMEM_TEST_IMPORT_PEER))
		return &test_host_ops;
	if (!(flags & P2PMEM_TEST_IMPORT_REVOCABLE))
		return &test_irrevocable_peer_ops;
	return &test_peer_ops;
}

static void test_forget(struct test_file *file)
{
	struct dma_buf *dmabuf;

	if (!file->attachment)
		return;
	dmabuf = file->attachment->dmabuf;
	cancel_delayed_work_sync(&file->letting_go);
	dma_resv_lock(dmabuf->resv, NULL);
	test_let_go(file);
	dma_resv_unlock(dmabuf->resv);
	dma_buf_detach(dmabuf, file->attachment);
	dma_buf_put(dmabuf);
	pci_dev_put(file->importer);
	file->attachment = NULL;
}

static int test_import(struct test_file *file,
		       struct p2pmem_test_import __user *argument)
{
	struct p2pmem_test_import request;
	struct dma_buf *dmabuf;
	struct sg_table *table;
	int ret;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (file->attachment)
		return -EBUSY;
	dmabuf = dma_buf_get(request.fd);
	if (IS_ERR(dmabuf))
		return PTR_ERR(dmabuf);
	file->importer = pci_get_domain_bus_and_slot(request.domain,
						     request.bus,
						     request.devfn);
	if (!file->importer) {
		ret = -ENODEV;
		goto err_put;
	}
	file->patience = request.milliseconds;
	file->attachment = dma_buf_dynamic_attach(dmabuf, &file->importer->dev,
						  test_ops(request.flags),
						  file);
	if (IS_ERR(file->attachment)) {
		ret = PTR_ERR(file->attachment);
		file->attachment = NULL;
		goto err_put_device;
	}

	dma_resv_lock(dmabuf->resv, NULL);
	table = dma_buf_map_attachment(file->attachment, DMA_BIDIRECTIONAL);
	if (!IS_ERR(table)) {
		file->table = table;
		request.address = sg_dma_address(table->sgl);
		request.length = sg_dma_len(table->sgl);
	}
	dma_resv_unlock(dmabuf->resv);
	if (IS_ERR(table)) {
		test_forget(file);
		return PTR_ERR(table);
	}

	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;

err_put_device:
	pci_dev_put(file->importer);
err_put:
	dma_buf_put(dmabuf);
	return ret;
}

static unsigned int linger;
static atomic_t lingering;
static DECLARE_WAIT_QUEUE_HEAD(linger_queue);

static int test_going(struct notifier_block *block, unsigned long state,
		      void *data)
{
	const struct module *module = data;

	if (state != MODULE_STATE_GOING || (strcmp(module->name, "p2pmem_rs") &&
					    strcmp(module->name, "p2pmem_roles")))
		return NOTIFY_DONE;
	atomic_inc(&lingering);
	wait_event_timeout(linger_queue, !READ_ONCE(linger),
			   msecs_to_jiffies(READ_ONCE(linger)));

	return NOTIFY_OK;
}

static struct notifier_block test_notifier = {
	.notifier_call = test_going,
};

static int test_linger(struct p2pmem_test_linger __user *argument)
{
	struct p2pmem_test_linger request;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.milliseconds > 60000)
		return -EINVAL;
	WRITE_ONCE(linger, request.milliseconds);
	wake_up_all(&linger_queue);
	request.count = atomic_read(&lingering);

	return copy_to_user(argument, &request, sizeof(request)) ? -EFAULT : 0;
}

static DEFINE_MUTEX(first_lock);
static DEFINE_MUTEX(second_lock);

static noinline int test_mistake(unsigned long mistake)
{
	char *memory;
	int round;

	switch (mistake) {
	case P2PMEM_TEST_USE_AFTER_FREE:
		memory = kmalloc(64, GFP_KERNEL);
		if (!memory)
			return -ENOMEM;
		kfree(memory);
		/* The compiler would see it, too. */
		OPTIMIZER_HIDE_VAR(memory);
		WRITE_ONCE(memory[8], 1);
		return 0;
	case P2PMEM_TEST_LOCK_ORDER:
		mutex_lock(&first_lock);
		mutex_lock(&second_lock);
		mutex_unlock(&second_lock);
		mutex_unlock(&first_lock);
		mutex_lock(&second_lock);
		mutex_lock(&first_lock);
		mutex_unlock(&first_lock);
		mutex_unlock(&second_lock);
		return 0;
	case P2PMEM_TEST_LEAK:
		/* A single one may be found by an old pointer on a stack. */
		for (round = 0; round < 20; round++)
			if (!kmalloc(1000, GFP_KERNEL))
				return -ENOMEM;
		return 0;
	default:
		return -EINVAL;
	}
}

static long test_ioctl(struct file *filp, unsigned int request,
		       unsigned long argument)
{
	struct test_file *file = filp->private_data;
	void __user *pointer = (void __user *)argument;

	guard(mutex)(&file->lock);
	switch (request) {
	case P2PMEM_TEST_PTE:
		return test_pte(pointer);
	case P2PMEM_TEST_CLAIM:
		return test_claim(file, pointer);
	case P2PMEM_TEST_READ:
		return test_register(pointer, false);
	case P2PMEM_TEST_WRITE:
		return test_register(pointer, true);
	case P2PMEM_TEST_DETOUR:
		return test_set_detour(file, pointer);
	case P2PMEM_TEST_MISTAKE:
		return test_mistake(argument);
	case P2PMEM_TEST_LINGER:
		return test_linger(pointer);
	case P2PMEM_TEST_IMPORT:
		return test_import(file, pointer);
	default:
		return -ENOTTY;
	}
}

static int test_open(struct inode *inode, struct file *filp)
{
	struct test_file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	INIT_DELAYED_WORK(&file->letting_go, test_let_go_later);
	filp->private_data = file;

	return 0;
}

static int test_release(struct inode *inode, struct file *filp)
{
	struct test_file *file = filp->private_data;

	if (file->task) {
		unregister_kprobe(&file->probe);
		/* A detour may be under way in another thread of the process. */
		while (READ_ONCE(detoured))
			msleep(20);
		WRITE_ONCE(detouring, NULL);
	}
	test_forget(file);
	if (file->pdev) {
		pci_release_region(file->pdev, file->bar);
		pci_dev_put(file->pdev);
	}
	kfree(file);

	return 0;
}

static const struct file_operations test_fops = {
	.owner = THIS_MODULE,
	.open = test_open,
	.release = test_release,
	.unlocked_ioctl = test_ioctl,
};

static struct miscdevice test_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &test_fops,
	.mode = 0600,
};

/* A driver that leaves the memory of its device alone. */
static int test_stub_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return pcim_enable_device(pdev);
}

static struct pci_driver test_stub = {
	.name = "p2pmem_stub",
	.probe = test_stub_probe,
};

static int __init test_init(void)
{
	int ret = register_module_notifier(&test_notifier);

	if (ret)
		return ret;
	ret = pci_register_driver(&test_stub);
	if (ret)
		goto err_notifier;
	ret = misc_register(&test_device);
	if (ret)
		goto err_stub;

	return 0;

err_stub:
	pci_unregister_driver(&test_stub);
err_notifier:
	unregister_module_notifier(&test_notifier);
	return ret;
}
module_init(test_init);

static void __exit test_exit(void)
{
	misc_deregister(&test_device);
	pci_unregister_driver(&test_stub);
	unregister_module_notifier(&test_notifier);
}
module_exit(test_exit);

MODULE_DESCRIPTION("Helper of the tests of p2pmem_rs");
MODULE_AUTHOR("The p2pmem_rs developers");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("DMA_BUF");
