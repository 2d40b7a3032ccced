// SPDX-License-Identifier: GPL-2.0

//! Transfers that requests move in parts.

use std::path::Path;

use rustix::io::Errno;

use super::{direction::Direction, error::DirectError};

/// The result of a request, and the number that it was given.
pub type Completion = (u64, Result<usize, Errno>);

/// A range of a file that is moved to or from memory, by as many requests as it takes: each of
/// them may move a part only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    direction: Direction,
    offset: u64,
    length: usize,
    done: usize,
}

impl Transfer {
    /// Describes the range of a file.
    pub fn new(direction: Direction, offset: u64, length: usize) -> Self {
        Self {
            direction,
            offset,
            length,
            done: 0,
        }
    }

    /// Returns the direction.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Returns the offset in the file of the bytes that are left.
    pub fn offset(&self) -> u64 {
        self.offset + self.done as u64
    }

    /// Returns the bytes that were moved.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Returns the bytes that are left.
    pub fn left(&self) -> usize {
        self.length - self.done
    }

    /// Takes the result of a request for the bytes that are left, or for the first of them. A
    /// request that a signal interrupted is to be made again. `path` is that of the file, and
    /// `memory` names the provider that the memory is of.
    ///
    /// # Errors
    ///
    /// The request failed, or moved nothing.
    pub fn advance(
        &mut self,
        path: &Path,
        result: Result<usize, Errno>,
        memory: Option<&str>,
    ) -> Result<(), DirectError> {
        match result {
            Ok(0) => Err(DirectError::End {
                direction: self.direction,
                path: path.to_owned(),
                offset: self.offset(),
            }),
            Ok(count) => {
                self.done += count;
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(source) => Err(DirectError::Transfer {
                direction: self.direction,
                path: path.to_owned(),
                offset: self.offset(),
                memory: memory.map(str::to_owned),
                source,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/dev/nvme0n1";

    #[test]
    fn parts_add_up() {
        let mut transfer = Transfer::new(Direction::Read, 4096, 8192);
        let mut take = |result| transfer.advance(Path::new(PATH), result, None);
        take(Ok(512)).unwrap();
        take(Err(Errno::INTR)).unwrap();
        take(Ok(1536)).unwrap();
        assert_eq!((transfer.done(), transfer.left()), (2048, 6144));
        assert_eq!(transfer.offset(), 6144);
    }

    #[test]
    fn ends_and_errors_are_at_the_rest() {
        let mut transfer = Transfer::new(Direction::Write, 0, 8192);
        transfer.advance(Path::new(PATH), Ok(4096), None).unwrap();
        let end = transfer.advance(Path::new(PATH), Ok(0), None).unwrap_err();
        assert_eq!(end.to_string(), "/dev/nvme0n1 is full at 4096");
        let result = Err(Errno::NODEV);
        let lost = transfer.advance(Path::new(PATH), result, Some("/dev/p2pmem0"));
        assert_eq!(
            lost.unwrap_err().to_string(),
            "cannot write /dev/nvme0n1 at 4096 from /dev/p2pmem0: the device that has the memory \
             went away"
        );
    }
}
