// SPDX-License-Identifier: GPL-2.0

//! Messages of vfio-user, version 0.0: a header of 16 bytes, a body, and file descriptors.

use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use anyhow::{ensure, Context, Result};
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    },
};

pub const VERSION: u16 = 1;
pub const DMA_MAP: u16 = 2;
pub const DMA_UNMAP: u16 = 3;
pub const GET_INFO: u16 = 4;
pub const GET_REGION_INFO: u16 = 5;
pub const GET_IRQ_INFO: u16 = 7;
pub const SET_IRQS: u16 = 8;
pub const REGION_READ: u16 = 9;
pub const REGION_WRITE: u16 = 10;
pub const DMA_WRITE: u16 = 12;
pub const RESET: u16 = 13;

const HEADER: usize = 16;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;
/// More than any message of QEMU has.
const LONGEST: usize = 2 << 20;
const MOST_FDS: usize = 8;

/// A message of the other side.
pub struct Message {
    pub id: u16,
    pub command: u16,
    flags: u32,
    /// Of a reply: the error.
    pub error: Option<Errno>,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Message {
    pub fn is_reply(&self) -> bool {
        self.flags & 0xf == REPLY
    }

    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N]> {
        let bytes = self.body.get(offset..offset + N);
        Ok(bytes.context("a message is too short")?.try_into()?)
    }

    /// Returns a field of the body.
    pub fn u32(&self, offset: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(offset)?))
    }

    /// Returns a field of the body.
    pub fn u64(&self, offset: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(offset)?))
    }
}

/// A body that is being put together.
#[derive(Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// A connection with QEMU.
pub struct Connection(UnixStream);

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Returns whether there is a message, or the end.
    pub fn is_readable(&self) -> Result<bool> {
        let mut files = [PollFd::new(&self.0, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut files, Some(&now))? > 0)
    }

    /// Waits for the next message; there is none when the other side has closed.
    pub fn receive(&self) -> Result<Option<Message>> {
        let mut header = [0; HEADER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut header)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
        );
        match received {
            Ok(received) if received.bytes == HEADER => (),
            Ok(received) if received.bytes == 0 => return Ok(None),
            Err(Errno::CONNRESET) => return Ok(None),
            other => anyhow::bail!("half a header: {other:?}"),
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let size = word(4) as usize;
        ensure!(
            (HEADER..=LONGEST).contains(&size),
            "a message of {size} bytes"
        );
        let mut body = vec![0; size - HEADER];
        (&self.0).read_exact(&mut body)?;
        Ok(Some(Message {
            id: word(0) as u16,
            command: (word(0) >> 16) as u16,
            flags: word(8),
            error: (word(8) & ERROR != 0).then(|| Errno::from_raw_os_error(word(12) as i32)),
            body,
            fds,
        }))
    }

    fn send(
        &self,
        id: u16,
        command: u16,
        [flags, error]: [u32; 2],
        body: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(id.to_le_bytes());
        bytes.extend(command.to_le_bytes());
        for word in [(HEADER + body.len()) as u32, flags, error] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &fd {
            ancillary.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
        (&self.0).write_all(&bytes[sent..])?;
        Ok(())
    }

    /// Answers a message, unless its sender wants no answer.
    pub fn reply(
        &self,
        message: &Message,
        result: Result<Body, Errno>,
        fd: Option<impl AsFd>,
    ) -> Result<()> {
        if message.flags & NO_REPLY != 0 {
            return Ok(());
        }
        let (flags, error, body) = match result {
            Ok(Body(body)) => (REPLY, 0, body),
            Err(error) => (REPLY | ERROR, error.raw_os_error() as u32, Vec::new()),
        };
        let fd = fd.as_ref().map(AsFd::as_fd);
        self.send(message.id, message.command, [flags, error], &body, fd)
    }

    /// Asks for something.
    pub fn request(&self, id: u16, command: u16, Body(body): Body) -> Result<()> {
        self.send(id, command, [0, 0], &body, None)
    }
}
