// SPDX-License-Identifier: GPL-2.0

#include <linux/device.h>
#include <linux/pci.h>

__rust_helper int rust_helper_dev_to_node(struct device *dev)
{
	return dev_to_node(dev);
}

__rust_helper void rust_helper_device_lock(struct device *dev)
{
	device_lock(dev);
}

__rust_helper int rust_helper_device_trylock(struct device *dev)
{
	return device_trylock(dev);
}

__rust_helper void rust_helper_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

__rust_helper void rust_helper_dev_warn_unreachable(struct device *client,
						    struct pci_dev *provider)
{
	dev_warn_ratelimited(client,
			     "cannot reach the peer-to-peer memory of %s, p2pmem topo says why\n",
			     pci_name(provider));
}
