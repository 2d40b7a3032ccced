// SPDX-License-Identifier: GPL-2.0

//! The option --io.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use p2pmem::Io;

/// Reads names of interfaces.
pub fn io() -> impl TypedValueParser<Value = Io> {
    let value = |io: Io| {
        PossibleValue::new(io.name()).help(match io {
            Io::Uring => "io_uring, into mapped memory",
            Io::UringFixed => {
                "io_uring, with the memory in the ring's buffer table: neither mapped nor pinned. \
                 With device memory this takes CAP_SYS_RAWIO (see p2pmem config --slots)"
            }
            Io::Pread => "A call for each read and write, into mapped memory",
        })
    };
    PossibleValuesParser::new(Io::ALL.map(value)).try_map(|name| {
        let io = Io::ALL.into_iter().find(|io| io.name() == name);
        io.ok_or("unknown")
    })
}
