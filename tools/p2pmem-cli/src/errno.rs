// SPDX-License-Identifier: GPL-2.0

//! Error numbers of the kernel behind errors.

use std::io;

use anyhow::Error;
use rustix::io::Errno;

/// Returns the first error number in the chain of an error.
pub fn errno(error: &Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        let of_io = || Errno::from_io_error(cause.downcast_ref::<io::Error>()?);
        cause.downcast_ref().copied().or_else(of_io)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use p2pmem::direct::DirectFile;

    use super::*;

    #[test]
    fn numbers_are_found_behind_other_errors() {
        let missing = || DirectFile::source(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(errno(&Error::new(missing())), Some(Errno::NOENT));
        let error = Error::new(missing()).context("cannot copy");
        assert_eq!(errno(&error), Some(Errno::NOENT));
        assert_eq!(errno(&Error::new(Errno::PERM)), Some(Errno::PERM));
        assert_eq!(errno(&Error::msg("no number")), None);
    }
}
