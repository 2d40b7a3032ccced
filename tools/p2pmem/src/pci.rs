// SPDX-License-Identifier: GPL-2.0

//! Addresses of PCI functions.

/// Reads the address of a device, and writes it as the kernel does.
pub fn address(text: &str) -> Option<String> {
    let hexadecimal = |text: &str, digits| -> Option<u32> {
        let valid = text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(text, 16).ok())?
    };
    let (rest, function) = text.split_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
    let (device, function) = (hexadecimal(device, 2)?, hexadecimal(function, 1)?);

    (device < 32 && function < 8).then_some(format!(
        "{:04x}:{:02x}:{device:02x}.{function:x}",
        hexadecimal(domain, 8)?,
        hexadecimal(bus, 2)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        for text in ["0000:05:00.0", "05:00.0", "5:0.0", "0:5:0.0"] {
            assert_eq!(address(text).as_deref(), Some("0000:05:00.0"), "{text}");
        }
        assert_eq!(address("10000:aB:1f.7").unwrap(), "10000:ab:1f.7");
        for text in [
            "",
            "05",
            "05:00",
            "05:20.0",
            "05:00.8",
            "+5:00.0",
            "1:2:3:4.0",
            "105:00.0",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
