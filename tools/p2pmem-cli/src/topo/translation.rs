// SPDX-License-Identifier: GPL-2.0

//! The meaning of an IOMMU for routes.

use p2pmem::fabric::Translation;

/// Says what an IOMMU means for the ways that there are.
pub fn translation(translation: Translation, switch: bool, host_bridge: bool) -> String {
    let mut text = match translation {
        Translation::Off => "not in use; devices use physical addresses.",
        Translation::PassThrough => "passes through; devices use physical addresses.",
        Translation::On => "translates addresses.",
    }
    .to_owned();
    if translation == Translation::On {
        if switch {
            text += " Within a switch bus addresses are used, which it should not see: some machines \
                     lose that data and report success. `p2pmem verify DRIVE` shows whether it arrives.";
        }
        if host_bridge {
            text +=
                " Through the host bridge it translates addresses of device memory as all others.";
        }
    }
    text
}
