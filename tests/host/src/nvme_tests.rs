// SPDX-License-Identifier: GPL-2.0

//! Tests of the registers of an NVMe controller that describe its memory.

use crate::nvme::{
    cmb::{span, Span},
    regs::{Cap, Cmbloc, Cmbsts, Cmbsz, Health, Pmrcap, Pmrsts},
};

/// CMBSZ of so many units, RDS and WDS set.
fn cmbsz(units: u32, unit: u32) -> Cmbsz {
    Cmbsz((units << 12) | (unit << 8) | 0x18)
}

/// CMBLOC of so many units.
fn cmbloc(units: u32, bir: u32) -> Cmbloc {
    Cmbloc((units << 12) | bir)
}

#[test]
fn capabilities_are_single_bits() {
    assert!(Cap(1 << 57).cmbs() && !Cap(1 << 57).pmrs());
    assert!(Cap(1 << 56).pmrs() && !Cap(1 << 56).cmbs());
    assert!(!Cap(!(3 << 56)).cmbs() && !Cap(!(3 << 56)).pmrs());
}

#[test]
fn units_go_from_4_kib_to_64_gib() {
    let units = [12, 16, 20, 24, 28, 32, 36];
    for (value, shift) in (0..).zip(units) {
        assert_eq!(cmbsz(1, value).szu(), Some(1 << shift));
    }
    for reserved in 7..16 {
        assert_eq!(cmbsz(1, reserved).szu(), None);
        assert_eq!(span(cmbloc(0, 2), cmbsz(1, reserved), u64::MAX), None);
    }
}

#[test]
fn data_must_go_both_ways() {
    assert!(Cmbsz(0x18).takes_data() && Cmbsz(u32::MAX).takes_data());
    for bits in [0, 0x8, 0x10, 0x7, !0x18, !0x8, !0x10] {
        assert!(!Cmbsz(bits).takes_data(), "{bits:#x}");
        assert!(!Pmrcap(bits).takes_data(), "{bits:#x}");
    }
    assert!(Pmrcap(0x18).takes_data());
}

#[test]
fn a_buffer_is_where_the_registers_say() {
    let mib = 1 << 20;
    // 64 units of 1 MiB, in BAR 2.
    assert_eq!(cmbloc(0, 2).bir(), 2);
    assert_eq!(
        span(cmbloc(0, 2), cmbsz(64, 2), 64 * mib),
        Some(Span {
            offset: 0,
            size: 64 * mib
        })
    );
    // From the third unit on.
    assert_eq!(
        span(cmbloc(3, 4), cmbsz(16, 2), 64 * mib),
        Some(Span {
            offset: 3 * mib,
            size: 16 * mib
        })
    );
}

#[test]
fn a_buffer_ends_with_its_bar() {
    let mib = 1 << 20;
    assert_eq!(
        span(cmbloc(1, 2), cmbsz(64, 2), 8 * mib),
        Some(Span {
            offset: mib,
            size: 7 * mib
        })
    );
    // Starts at its end, or beyond.
    assert_eq!(span(cmbloc(8, 2), cmbsz(64, 2), 8 * mib), None);
    assert_eq!(span(cmbloc(9, 2), cmbsz(64, 2), 8 * mib), None);
    // No BAR, no buffer.
    assert_eq!(span(cmbloc(0, 2), cmbsz(64, 2), 0), None);
    assert_eq!(span(cmbloc(0, 2), cmbsz(0, 2), 8 * mib), None);
}

#[test]
fn nothing_overflows() {
    // A million units of 64 GiB are 2^56 bytes: more than any BAR, but no overflow.
    let all = (1 << 20) - 1;
    assert_eq!(
        span(cmbloc(all, 7), cmbsz(all, 6), u64::MAX),
        Some(Span {
            offset: u64::from(all) << 36,
            size: u64::from(all) << 36
        })
    );
    assert_eq!(span(cmbloc(all, 7), cmbsz(all, 6), 1 << 40), None);
    // All ones: as a device that is gone reads.
    assert_eq!(span(Cmbloc(u32::MAX), Cmbsz(u32::MAX), 1 << 30), None);
    assert_eq!(Cmbloc(u32::MAX).bir(), 7);
}

#[test]
fn persistent_memory_says_where_it_is_and_how_long_it_takes() {
    // BIR 4, time-out of 7 units of 500 ms, and of minutes.
    let cap = Pmrcap((4 << 5) | (7 << 16));
    assert_eq!((cap.bir(), cap.timeout_ms(), cap.cmss()), (4, 3500, false));
    let cap = Pmrcap((1 << 8) | (7 << 16) | (1 << 24));
    assert_eq!((cap.timeout_ms(), cap.cmss()), (420_000, true));
    assert_eq!(Pmrcap(0).timeout_ms(), 0);
    // The longest there is, also with a unit that is reserved.
    assert_eq!(Pmrcap(u32::MAX).timeout_ms(), 255 * 60_000);
    assert_eq!(Pmrcap(u32::MAX).bir(), 7);
}

#[test]
fn persistent_memory_says_how_it_is() {
    assert!(Pmrsts(1 << 8).nrdy() && Pmrsts(1 << 8).err() == 0);
    assert!(!Pmrsts(!(1 << 8)).nrdy() && Pmrsts(u32::MAX).err() == 0xff);
    assert!(!Pmrsts(0).nrdy());
}

#[test]
fn a_device_that_is_gone_is_not_one_that_is_not_ready() {
    assert!(Pmrsts(u32::MAX).is_all_ones());
    // Not ready, with every error and status that is defined.
    assert!(!Pmrsts(0x1fff).is_all_ones());
    assert!(Pmrsts(1 << 8).nrdy() && !Pmrsts(1 << 8).is_all_ones());
}

#[test]
fn persistent_memory_may_be_in_bad_health() {
    for (state, health) in [
        (0, Health::Normal),
        (1, Health::Normal),
        (2, Health::ReadOnly),
        (3, Health::Unreliable),
        (7, Health::Reserved(7)),
    ] {
        // With all other bits set.
        assert_eq!(Pmrsts(state << 9).health(), health);
        assert_eq!(Pmrsts(!(7 << 9) | (state << 9)).health(), health);
    }
}

#[test]
fn an_address_may_be_refused() {
    assert!(Pmrsts(1 << 12).cbai() && !Pmrsts(!(1 << 12)).cbai());
    assert!(Cmbsts(1).cbai() && !Cmbsts(!1).cbai());
    assert!(Cmbsts(u32::MAX).is_all_ones() && !Cmbsts(1).is_all_ones());
    assert!(Cap(u64::MAX).is_all_ones() && !Cap(u64::MAX >> 1).is_all_ones());
}
