// SPDX-License-Identifier: GPL-2.0

//! Verdicts that a drawing shows.

use p2pmem::fabric::{Fabric, ProviderRecord, Translation, Verdict};
use serde::Serialize;

/// Options of the drawing.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of the only provider that matters; all if there is none.
    pub provider: Option<u32>,
    /// Whether functions are shown that matter to no provider.
    pub all: bool,
    /// How many characters a line may have.
    pub width: u16,
}

/// Output of `p2pmem topo --json`.
#[derive(Clone, Debug, Serialize)]
pub struct TopoReport<'a> {
    /// Mode of the IOMMU.
    pub translation: Translation,
    /// Each provider with each of its clients.
    pub verdicts: Vec<Verdict>,
    /// Facts behind the verdict.
    pub fabric: &'a Fabric,
}

impl<'a> TopoReport<'a> {
    /// Judges what `options` ask for.
    pub fn new(fabric: &'a Fabric, options: &Options) -> Self {
        Self {
            translation: fabric.translation(),
            verdicts: fabric
                .providers
                .iter()
                .filter(|one| {
                    options
                        .provider
                        .is_none_or(|number| one.id.number == number)
                })
                .flat_map(|provider| verdicts(fabric, provider, options.all))
                .collect(),
            fabric,
        }
    }
}

fn verdicts(fabric: &Fabric, provider: &ProviderRecord, all: bool) -> Vec<Verdict> {
    let mut verdicts = fabric.verdicts(provider);
    verdicts.retain(|verdict| {
        all || fabric
            .function(verdict.client)
            .is_some_and(|function| fabric.is_client(function))
    });
    verdicts
}
