// SPDX-License-Identifier: GPL-2.0

//! Sizes as people write them.

/// A text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSizeError {
    /// It has another form.
    #[error("`{0}` is not a size: write a number, like 4096, 64K, 1M or 2G")]
    Form(String),
    /// It is too large.
    #[error("`{0}` exceeds 64 bits")]
    TooLarge(String),
}

/// Reads a size in bytes: a number, decimal or hexadecimal with `0x`, and K, M or G (powers of
/// 1024) behind it or nothing. The driver reads the same sizes.
///
/// # Examples
///
/// ```
/// use p2pmem::size;
///
/// assert_eq!(size::parse("64K")?, 64 << 10);
/// assert_eq!(size::parse("0x1000")?, 4096);
/// assert!(size::parse("1.5M").is_err());
/// # Ok::<(), size::ParseSizeError>(())
/// ```
pub fn parse(text: &str) -> Result<u64, ParseSizeError> {
    let wrong = || ParseSizeError::Form(text.to_owned());
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let (digits, radix) = match number.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    if digits.is_empty() || !is_number {
        return Err(wrong());
    }
    let too_large = || ParseSizeError::TooLarge(text.to_owned());
    let number = u64::from_str_radix(digits, radix).map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        // The driver reads the same table.
        const TABLE: &str = include_str!("../../../tests/host/sizes.txt");
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let (text, expected) = line.split_once(' ').unwrap();
            assert_eq!(parse(text).ok(), expected.parse().ok(), "{text}");
        }
        for text in ["", " 1", "1 M"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(matches!(
            parse("17179869184G"),
            Err(ParseSizeError::TooLarge(_))
        ));
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
