// SPDX-License-Identifier: GPL-2.0

//! Tests of dividing a run of device memory at the borders of large pages.

use crate::pieces::Pieces;

const PAGE: usize = 4096;
const SPAN: usize = 2 << 20;
const BASE: u64 = 0x38_0000_0000;

fn ranges(pieces: &Pieces) -> Vec<std::ops::Range<usize>> {
    (0..pieces.count())
        .map(|index| pieces.range(index))
        .collect()
}

#[test]
fn aligned_runs_are_whole_spans_and_a_rest() {
    let pieces = Pieces::new(BASE, 2 * SPAN + 3 * PAGE, SPAN);
    assert_eq!(
        ranges(&pieces),
        [0..SPAN, SPAN..2 * SPAN, 2 * SPAN..2 * SPAN + 3 * PAGE]
    );
    assert!(pieces.is_whole(0) && pieces.is_whole(1) && !pieces.is_whole(2));
    assert_eq!(pieces.bytes_in_whole(), 2 * SPAN);
}

#[test]
fn other_runs_are_short_at_both_ends() {
    let pieces = Pieces::new(BASE + PAGE as u64, 2 * SPAN, SPAN);
    assert_eq!(
        ranges(&pieces),
        [
            0..SPAN - PAGE,
            SPAN - PAGE..2 * SPAN - PAGE,
            2 * SPAN - PAGE..2 * SPAN
        ]
    );
    assert_eq!(pieces.bytes_in_whole(), SPAN);
}

#[test]
fn short_runs_have_no_whole_span() {
    for (skew, size, count) in [
        (0, PAGE, 1),
        (0, SPAN - PAGE, 1),
        (PAGE, SPAN - PAGE, 1),
        (PAGE, SPAN, 2),
        (SPAN - PAGE, 2 * PAGE, 2),
    ] {
        let pieces = Pieces::new(BASE + skew as u64, size, SPAN);
        assert_eq!(pieces.count(), count, "{skew} {size}");
        assert_eq!(pieces.bytes_in_whole(), 0, "{skew} {size}");
    }
}

#[test]
fn pieces_follow_each_other_and_cover_all() {
    for skew in (0..SPAN).step_by(SPAN / 8) {
        for size in [PAGE, SPAN / 2, SPAN, SPAN + PAGE, 5 * SPAN - PAGE] {
            let pieces = Pieces::new(BASE + skew as u64, size, SPAN);
            let mut end = 0;
            for (index, range) in ranges(&pieces).into_iter().enumerate() {
                assert_eq!(range.start, end);
                assert!(!range.is_empty());
                assert_eq!(pieces.at(range.start), index);
                assert_eq!(pieces.at(range.end - 1), index);
                // Only what is an aligned span can be a large page.
                let aligned = (BASE + (skew + range.start) as u64) % SPAN as u64 == 0;
                assert_eq!(pieces.is_whole(index), aligned && range.len() == SPAN);
                end = range.end;
            }
            assert_eq!(end, size);
            assert_eq!(pieces.size(), size);
            assert_eq!(pieces.covering(&(0..size)), 0..pieces.count());
        }
    }
}

#[test]
fn a_part_is_covered_by_its_pieces_only() {
    let pieces = Pieces::new(BASE + PAGE as u64, 3 * SPAN, SPAN);
    for (range, expected) in [
        (0..1, 0..1),
        (0..SPAN - PAGE, 0..1),
        (0..SPAN - PAGE + 1, 0..2),
        (SPAN..2 * SPAN, 1..3),
        (3 * SPAN - 1..3 * SPAN, 3..4),
    ] {
        assert_eq!(pieces.covering(&range), expected, "{range:?}");
    }
}
