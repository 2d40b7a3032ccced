// SPDX-License-Identifier: GPL-2.0

//! Tests of the range of a BAR that is registered.

use crate::regions::{
    policy::default_bar,
    range::{disjoint, part, Bar, BarKind, Limits, MemoryKind, Region, RegionError, Reserved},
};

const MIB: u64 = 1 << 20;
const ALIGNMENT: u64 = 2 * MIB;
const MEMORY: BarKind = BarKind::Memory {
    prefetchable: true,
    wide: true,
};

fn bar(start: u64, size: u64) -> Bar {
    Bar {
        number: 2,
        start,
        size,
        kind: MEMORY,
        assigned: true,
    }
}

/// All addresses can be mapped, in units of 2 MiB.
const LIMITS: Limits = Limits {
    alignment: ALIGNMENT,
    mappable: 0..=u64::MAX,
};

/// Returns the range of a whole BAR that can be registered.
fn whole(bar: &Bar) -> Result<Region, RegionError> {
    part(bar, 0, bar.size, &[], &LIMITS)
}

fn region(offset: u64, size: u64) -> Result<Region, RegionError> {
    Ok(Region {
        bar: 2,
        offset,
        size,
        kind: MemoryKind::Bar,
    })
}

#[test]
fn a_range_without_a_size_ends_with_its_bar() {
    let bar = bar(0xe800_0000, 128 * MIB);
    assert_eq!(bar.length(0, None), 128 * MIB);
    assert_eq!(bar.length(96 * MIB, None), 32 * MIB);
    assert_eq!(bar.length(256 * MIB, None), 0);
    assert_eq!(bar.length(96 * MIB, Some(64 * MIB)), 64 * MIB);
}

#[test]
fn an_aligned_bar_is_registered_whole() {
    assert_eq!(whole(&bar(0xe800_0000, 128 * MIB)), region(0, 128 * MIB));
    assert_eq!(whole(&bar(2 * MIB, 2 * MIB)), region(0, 2 * MIB));
}

#[test]
fn a_bar_that_is_not_aligned_is_trimmed_at_both_ends() {
    assert_eq!(whole(&bar(3 * MIB, 8 * MIB)), region(MIB, 6 * MIB));
    assert_eq!(whole(&bar(4 * MIB, 3 * MIB)), region(0, 2 * MIB));
    assert_eq!(
        whole(&bar(4 * MIB + 4096, 4 * MIB)),
        region(2 * MIB - 4096, 2 * MIB)
    );
}

#[test]
fn a_bar_without_an_aligned_unit_is_refused() {
    for (start, size) in [
        (2 * MIB, 1),
        (2 * MIB, 16 << 10),
        (2 * MIB, 2 * MIB - 1),
        // Long enough, but no unit is aligned.
        (3 * MIB, 2 * MIB),
        (3 * MIB, 3 * MIB - 1),
    ] {
        assert_eq!(
            whole(&bar(start, size)),
            Err(RegionError::TooSmall {
                bar: 2,
                size,
                alignment: ALIGNMENT
            }),
            "{start:#x} {size:#x}"
        );
    }
}

#[test]
fn the_end_of_the_address_space_is_no_trap() {
    let last = u64::MAX - (2 * MIB) + 1;

    // Ends at 2^64 exactly, or beyond.
    assert_eq!(
        whole(&bar(last, 2 * MIB)),
        Err(RegionError::Beyond { bar: 2 })
    );
    assert_eq!(
        whole(&bar(u64::MAX, u64::MAX)),
        Err(RegionError::Beyond { bar: 2 })
    );
    // Its start cannot be rounded up.
    assert!(matches!(
        whole(&bar(u64::MAX - 1, 1)),
        Err(RegionError::TooSmall { .. })
    ));
    // The last whole unit below the end.
    assert_eq!(whole(&bar(last - 2 * MIB, 4 * MIB - 1)), region(0, 2 * MIB));
}

