// SPDX-License-Identifier: GPL-2.0

//! Sizes as people write them.

/// Reads a size in bytes: a number, or one with K, M or G (powers of 1024) behind it.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let wrong = || format!("`{text}` is not a size: write a number, like 4096, 64K, 1M or 2G");

    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;

    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` exceeds 64 bits"))
}

/// Writes a number of bytes in the largest unit that gives a whole number.
pub fn format(bytes: u64) -> String {
    [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes % (1 << shift) == 0)
        .map_or_else(
            || format!("{bytes} B"),
            |(shift, unit)| format!("{} {unit}", bytes >> shift),
        )
}

/// Writes a rate, in the one unit that all commands use.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{:.1} MiB/s", bytes_per_second / f64::from(1 << 20))
}

/// Writes a time with at least three digits that count.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        ..1e-6 => (seconds * 1e9, "ns"),
        ..1e-3 => (seconds * 1e6, "us"),
        ..1.0 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    match value {
        ..10.0 => format!("{value:.2} {unit}"),
        ..100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64K"), Ok(64 << 10));
        assert_eq!(parse("3m"), Ok(3 << 20));
        assert_eq!(parse("2G"), Ok(2 << 30));
        assert_eq!(parse("0"), Ok(0));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "", "K", "-1", "+1", "1.5M", "1T", "1KK", " 1", "0x10", "1 M", "M1", "٣",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("18446744073709551616").is_err());
        assert!(parse("17179869184G").unwrap_err().contains("64 bits"));
    }

    #[test]
    fn rates_and_times_have_one_form() {
        assert_eq!(rate(0.0), "0.0 MiB/s");
        assert_eq!(rate(1.5 * f64::from(1 << 20)), "1.5 MiB/s");
        assert_eq!(rate(5e9), "4768.4 MiB/s");
        for (seconds, text) in [
            (0.0, "0.00 ns"),
            (2.5e-7, "250 ns"),
            (12.34e-6, "12.3 us"),
            (4e-3, "4.00 ms"),
            (1.25, "1.25 s"),
            (600.0, "600 s"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn sizes_are_written_in_whole_units() {
        assert_eq!(format(0), "0 B");
        assert_eq!(format(4095), "4095 B");
        assert_eq!(format(4096), "4 KiB");
        assert_eq!(format(128 << 20), "128 MiB");
        assert_eq!(format((1 << 30) + (1 << 20)), "1025 MiB");
    }
}
