// SPDX-License-Identifier: GPL-2.0

//! Rates and times as people read them.

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
}