#[test]
fn a_part_must_lie_within_its_bar() {
    let bar = bar(64 * MIB, 16 * MIB);

    assert_eq!(
        part(&bar, 4 * MIB, 8 * MIB, &[], &LIMITS),
        region(4 * MIB, 8 * MIB)
    );
    assert_eq!(
        part(&bar, 4 * MIB, 12 * MIB, &[], &LIMITS),
        region(4 * MIB, 12 * MIB)
    );
    // Trimmed to whole units.
    assert_eq!(
        part(&bar, 3 * MIB, 4 * MIB, &[], &LIMITS),
        region(4 * MIB, 2 * MIB)
    );
    for (offset, size) in [
        (0, 16 * MIB + 1),
        (16 * MIB, 1),
        (4 * MIB, 12 * MIB + 1),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        assert_eq!(
            part(&bar, offset, size, &[], &LIMITS),
            Err(RegionError::Beyond { bar: 2 }),
            "{offset:#x} {size:#x}"
        );
    }
    // Nothing, and less than a unit.
    for size in [0, 1, 2 * MIB - 1] {
        assert!(matches!(
            part(&bar, 4 * MIB, size, &[], &LIMITS),
            Err(RegionError::TooSmall { .. })
        ));
    }
}

#[test]
fn what_is_not_memory_with_an_address_is_refused() {
    let io = Bar {
        kind: BarKind::Io,
        ..bar(0x1000, 32)
    };
    let absent = Bar {
        kind: BarKind::Absent,
        assigned: false,
        ..bar(0, 0)
    };
    // The kernel forgets the size of one that it has no room for.
    let unassigned = Bar {
        assigned: false,
        ..bar(0, 0)
    };

    assert_eq!(whole(&absent), Err(RegionError::Absent { bar: 2 }));
    assert_eq!(whole(&io), Err(RegionError::Io { bar: 2 }));
    assert_eq!(whole(&unassigned), Err(RegionError::Unassigned { bar: 2 }));
}

#[test]
fn every_refusal_names_the_bar_and_what_to_do() {
    for refusal in [
        RegionError::Absent { bar: 4 },
        RegionError::Io { bar: 4 },
        RegionError::Unassigned { bar: 4 },
        RegionError::TooSmall {
            bar: 4,
            size: 16384,
            alignment: ALIGNMENT,
        },
        RegionError::Beyond { bar: 4 },
        RegionError::Unmappable {
            bar: 4,
            end: 1 << 47,
            limit: 1 << 46,
        },
        RegionError::Registers {
            bar: 4,
            name: "MSI-X table",
            alignment: ALIGNMENT,
        },
        RegionError::Overlap {
            bar: 4,
            one: MemoryKind::Bar,
            other: MemoryKind::Bar,
        },
        RegionError::Overlap {
            bar: 4,
            one: MemoryKind::Cmb,
            other: MemoryKind::Pmr,
        },
    ] {
        let text = refusal.to_string();
        assert!(
            text.contains("BAR 4") && text.contains(':') && !text.contains('\n'),
            "{text}"
        );
    }
}

#[test]
fn the_largest_prefetchable_64_bit_bar_is_chosen() {
    let of = |number, size, kind| Bar {
        number,
        size,
        kind,
        ..bar(4 * MIB, 0)
    };
    let small = BarKind::Memory {
        prefetchable: false,
        wide: false,
    };
    let bars = [
        of(0, 512 * MIB, small),
        of(1, 4096, BarKind::Io),
        of(2, 64 * MIB, MEMORY),
        of(3, 0, BarKind::Absent),
        of(4, 128 * MIB, MEMORY),
        Bar {
            assigned: false,
            ..of(5, 0, MEMORY)
        },
    ];

    assert_eq!(default_bar(&bars).map(|bar| bar.number), Ok(4));
    // Without one, the largest memory BAR.
    assert_eq!(default_bar(&bars[..2]).map(|bar| bar.number), Ok(0));
    // One without an address is more likely meant than one that is not prefetchable.
    assert_eq!(default_bar(&bars[5..]).map(|bar| bar.number), Ok(5));
    let both = [bars[0], bars[5]];
    assert_eq!(default_bar(&both).map(|bar| bar.number), Ok(5));
    // I/O ports and BARs that are not there do not count.
    assert_eq!(default_bar(&bars[3..4]), Err(RegionError::NoMemory));
    assert_eq!(default_bar(&bars[1..2]), Err(RegionError::NoMemory));
    assert_eq!(default_bar(&[]), Err(RegionError::NoMemory));
}

