// SPDX-License-Identifier: GPL-2.0

//! Interfaces for I/O.

use io_uring::IoUring;
use serde::Serialize;

/// Interface for I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// io_uring, into mapped memory.
    Uring,
    /// io_uring, with the memory in the ring's buffer table: neither mapped nor pinned. With device
    /// memory this takes CAP_SYS_RAWIO, unless the provider's setting `slots` allows it.
    UringFixed,
    /// A call for each read and write, into mapped memory.
    Pread,
}

impl Io {
    /// All interfaces.
    pub const ALL: [Self; 3] = [Self::Uring, Self::UringFixed, Self::Pread];

    /// Returns the best interface that the kernel allows with mapped memory, which takes no right.
    pub fn best() -> Self {
        match IoUring::new(1) {
            Ok(_) => Self::Uring,
            Err(_) => Self::Pread,
        }
    }

    /// Returns the name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::UringFixed => "uring-fixed",
            Self::Pread => "pread",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for io in Io::ALL {
            let json = serde_json::to_string(&io).unwrap();
            assert_eq!(json, format!("\"{}\"", io.name()));
        }
    }
}
