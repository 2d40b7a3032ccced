# SPDX-License-Identifier: GPL-2.0
"""The lab: virtual machines with PCIe topologies, in which the driver is run."""


class LabError(Exception):
    """An error of the lab itself, in one line that names the cure."""