#[test]
fn what_the_kernel_cannot_map_is_refused() {
    let limits = Limits {
        alignment: ALIGNMENT,
        mappable: 4 * MIB..=64 * MIB - 1,
    };
    let unmappable = |end| {
        Err(RegionError::Unmappable {
            bar: 2,
            end,
            limit: 64 * MIB - 1,
        })
    };
    let range = |start, size| part(&bar(start, size), 0, size, &[], &limits);

    assert_eq!(range(60 * MIB, 4 * MIB), region(0, 4 * MIB));
    assert_eq!(range(4 * MIB, 60 * MIB), region(0, 60 * MIB));
    assert_eq!(range(60 * MIB, 6 * MIB), unmappable(66 * MIB - 1));
    assert_eq!(range(64 * MIB, 2 * MIB), unmappable(66 * MIB - 1));
    assert_eq!(range(2 * MIB, 4 * MIB), unmappable(6 * MIB - 1));
    // Trimmed bytes do not count.
    assert_eq!(range(60 * MIB, 5 * MIB), region(0, 4 * MIB));
}

#[test]
fn regions_of_one_bar_must_not_overlap() {
    let of = |bar, offset, size| Region {
        bar,
        offset: offset * MIB,
        size: size * MIB,
        kind: MemoryKind::Bar,
    };
    let overlap = Err(RegionError::Overlap {
        bar: 2,
        one: MemoryKind::Bar,
        other: MemoryKind::Bar,
    });

    assert_eq!(disjoint(&[]), Ok(()));
    assert_eq!(disjoint(&[of(2, 0, 4)]), Ok(()));
    // One after the other, in any order; and in different BARs.
    assert_eq!(disjoint(&[of(2, 0, 4), of(2, 4, 4), of(2, 8, 2)]), Ok(()));
    assert_eq!(disjoint(&[of(2, 8, 2), of(2, 0, 4), of(2, 4, 4)]), Ok(()));
    assert_eq!(disjoint(&[of(2, 0, 4), of(4, 0, 4)]), Ok(()));
    // The same, within, at either end, not next to each other in the list.
    assert_eq!(disjoint(&[of(2, 0, 4), of(2, 0, 4)]), overlap);
    assert_eq!(disjoint(&[of(2, 0, 8), of(2, 2, 2)]), overlap);
    assert_eq!(disjoint(&[of(2, 2, 2), of(2, 0, 8)]), overlap);
    assert_eq!(disjoint(&[of(2, 0, 4), of(2, 2, 4)]), overlap);
    assert_eq!(disjoint(&[of(2, 2, 4), of(4, 0, 4), of(2, 0, 4)]), overlap);
}

#[test]
fn what_a_controller_says_it_has_must_not_overlap_either() {
    let of = |kind, offset, size| Region {
        bar: 4,
        offset: offset * MIB,
        size: size * MIB,
        kind,
    };
    let (cmb, pmr) = (of(MemoryKind::Cmb, 16, 16), of(MemoryKind::Pmr, 0, 64));
    let refusal = disjoint(&[cmb, pmr]).unwrap_err();
    let overlap = RegionError::Overlap {
        bar: 4,
        one: MemoryKind::Cmb,
        other: MemoryKind::Pmr,
    };

    assert_eq!(refusal, overlap);
    assert_eq!(
        refusal.to_string(),
        "cmb and pmr overlap in BAR 4: choose one of them"
    );
    // One that was chosen by hand lies in one that was found.
    let chosen = of(MemoryKind::Bar, 0, 2);
    assert!(disjoint(&[pmr, chosen]).is_err());
    assert_eq!(disjoint(&[cmb, chosen]), Ok(()));
}

#[test]
fn the_msix_table_is_where_the_capability_tells() {
    // As QEMU's NVMe controller has it: 65 vectors in BAR 0.
    let [table, pba] = Reserved::msix(0x8040, 0x2000, 0x3000);
    assert_eq!((table.bar, table.offset, table.size), (0, 0x2000, 65 * 16));
    assert_eq!((pba.bar, pba.offset, pba.size), (0, 0x3000, 16));
    // As many as there can be, in two BARs, at the end of what 32 bits address.
    let [table, pba] = Reserved::msix(0x07ff, 0xffff_fff8 | 4, 5);
    assert_eq!((table.bar, table.offset), (4, 0xffff_fff8));
    assert_eq!(
        (table.size, pba.bar, pba.offset, pba.size),
        (32 << 10, 5, 0, 256)
    );
    // A device that is gone reads as all ones: of no BAR that there is.
    let [table, pba] = Reserved::msix(u16::MAX, u32::MAX, u32::MAX);
    assert_eq!((table.bar, pba.bar), (7, 7));
}

