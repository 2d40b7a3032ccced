# SPDX-License-Identifier: GPL-2.0
"""The lab: virtual machines with PCIe topologies, in which the driver is run."""


class LabError(Exception):
    """What went wrong in the lab itself, in one line that says what to do."""
