// SPDX-License-Identifier: GPL-2.0

//! Tests of lines that an administrator writes to `regions`.

use crate::regions::spec::{parse, ParseError, RegionSpec, MAX};

/// Parses a line, and writes it back.
fn written(line: &str) -> String {
    match parse(line) {
        Ok((address, Some(specs))) => format!("{address} {specs}"),
        Ok((address, None)) => format!("{address} default"),
        Err(mistake) => format!("error: {mistake}"),
    }
}

#[test]
fn a_line_names_a_device_and_what_to_take_of_it() {
    for (line, expected) in [
        ("0000:05:00.0 bar2", "0000:05:00.0 bar2@0x0"),
        ("05:00.0 bar2\n", "0000:05:00.0 bar2@0x0"),
        ("10000:e1:1f.7 cmb", "10000:e1:1f.7 cmb"),
        (
            "05:00.0 bar2@16M+64M",
            "0000:05:00.0 bar2@0x1000000+0x4000000",
        ),
        ("05:00.0 bar2+4096", "0000:05:00.0 bar2@0x0+0x1000"),
        (
            "05:00.0 bar0@0 bar0@1G+1g bar5",
            "0000:05:00.0 bar0@0x0 bar0@0x40000000+0x40000000 bar5@0x0",
        ),
        (" 3:0.0\tpmr  cmb \n", "0000:03:00.0 pmr cmb"),
        ("05:00.0 default", "0000:05:00.0 default"),
    ] {
        assert_eq!(written(line), expected, "{line:?}");
        // A line that is written back can be set again.
        assert_eq!(written(expected), expected);
    }
}

#[test]
fn sizes_have_units() {
    let size = |text: &str| match parse(&format!("05:00.0 bar2+{text}")) {
        Ok((_, Some(specs))) => match specs.list() {
            [RegionSpec::Bar { size, .. }] => *size,
            other => panic!("{other:?}"),
        },
        _ => None,
    };

    for (text, expected) in vector(include_str!("../sizes.txt")) {
        // A region has a size.
        let expected = expected.parse().ok().filter(|bytes| *bytes != 0);
        assert_eq!(size(text), expected, "{text:?}");
    }
    assert_eq!(size(""), None);
}

/// Returns the lines of a table that the tools share: a text, and the expectation.
fn vector(table: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("two words"))
}

#[test]
fn an_address_has_its_parts() {
    for (address, expected) in vector(include_str!("../addresses.txt")) {
        let line = format!("{address} bar2");
        match expected {
            "-" => assert_eq!(parse(&line), Err(ParseError::Address(address))),
            _ => assert_eq!(written(&line), format!("{expected} bar2@0x0")),
        }
    }
    assert_eq!(parse(" bar2"), Err(ParseError::Address("bar2")));
    assert_eq!(parse(""), Err(ParseError::Address("")));
    assert_eq!(parse(" \n"), Err(ParseError::Address("")));
}

#[test]
fn what_is_not_known_is_named() {
    let mistake = |rest: &'static str| parse(Box::leak(format!("05:00.0 {rest}").into_boxed_str()));

    assert_eq!(mistake(""), Err(ParseError::Nothing));
    for word in ["all", "CMB", "BAR2", "cmb,pmr", "rom", "\u{1f980}"] {
        assert_eq!(mistake(word), Err(ParseError::Word(word)));
    }
    for word in [
        "bar", "bar6", "bar-1", "bar22", "barx", "bar2@", "bar2+", "bar2@1+", "bar2+1@1", "bar+1",
    ] {
        assert_eq!(mistake(word), Err(ParseError::Number(word)));
    }
    assert_eq!(mistake("default cmb"), Err(ParseError::Word("cmb")));
    assert_eq!(mistake("cmb default"), Err(ParseError::Word("default")));
    assert_eq!(
        mistake("bar2@0 bar2@1x"),
        Err(ParseError::Number("bar2@1x"))
    );
}

#[test]
fn a_device_has_so_many_regions_at_most() {
    let line = |count: usize| format!("05:00.0{}", " bar0".repeat(count));

    let longest = line(MAX);
    let (_, specs) = parse(&longest).unwrap();
    assert_eq!(specs.unwrap().list().len(), MAX);
    assert_eq!(parse(&line(MAX + 1)), Err(ParseError::TooMany));
}

#[test]
fn every_mistake_names_what_to_write() {
    for mistake in [
        ParseError::Address("x"),
        ParseError::Nothing,
        ParseError::Word("x"),
        ParseError::Number("x"),
        ParseError::TooMany,
    ] {
        let text = mistake.to_string();
        assert!(!text.contains('\n'), "{text}");
        assert!(
            ["write", "like", "no more than"]
                .iter()
                .any(|word| text.contains(word)),
            "{text}"
        );
    }
}
