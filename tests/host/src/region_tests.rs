// SPDX-License-Identifier: GPL-2.0

//! Which bytes of which BAR are registered.

use crate::region::{choose, disjoint, part, Bar, Content, Kind, Limits, Refusal, Region};

const MIB: u64 = 1 << 20;
const ALIGNMENT: u64 = 2 * MIB;
const MEMORY: Kind = Kind::Memory {
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

/// What can be registered of a whole BAR.
fn whole(bar: &Bar) -> Result<Region, Refusal> {
    part(bar, 0, bar.size, &LIMITS)
}

fn region(offset: u64, size: u64) -> Result<Region, Refusal> {
    Ok(Region {
        bar: 2,
        offset,
        size,
        content: Content::Bar,
    })
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
            Err(Refusal::TooSmall {
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
    assert_eq!(whole(&bar(last, 2 * MIB)), Err(Refusal::Beyond { bar: 2 }));
    assert_eq!(
        whole(&bar(u64::MAX, u64::MAX)),
        Err(Refusal::Beyond { bar: 2 })
    );
    // Its start cannot be rounded up.
    assert!(matches!(
        whole(&bar(u64::MAX - 1, 1)),
        Err(Refusal::TooSmall { .. })
    ));
    // The last whole unit below the end.
    assert_eq!(whole(&bar(last - 2 * MIB, 4 * MIB - 1)), region(0, 2 * MIB));
}

#[test]
fn a_part_must_lie_within_its_bar() {
    let bar = bar(64 * MIB, 16 * MIB);

    assert_eq!(
        part(&bar, 4 * MIB, 8 * MIB, &LIMITS),
        region(4 * MIB, 8 * MIB)
    );
    assert_eq!(
        part(&bar, 4 * MIB, 12 * MIB, &LIMITS),
        region(4 * MIB, 12 * MIB)
    );
    // Trimmed to whole units.
    assert_eq!(
        part(&bar, 3 * MIB, 4 * MIB, &LIMITS),
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
            part(&bar, offset, size, &LIMITS),
            Err(Refusal::Beyond { bar: 2 }),
            "{offset:#x} {size:#x}"
        );
    }
    // Nothing, and less than a unit.
    for size in [0, 1, 2 * MIB - 1] {
        assert!(matches!(
            part(&bar, 4 * MIB, size, &LIMITS),
            Err(Refusal::TooSmall { .. })
        ));
    }
}

#[test]
fn what_is_not_memory_with_an_address_is_refused() {
    let io = Bar {
        kind: Kind::Io,
        ..bar(0x1000, 32)
    };
    let absent = Bar {
        kind: Kind::Absent,
        assigned: false,
        ..bar(0, 0)
    };
    // The kernel forgets the size of one that it has no room for.
    let unassigned = Bar {
        assigned: false,
        ..bar(0, 0)
    };

    assert_eq!(whole(&absent), Err(Refusal::Absent { bar: 2 }));
    assert_eq!(whole(&io), Err(Refusal::Io { bar: 2 }));
    assert_eq!(whole(&unassigned), Err(Refusal::Unassigned { bar: 2 }));
}

#[test]
fn every_refusal_names_the_bar_and_what_to_do() {
    for refusal in [
        Refusal::Absent { bar: 4 },
        Refusal::Io { bar: 4 },
        Refusal::Unassigned { bar: 4 },
        Refusal::TooSmall {
            bar: 4,
            size: 16384,
            alignment: ALIGNMENT,
        },
        Refusal::Beyond { bar: 4 },
        Refusal::Unmappable {
            bar: 4,
            end: 1 << 47,
            limit: 1 << 46,
        },
        Refusal::Overlap { bar: 4 },
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
    let small = Kind::Memory {
        prefetchable: false,
        wide: false,
    };
    let bars = [
        of(0, 512 * MIB, small),
        of(1, 4096, Kind::Io),
        of(2, 64 * MIB, MEMORY),
        of(3, 0, Kind::Absent),
        of(4, 128 * MIB, MEMORY),
        Bar {
            assigned: false,
            ..of(5, 0, MEMORY)
        },
    ];

    assert_eq!(choose(&bars).map(|bar| bar.number), Ok(4));
    // Without one, the largest memory BAR.
    assert_eq!(choose(&bars[..2]).map(|bar| bar.number), Ok(0));
    // One without an address is more likely meant than one that is not prefetchable.
    assert_eq!(choose(&bars[5..]).map(|bar| bar.number), Ok(5));
    let both = [bars[0], bars[5]];
    assert_eq!(choose(&both).map(|bar| bar.number), Ok(5));
    // I/O ports and BARs that are not there do not count.
    assert_eq!(choose(&bars[3..4]), Err(Refusal::NoMemory));
    assert_eq!(choose(&bars[1..2]), Err(Refusal::NoMemory));
    assert_eq!(choose(&[]), Err(Refusal::NoMemory));
}

#[test]
fn what_the_kernel_cannot_map_is_refused() {
    let limits = Limits {
        alignment: ALIGNMENT,
        mappable: 4 * MIB..=64 * MIB - 1,
    };
    let unmappable = |end| {
        Err(Refusal::Unmappable {
            bar: 2,
            end,
            limit: 64 * MIB - 1,
        })
    };
    let range = |start, size| part(&bar(start, size), 0, size, &limits);

    assert_eq!(range(60 * MIB, 4 * MIB), region(0, 4 * MIB));
    assert_eq!(range(4 * MIB, 60 * MIB), region(0, 60 * MIB));
    assert_eq!(range(60 * MIB, 6 * MIB), unmappable(66 * MIB - 1));
    assert_eq!(range(64 * MIB, 2 * MIB), unmappable(66 * MIB - 1));
    assert_eq!(range(2 * MIB, 4 * MIB), unmappable(6 * MIB - 1));
    // What is trimmed does not count.
    assert_eq!(range(60 * MIB, 5 * MIB), region(0, 4 * MIB));
}

#[test]
fn regions_of_one_bar_must_not_overlap() {
    let of = |bar, offset, size| Region {
        bar,
        offset: offset * MIB,
        size: size * MIB,
        content: Content::Bar,
    };
    let overlap = Err(Refusal::Overlap { bar: 2 });

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
fn what_memory_is_has_a_name() {
    let names = [Content::Bar, Content::Cmb, Content::Pmr].map(|content| content.to_string());
    assert_eq!(names, ["bar", "cmb", "pmr"]);
}
