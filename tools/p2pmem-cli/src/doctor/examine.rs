// SPDX-License-Identifier: GPL-2.0

//! The order of checks.

use p2pmem::fabric::{Fabric, Target};

use super::{
    check::Check, drives, installation, isolation, memory, paths, providers, software, translation,
    ways::Ways,
};

/// Makes all checks, and one for each path, which is given with what it leads to.
pub fn examine(fabric: &Fabric, named: &[(String, Target)]) -> Vec<Check> {
    let ways = Ways::new(fabric);
    let mut checks = vec![
        software::kernel_release(fabric),
        software::kernel_options(fabric),
        software::module(fabric),
    ];
    checks.extend(installation::checks(fabric));
    checks.push(providers::providers(fabric));
    checks.extend(fabric.providers.iter().map(providers::permissions));
    checks.extend(fabric.providers.iter().map(providers::pages));
    checks.extend(memory::unused(fabric));
    checks.extend(memory::decoding(fabric));
    checks.push(translation::iommu(fabric, &ways));
    checks.push(translation::acs(fabric, &ways));
    checks.extend(isolation::translated_requests(fabric, &ways));
    checks.extend(isolation::groups(fabric, &ways));
    checks.extend(drives::drives(fabric, &ways));
    checks.extend(drives::pairs(fabric, &ways));
    let stacks: Vec<_> = named
        .iter()
        .map(|(path, target)| (path.as_str(), fabric.stack(target)))
        .collect();
    for (path, stack) in &stacks {
        checks.push(paths::block_stack(fabric, &ways, path, stack));
    }
    checks.extend(paths::together(&ways, &stacks));
    checks
}
