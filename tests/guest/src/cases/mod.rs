// SPDX-License-Identifier: GPL-2.0

//! The cases, one file for each group.

use crate::harness::Case;

mod apply;
mod bench;
mod buffers;
mod cgroup;
mod controller;
mod copy;
mod debug;
mod direct_io;
mod doctor;
mod endpoint;
mod fabric;
mod fault;
mod files;
mod handle;
mod hotplug;
mod ioctl;
mod large;
mod mainline;
mod manage;
mod many;
mod metrics;
mod mmap;
mod module;
mod nvme;
mod nvmet;
mod override_;
mod programs;
mod providers;
mod pusher;
mod roles;
mod share;
mod slots;
mod stacks;
mod table;
mod torture;
mod unbind;
mod unreachable;
mod uring;

/// All of them, in the order in which they are run.
pub const CASES: &[&[Case]] = &[
    module::CASES,
    ioctl::CASES,
    mmap::CASES,
    share::CASES,
    large::CASES,
    many::CASES,
    buffers::CASES,
    handle::CASES,
    uring::CASES,
    slots::CASES,
    mainline::CASES,
    direct_io::CASES,
    files::CASES,
    fabric::CASES,
    doctor::CASES,
    bench::CASES,
    copy::CASES,
    unbind::CASES,
    fault::CASES,
    fault::nth::CASES,
    cgroup::CASES,
    providers::CASES,
    many::fanout::CASES,
    many::huge::CASES,
    roles::CASES,
    unreachable::CASES,
    fabric::apart::CASES,
    fabric::outside::CASES,
    fabric::redirected::CASES,
    fabric::bridged::CASES,
    fabric::virtual_function::CASES,
    programs::CASES,
    fabric::translated::CASES,
    slots::merged::CASES,
    slots::sent::CASES,
    stacks::CASES,
    stacks::multipath::CASES,
    table::CASES,
    table::iommu::CASES,
    override_::CASES,
    override_::unmappable::CASES,
    override_::lockdown::CASES,
    manage::CASES,
    manage::lend::CASES,
    apply::CASES,
    metrics::CASES,
    metrics::cdi::CASES,
    nvme::adopt::CASES,
    nvme::cmb::CASES,
    nvme::pmr::CASES,
    nvmet::CASES,
    controller::CASES,
    endpoint::CASES,
    pusher::CASES,
    doctor::unused::CASES,
    doctor::own::CASES,
    doctor::window::CASES,
    doctor::ats::CASES,
    hotplug::CASES,
    torture::CASES,
    hotplug::native::CASES,
    debug::CASES,
];
