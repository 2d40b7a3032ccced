// SPDX-License-Identifier: GPL-2.0

//! Measurements without a drive.

use std::{fs::File, hint::black_box, path::Path, time::Duration};

use anyhow::{Context, Result};
use io_uring::IoUring;

use super::{
    request::{mainline, submit, BenchRequest, Round},
    subject::{Kind, What},
};
use p2pmem::{abi::P2PMEM_ALLOC_WRITE_COMBINING, mmio_copy, uring, Buffer};

/// Returns the operation. A lack of memory is an error here, not later.
pub fn round<'a>(
    request: &BenchRequest<'a>,
    what: What,
    kind: Kind,
    length: usize,
) -> Result<Round<'a>> {
    let clock = request.clock;
    match what {
        What::Map | What::Unmap => map(request, what, kind, length),
        What::FirstTouch => first_touch(request, length),
        What::Register => register(request, kind, length),
        What::Load => {
            let buffer = buffer(request, kind, length)?;
            let mut data = vec![0; length];
            Ok(Box::new(move |count| {
                clock.measure(count, || {
                    mmio_copy::load(&buffer, 0, &mut data);
                    black_box(&data);
                    Ok(())
                })
            }))
        }
        _ => {
            let mut buffer = buffer(request, kind, length)?;
            let data = vec![0; length];
            Ok(Box::new(move |count| {
                clock.measure(count, || {
                    mmio_copy::store(&mut buffer, 0, black_box(&data));
                    Ok(())
                })
            }))
        }
    }
}

/// Memory that the CPU is to use.
fn buffer(request: &BenchRequest<'_>, kind: Kind, length: usize) -> Result<Buffer> {
    Ok(match kind {
        Kind::WriteCombining => request
            .provider
            .alloc(length as u64, P2PMEM_ALLOC_WRITE_COMBINING)?
            .map(0, length)?,
        Kind::Mapped => Buffer::map(request.provider, length)?,
        _ => Buffer::ordinary(length)?,
    })
}

fn map<'a>(request: &BenchRequest<'a>, what: What, kind: Kind, length: usize) -> Result<Round<'a>> {
    let (provider, clock) = (request.provider, request.clock);
    let (file, offset) = match kind {
        Kind::Mainline => (Some(mainline(request.device)?), 0),
        Kind::Frames => {
            let region = provider.region(0)?;
            (Some(frames(request.device, region.bar)?), region.offset)
        }
        _ => (None, 0),
    };
    let touched = move || -> Result<Buffer> {
        let mut buffer = match (&file, kind) {
            (Some(file), Kind::Frames) => Buffer::map_at(file, offset, length)
                .context("cannot map the BAR: was the kernel booted with iomem=relaxed?")?,
            (Some(file), _) => Buffer::map(file, length)?,
            (None, Kind::Mapped) => Buffer::map(provider, length)?,
            _ => Buffer::untouched(length)?,
        };
        buffer.touch();
        Ok(buffer)
    };

    drop(touched()?);
    Ok(Box::new(move |count| {
        if what == What::Map {
            return clock.measure(count, || touched().map(drop));
        }
        let mut sum = Duration::ZERO;
        for _ in 0..count {
            let mut buffer = Some(touched()?);
            sum += clock.measure(1, || {
                buffer = None;
                Ok(())
            })?;
        }
        Ok(sum)
    }))
}

/// The longest time that the first touch of a span takes. All of the spans are touched, in order.
fn first_touch<'a>(request: &BenchRequest<'a>, length: usize) -> Result<Round<'a>> {
    /// Bytes that one page table spans on most machines.
    const SPAN: usize = 2 << 20;
    let (provider, clock) = (request.provider, request.clock);

    drop(Buffer::map(provider, length)?);
    Ok(Box::new(move |_| {
        let mut buffer = Buffer::map(provider, length)?;
        let mut longest = Duration::ZERO;
        for offset in (0..length).step_by(SPAN) {
            let took = clock.measure(1, || {
                buffer.touch_at(offset);
                Ok(())
            })?;
            longest = longest.max(took);
        }
        Ok(longest)
    }))
}

/// Opens a BAR.
fn frames(device: &Path, bar: u32) -> Result<File> {
    let path = device.join(format!("resource{bar}"));
    File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn register<'a>(request: &BenchRequest<'a>, kind: Kind, length: usize) -> Result<Round<'a>> {
    let (provider, clock) = (request.provider, request.clock);
    let mut ring = IoUring::new(1)?;

    if kind == Kind::Registered {
        let memory = provider.alloc(length as u64, 0)?;
        ring.submitter().register_buffers_sparse(1)?;
        return Ok(Box::new(move |count| {
            clock.measure(count, || {
                submit(&mut ring, &[uring::register(provider, &memory, 0, 0, 0)])?;
                submit(&mut ring, &[uring::unregister(provider, 0)])?;
                Ok(())
            })
        }));
    }
    let buffer = Buffer::ordinary(length)?;
    let once = move || -> Result<()> {
        uring::register_ordinary(&ring, &buffer)?;
        Ok(ring.submitter().unregister_buffers()?)
    };

    once()?;
    Ok(Box::new(move |count| clock.measure(count, &once)))
}