#[test]
fn registers_are_left_out() {
    let bar = bar(64 * MIB, 64 * MIB);
    let of = |offset, size| {
        Some(Reserved {
            bar: 2,
            offset,
            size,
            name: "MSI-X table",
        })
    };
    let cut = |reserved: &[_]| part(&bar, 0, bar.size, reserved, &LIMITS);
    let end = 64 * MIB - 4096;

    // At either end, and at both.
    assert_eq!(cut(&[of(0, 4096)]), region(2 * MIB, 62 * MIB));
    assert_eq!(cut(&[of(end, 4096)]), region(0, 62 * MIB));
    assert_eq!(
        cut(&[None, of(end, 4096), of(0, 16)]),
        region(2 * MIB, 60 * MIB)
    );
    // In between: the larger run is left, in any order, also if they overlap.
    assert_eq!(cut(&[of(20 * MIB, 4096)]), region(22 * MIB, 42 * MIB));
    assert_eq!(cut(&[of(50 * MIB, 4096)]), region(0, 50 * MIB));
    for reserved in [
        [of(10 * MIB, 1), of(40 * MIB, 1)],
        [of(40 * MIB, 1), of(10 * MIB, 1)],
        [of(40 * MIB, 1), of(10 * MIB - 4, 8)],
    ] {
        assert_eq!(cut(&reserved), region(12 * MIB, 28 * MIB));
    }
    assert_eq!(
        cut(&[of(0, 10 * MIB), of(8 * MIB, 10 * MIB)]),
        region(18 * MIB, 46 * MIB)
    );
    // Registers beside the range, or in another BAR, do not count.
    let chosen = |reserved: &[_]| part(&bar, 4 * MIB, 8 * MIB, reserved, &LIMITS);
    for reserved in [
        of(0, 4 * MIB),
        of(12 * MIB, 4096),
        of(6 * MIB, 4096).map(|one| Reserved { bar: 0, ..one }),
        None,
    ] {
        assert_eq!(chosen(&[reserved]), region(4 * MIB, 8 * MIB));
    }
    assert_eq!(chosen(&[of(12 * MIB - 1, 1)]), region(4 * MIB, 6 * MIB));
    // Lies partly beyond the BAR, or has no end.
    assert_eq!(cut(&[of(end, 8192)]), region(0, 62 * MIB));
    assert_eq!(cut(&[of(end, u64::MAX)]), region(0, 62 * MIB));
}

#[test]
fn the_registers_of_a_controller_are_left_out() {
    let bar = Bar {
        number: 0,
        ..bar(64 * MIB, 64 * MIB)
    };
    let from = |offset| {
        part(
            &bar,
            offset,
            bar.size - offset,
            &[Some(Reserved::NVME)],
            &LIMITS,
        )
    };

    // The rest may be a buffer.
    assert_eq!(from(0).map(|part| part.offset), Ok(2 * MIB));
    assert_eq!(from(4 * MIB).map(|part| part.offset), Ok(4 * MIB));
}

#[test]
fn a_range_of_nothing_but_registers_is_refused() {
    let of = |size| Bar {
        number: 0,
        size,
        ..bar(64 * MIB, 0)
    };
    let table = Some(Reserved {
        bar: 0,
        offset: MIB,
        size: 4096,
        name: "MSI-X table",
    });
    let refused = |size| part(&of(size), 0, size, &[table], &LIMITS);

    assert_eq!(
        refused(2 * MIB),
        Err(RegionError::Registers {
            bar: 0,
            name: "MSI-X table",
            alignment: ALIGNMENT
        })
    );
    // One that is too small anyway is refused for that.
    assert!(matches!(
        refused(16 << 10),
        Err(RegionError::TooSmall { .. })
    ));
}

#[test]
fn what_memory_is_has_a_name() {
    let names = [MemoryKind::Bar, MemoryKind::Cmb, MemoryKind::Pmr].map(|kind| kind.to_string());
    assert_eq!(names, ["bar", "cmb", "pmr"]);
}
