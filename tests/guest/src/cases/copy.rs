// SPDX-License-Identifier: GPL-2.0

//! `p2pmem copy` and `p2pmem verify`, where the drives reach the memory.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use p2pmem::{abi, Provider as Node};
use rustix::process::{kill_process, Pid, Signal};

use crate::{
    cases,
    guest::{
        bind, check_drive, drive, on_debug_kernel, put_on_drive, read_at, unbind, wait_until, Map,
        Provider, PAGE, WINDOW,
    },
    kmod::TestFile,
    programs::{self, check_json, fails, format_and_mount, run},
};

cases!(
    "copy": each_way_of_io, short_last_chunk, offsets, count, duration, through_host_memory,
    names_of_providers, filled_source, skipped_directions, files_that_end, cpu_accesses,
    what_json_has, refuses_nonsense, refuses_mounted_drive, no_room_says_what_to_choose,
    interrupted, terminated, device_goes_away, verify_reads_only, verify_both_directions,
    verify_interrupted_puts_back, verify_killed_puts_back, verify_device_goes_away_puts_back,
    dma_buf_in_large_pages, slots_refused, requests_are_not_repeated, holes_are_kept,
    longer_destination, read_only_destination, room_for_several_threads, output_without_reader,
    results_of_failures, schema_is_strict,
);

const SOURCE: &str = "/dev/nvme0n1";
const TARGET: &str = "/dev/nvme1n1";
const MIB: usize = 1 << 20;

/// Runs the tool, with a line of words.
pub fn p2pmem(line: &str) -> Result<Output> {
    programs::p2pmem(&words_of(line))
}

/// Runs the tool, and returns what it prints.
fn succeed(arguments: &str) -> Result<String> {
    let output = p2pmem(arguments)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments}: {text}");
    // Without a terminal no progress is shown.
    ensure!(text.is_empty(), "{arguments}: {text}");
    Provider::first()?.expect_full()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the tool, which is to fail with one line that has all of these words.
pub fn fail(arguments: &str, words: &[&str]) -> Result<()> {
    fails(&words_of(arguments), words)?;
    Provider::first()?.expect_full()
}

fn words_of(arguments: &str) -> Vec<&str> {
    arguments.split_whitespace().collect()
}

/// Has chunks be copied again and again.
fn long_copy(io: &str) -> Command {
    let mut command = Command::new("p2pmem");
    command.args(words_of(&format!(
        "copy {SOURCE} {TARGET} -s 64k --duration 600 --io {io}"
    )));
    command
}

/// Puts different data on both drives.
fn prepare(length: usize) -> Result<()> {
    put_on_drive(&drive(0)?, length, 1)?;
    put_on_drive(&drive(1)?, length, 2)
}

/// Reads a part of a drive.
fn part(number: u32, offset: usize, length: usize) -> Result<Vec<u64>> {
    let map = Map::ordinary(length)?;
    read_at(&drive(number)?, &map, 0..length, offset as u64)?;
    Ok((0..length).step_by(8).map(|at| map.get(at)).collect())
}

/// Returns a number from flat JSON.
fn number(json: &str, name: &str) -> Result<f64> {
    let (_, rest) = json
        .split_once(&format!("\"{name}\":"))
        .with_context(|| format!("no {name} in {json}"))?;
    let end = rest.find([',', '}']).context("it ends early")?;
    rest[..end]
        .parse()
        .with_context(|| format!("{name} in {json}"))
}

fn each_way_of_io() -> Result<()> {
    let mut seed = 10;
    for (io, depth) in [("uring", 3), ("uring-fixed", 3), ("pread", 1)] {
        for threads in [1, 3] {
            put_on_drive(&drive(0)?, 2 * MIB, seed)?;
            succeed(&format!(
                "copy {SOURCE} {TARGET} --size 2M -s 64k --io {io} --threads {threads} --depth {depth}"
            ))?;
            check_drive(&drive(1)?, 2 * MIB, seed)
                .with_context(|| format!("{io} with {threads} threads"))?;
            seed += 1;
        }
    }
    Ok(())
}

fn short_last_chunk() -> Result<()> {
    prepare(MIB)?;
    // One block more than three chunks.
    let length = 3 * (64 << 10) + 512;
    for io in ["uring", "uring-fixed", "pread"] {
        put_on_drive(&drive(1)?, MIB, 2)?;
        let behind = part(1, length, PAGE)?;
        succeed(&format!(
            "copy {SOURCE} {TARGET} --size {length} -s 64k --io {io} --check"
        ))?;
        check_drive(&drive(1)?, length, 1).context(io)?;
        ensure!(part(1, length, PAGE)? == behind, "{io}: more was written");
    }
    Ok(())
}

fn offsets() -> Result<()> {
    prepare(MIB)?;
    let before = part(1, 0, 64 << 10)?;
    succeed(&format!(
        "copy {SOURCE} {TARGET} --size 128k -s 32k --source-offset 4096 --destination-offset 64k \
         --buffer-offset 8k --check"
    ))?;
    ensure!(part(1, 64 << 10, 128 << 10)? == part(0, 4096, 128 << 10)?);
    ensure!(part(1, 0, 64 << 10)? == before, "more was written");
    // Both at once, up to the end of the drives.
    let text = succeed(&format!("copy {SOURCE} {TARGET} -o 63M --json --check"))?;
    ensure!(number(&text, "bytes")? == MIB as f64, "{text}");
    ensure!(part(1, 63 * MIB, MIB)? == part(0, 63 * MIB, MIB)?);
    // Within a drive.
    succeed(&format!(
        "copy {SOURCE} {SOURCE} --size 1M --destination-offset 2M --check"
    ))?;
    ensure!(part(0, 2 * MIB, MIB)? == part(0, 0, MIB)?);
    Ok(())
}

fn count() -> Result<()> {
    prepare(MIB)?;
    let text = succeed(&format!("copy {SOURCE} {TARGET} -c 5 -s 8k --json"))?;
    ensure!(number(&text, "bytes")? == 40960.0, "{text}");
    check_drive(&drive(1)?, 40960, 1)?;
    ensure!(part(1, 40960, PAGE)? != part(0, 40960, PAGE)?);
    Ok(())
}

fn duration() -> Result<()> {
    prepare(MIB)?;
    for io in ["uring-fixed", "pread"] {
        let started = Instant::now();
        let text = succeed(&format!(
            "copy {SOURCE} {TARGET} --size 1M -s 64k --duration 1 --io {io} --check --json"
        ))?;
        ensure!(started.elapsed() >= Duration::from_secs(1));
        ensure!(number(&text, "seconds")? >= 1.0, "{text}");
        ensure!(
            on_debug_kernel() || number(&text, "bytes")? > MIB as f64,
            "it did not begin again: {text}"
        );
    }
    check_drive(&drive(1)?, 64 << 10, 1)
}

fn through_host_memory() -> Result<()> {
    for (seed, io) in (30..).zip(["uring", "uring-fixed", "pread"]) {
        put_on_drive(&drive(0)?, MIB, seed)?;
        let text = succeed(&format!(
            "copy {SOURCE} {TARGET} --size 1M -s 64k --via none --io {io} --json"
        ))?;
        ensure!(text.contains("\"via\":\"host\""), "{text}");
        check_drive(&drive(1)?, MIB, seed).context(io)?;
    }
    Ok(())
}

fn names_of_providers() -> Result<()> {
    let provider = Provider::first()?;
    for via in ["/dev/p2pmem0", "p2pmem0", "0", &provider.pci] {
        let text = succeed(&format!(
            "copy {SOURCE} {TARGET} --size 64k --via {via} --json"
        ))?;
        ensure!(text.contains("\"via\":\"/dev/p2pmem0\""), "{text}");
    }
    let expected = format!("/dev/p2pmem0 ({})", provider.pci);
    fail(
        &format!("copy {SOURCE} {TARGET} --size 64k --via p2pmem7"),
        &["p2pmem7", &expected],
    )
}

fn filled_source() -> Result<()> {
    prepare(MIB)?;
    let mut seen = Vec::new();
    for seed in [5, 5, 6] {
        let text = succeed(&format!(
            "copy {SOURCE} {TARGET} --size 64k --fill --seed {seed} --check --json"
        ))?;
        ensure!(number(&text, "seed")? == f64::from(seed), "{text}");
        seen.push(part(1, 0, 64 << 10)?);
    }
    ensure!(seen[0] == seen[1] && seen[1] != seen[2]);
    // Nothing is filled if nothing can be copied.
    let before = part(0, 0, PAGE)?;
    fail(
        &format!("copy {SOURCE} {TARGET} --fill --size 65M"),
        &["is shorter than 65 MiB"],
    )?;
    ensure!(part(0, 0, PAGE)? == before, "it was filled all the same");
    Ok(())
}

fn skipped_directions() -> Result<()> {
    prepare(MIB)?;
    succeed(&format!("copy {SOURCE} {TARGET} --size 1M --skip-write"))?;
    check_drive(&drive(1)?, MIB, 2)?;
    // Memory is cleared when it is allocated.
    succeed(&format!("copy {SOURCE} {TARGET} --size 1M --skip-read"))?;
    ensure!(part(1, 0, MIB)?.iter().all(|word| *word == 0));
    check_drive(&drive(0)?, MIB, 1)
}

fn files_that_end() -> Result<()> {
    prepare(MIB)?;
    let arguments = format!("copy {SOURCE} {TARGET} -o 63M -s 64k -c 40");
    fail(&arguments, &[SOURCE, "is shorter than 63 MiB + 2560 KiB"])?;
    let text = succeed(&format!("{arguments} --overlap --json"))?;
    ensure!(number(&text, "bytes")? == f64::from(40 << 16), "{text}");
    // The third time the first eight chunks only, but of the same data.
    ensure!(part(1, 63 * MIB, MIB)? == part(0, 63 * MIB, MIB)?);
    Ok(())
}

fn cpu_accesses() -> Result<()> {
    prepare(MIB)?;
    for accesses in [
        "--host-access 8:64",
        "--host-access 1",
        "--host-access -64:9",
    ] {
        for io in ["uring-fixed", "pread"] {
            let more = "--init 4:8192 --buffer-offset 4096 --check";
            succeed(&format!(
                "copy {SOURCE} {TARGET} --size 64k --io {io} {accesses} {more}"
            ))?;
        }
    }
    fail(
        &format!("copy {SOURCE} {TARGET} --size 64k -s 4k --io pread --init 8:8192"),
        &["the memory has 4096 bytes"],
    )
}

fn what_json_has() -> Result<()> {
    prepare(MIB)?;
    let text = succeed(&format!(
        "copy {SOURCE} {TARGET} --size 1M -s 64k -t 2 --depth 2 --io uring --check --json"
    ))?;
    for (name, value) in [
        ("bytes", MIB),
        ("chunk", 64 << 10),
        ("threads", 2),
        ("depth", 2),
        ("source_offset", 0),
        ("destination_offset", 0),
    ] {
        ensure!(number(&text, name)? == value as f64, "{name} in {text}");
    }
    let rate = number(&text, "bytes")? / number(&text, "seconds")?;
    ensure!(
        (number(&text, "bytes_per_second")? / rate - 1.0).abs() < 1e-6,
        "{text}"
    );
    for field in [
        "\"version\":1",
        "\"command\":\"copy\"",
        "\"error\":null",
        "\"io\":\"uring\"",
        "\"via\":\"/dev/p2pmem0\"",
        "\"source\":\"/dev/nvme0n1\"",
        "\"destination\":\"/dev/nvme1n1\"",
        "\"verified\":true",
        "\"interrupted\":false",
        "\"stopped_at\":null",
        "\"seed\":null",
    ] {
        ensure!(text.contains(field), "{field} in {text}");
    }
    Ok(())
}

fn refuses_nonsense() -> Result<()> {
    prepare(MIB)?;
    for (arguments, words) in [
        (format!("{SOURCE} {SOURCE} --size 1M"), &["over itself"][..]),
        (
            format!("{SOURCE} {SOURCE} --size 1M --destination-offset 512k --force"),
            &["over itself"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1000"),
            &["multiples of 512 B"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1M -s 1000"),
            &["multiples of 512 B"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1M --offset 100"),
            &["multiples of 512 B"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1M --destination-offset 64M"),
            &[TARGET, "is shorter"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1M -s 0"),
            &["--chunk is 0"],
        ),
        (
            format!("{SOURCE} {TARGET} --size 1M --io pread --depth 2"),
            &["--threads"],
        ),
        (
            format!("{SOURCE} /dev/nonexistent --size 1M"),
            &["/dev/nonexistent"],
        ),
    ] {
        fail(&format!("copy {arguments}"), words)?;
    }
    check_drive(&drive(0)?, MIB, 1)?;
    check_drive(&drive(1)?, MIB, 2)
}

fn refuses_mounted_drive() -> Result<()> {
    prepare(MIB)?;
    format_and_mount(TARGET, POINT)?;
    fail(
        &format!("copy {SOURCE} {TARGET} --size 1M"),
        &[TARGET, "in use", "--force"],
    )?;
    fail(
        &format!("verify {TARGET} --write"),
        &[TARGET, "in use", "--force"],
    )?;
    fail(
        &format!("copy {TARGET} {SOURCE} --size 1M --fill"),
        &[TARGET, "in use", "--force"],
    )?;
    // Reading what is mounted is fine, and so are files of it.
    succeed(&format!("copy {TARGET} {SOURCE} -o 8M --size 1M --check"))?;
    succeed(&format!("copy {SOURCE} {TARGET} --size 1M --skip-write"))?;
    let file = format!("{POINT}/file");
    succeed(&format!("copy {SOURCE} {file} --size 1M -s 64k --check"))?;
    ensure!(fs::metadata(&file)?.len() == MIB as u64);
    succeed(&format!(
        "copy {file} {SOURCE} -s 64k --destination-offset 16M --check"
    ))?;
    run("umount", &[POINT])?;
    succeed(&format!("copy {SOURCE} {TARGET} --size 1M --check"))?;
    Ok(())
}

fn no_room_says_what_to_choose() -> Result<()> {
    let provider = Provider::first()?;
    for io in ["uring-fixed", "pread"] {
        fail(
            &format!("copy {SOURCE} {TARGET} --size 1M -s 256M --depth 1 --io {io}"),
            &[
                "/dev/p2pmem0 has no free run of 256 MiB: 128 MiB were free in one run: ",
                "choose a smaller --chunk",
            ],
        )?;
    }
    // Less is taken where nothing was asked for.
    let _rest = Map::new(provider.open()?, provider.size - 2 * MIB)?;
    let output = p2pmem(&format!("copy {SOURCE} {TARGET} --size 4M --json"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && number(&text, "depth")? == 2.0,
        "{text}"
    );
    Ok(())
}

/// Has a long copy end by a signal.
fn stop_by(signal: Signal, io: &str) -> Result<()> {
    let provider = Provider::first()?;
    prepare(64 * MIB)?;
    let mut copy = long_copy(io).arg("--json").stdout(Stdio::piped()).spawn()?;
    wait_until(Duration::from_secs(10), "it copies", || {
        Ok(part(1, 0, PAGE)? == part(0, 0, PAGE)?)
    })?;
    ensure!(provider.available()? < provider.size);
    let pid = Pid::from_raw(copy.id() as i32).context("no process")?;
    kill_process(pid, signal)?;
    let mut status = None;
    wait_until(Duration::from_secs(10), "it ends", || {
        status = copy.try_wait()?;
        Ok(status.is_some())
    })?;
    let mut text = String::new();
    copy.stdout
        .take()
        .context("no output")?
        .read_to_string(&mut text)?;
    ensure!(
        status.and_then(|status| status.code()) == Some(130),
        "{status:?}"
    );
    ensure!(text.contains("\"interrupted\":true"), "{text}");
    let bytes = number(&text, "bytes")? as usize;
    ensure!(bytes > 0, "{text}");
    // The bytes of the summary have arrived, and no others.
    check_drive(&drive(1)?, bytes.min(64 * MIB), 1)?;
    if let Ok(stopped_at) = number(&text, "stopped_at") {
        ensure!(stopped_at as usize == bytes, "{text}");
        if bytes < 64 * MIB {
            ensure!(part(1, bytes, PAGE)? != part(0, bytes, PAGE)?, "{text}");
        }
    }
    provider.expect_full()
}

fn interrupted() -> Result<()> {
    for io in ["uring-fixed", "uring", "pread"] {
        stop_by(Signal::INT, io).context(io)?;
    }
    Ok(())
}

fn terminated() -> Result<()> {
    stop_by(Signal::TERM, "uring-fixed")
}

/// A slot of a ring would keep the device waiting.
fn device_goes_away() -> Result<()> {
    for (io, words) in [
        ("uring-fixed", "went away"),
        ("uring", "went away"),
        ("pread", "went away"),
    ] {
        let provider = Provider::first()?;
        prepare(MIB)?;
        let copy = long_copy(io).stderr(Stdio::piped()).spawn()?;
        wait_until(Duration::from_secs(10), "it copies", || {
            Ok(part(1, 0, PAGE)? == part(0, 0, PAGE)?)
        })?;
        unbind(&provider.pci)?;
        let output = copy.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{io}: {:?}", output.status);
        ensure!(
            text.contains(words) && text.lines().count() == 1,
            "{io}: {text}"
        );
        // It may have begun again.
        ensure!(text.contains(" arrived"), "{io}: {text}");
        crate::guest::restore()?;
    }
    Ok(())
}

fn verify_reads_only() -> Result<()> {
    prepare(MIB)?;
    let text = succeed(&format!("verify {SOURCE} --size 64k --json"))?;
    for field in [
        "\"memory\":true",
        "\"read\":true",
        "\"write\":null",
        "\"uniform\":false",
    ] {
        ensure!(text.contains(field), "{field} in {text}");
    }
    ensure!(text.contains("\"slot_refused\":false"), "{text}");
    for io in ["pread", "uring-fixed"] {
        let check =
            format!(r#"{{"direction":"read","io":"{io}","data":"found","result":"equal"}}"#);
        ensure!(text.contains(&check), "{check} in {text}");
    }
    check_drive(&drive(0)?, MIB, 1)?;
    let text = succeed(&format!("verify {SOURCE} --size 64k"))?;
    ensure!(
        text.contains("drive to memory works") && text.contains("memory to drive was not tried"),
        "{text}"
    );
    // Of what is all the same.
    let zeroes = Map::ordinary(PAGE)?;
    crate::guest::write_at(&drive(0)?, &zeroes, 0..PAGE, 0)?;
    let text = succeed(&format!("verify {SOURCE} --size 4k"))?;
    ensure!(text.contains("proves little"), "{text}");
    fail(
        &format!("verify {SOURCE} --size 100"),
        &["multiples of 512 B"],
    )?;
    fail(
        &format!("verify {SOURCE} --offset 64M"),
        &[SOURCE, "is shorter"],
    )
}

fn verify_both_directions() -> Result<()> {
    prepare(MIB)?;
    for via in ["0", "none"] {
        let text = succeed(&format!(
            "verify {TARGET} --size 64k --offset 64k --write --seed 3 --via {via} --json"
        ))?;
        for field in [
            "\"memory\":true",
            "\"read\":true",
            "\"write\":true",
            "\"seed\":3",
        ] {
            ensure!(text.contains(field), "{field} in {text}");
        }
        for data in ["zeroes", "ones", "address", "random"] {
            for io in ["pread", "uring-fixed"] {
                let check = format!(
                    r#"{{"direction":"write","io":"{io}","data":"{data}","result":"equal"}}"#
                );
                ensure!(text.contains(&check), "{check} in {text}");
            }
        }
        // All is as it was.
        check_drive(&drive(1)?, MIB, 2)?;
    }
    Ok(())
}

/// Starts a verification that writes to a drive with a pattern, and waits until it does.
fn verify_that_writes() -> Result<std::process::Child> {
    put_on_drive(&drive(1)?, 8 * MIB, 2)?;
    let before = part(1, 0, PAGE)?;
    let mut verify = Command::new("p2pmem")
        .args(["verify", TARGET, "--write", "--size", "8M", "--json"])
        .stdout(Stdio::piped())
        .spawn()?;
    wait_until(Duration::from_secs(30), "it writes", || {
        ensure!(verify.try_wait()?.is_none(), "it ended by itself");
        Ok(part(1, 0, PAGE)? != before)
    })?;
    Ok(verify)
}

/// Waits until the drive has again what it had before.
fn put_back() -> Result<()> {
    wait_until(Duration::from_secs(30), "the data is put back", || {
        Ok(check_drive(&drive(1)?, 8 * MIB, 2).is_ok())
    })
}

fn verify_killed_puts_back() -> Result<()> {
    let mut verify = verify_that_writes()?;
    verify.kill()?;
    verify.wait()?;
    put_back()?;
    Provider::first()?.expect_full()
}

fn verify_device_goes_away_puts_back() -> Result<()> {
    let provider = Provider::first()?;
    let mut verify = verify_that_writes()?;
    unbind(&provider.pci)?;
    let status = verify.wait()?;
    ensure!(!status.success(), "{status}");
    put_back()?;
    Ok(bind(&provider.pci)?)
}

fn verify_interrupted_puts_back() -> Result<()> {
    let verify = verify_that_writes()?;
    kill_process(
        Pid::from_raw(verify.id() as i32).context("no process")?,
        Signal::INT,
    )?;
    let output = verify.wait_with_output()?;
    ensure!(output.status.code() == Some(130), "{:?}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("\"interrupted\":true"), "{text}");
    check_drive(&drive(1)?, 8 * MIB, 2)?;
    Provider::first()?.expect_full()
}

/// The kernel does not choose an address where large pages fit, so the library does.
fn dma_buf_in_large_pages() -> Result<()> {
    let provider = Provider::first()?;
    let node = Node::open(&provider.path)?;
    let large = node.info()?.capabilities & abi::P2PMEM_CAP_LARGE_PAGES != 0;
    let handle = node.alloc(3 * WINDOW as u64, 0)?;
    // From a large page on, and from the middle of one.
    for (offset, length, first) in [
        (0, 3 * WINDOW, 0),
        (WINDOW, WINDOW, 0),
        (WINDOW / 2, 2 * WINDOW, WINDOW / 2),
    ] {
        let mut buffer = handle.map(offset as u64, length)?;
        buffer.store(first, &[1; 8]);
        let entry = TestFile::open()?.pte(buffer.as_ptr().wrapping_add(first))?;
        ensure!(
            entry.leaf_order == if large { 9 } else { 0 },
            "{offset:#x}+{length:#x}: {entry:?}"
        );
    }
    drop(handle);
    provider.expect_full()
}

/// Sets which processes may fill slots, until it is dropped.
struct SlotsSet;

impl SlotsSet {
    const PATH: &str = "/sys/class/misc/p2pmem0/slots";

    fn to(name: &str) -> Result<Self> {
        fs::write(Self::PATH, name)?;
        Ok(Self)
    }
}

impl Drop for SlotsSet {
    fn drop(&mut self) {
        fs::write(Self::PATH, "privileged").expect("the default can be set");
    }
}

fn slots_refused() -> Result<()> {
    prepare(MIB)?;
    let _set = SlotsSet::to("nobody")?;
    fail(
        &format!("copy {SOURCE} {TARGET} --size 1M --io uring-fixed"),
        &["CAP_SYS_RAWIO", "p2pmem config /dev/p2pmem0 --slots"],
    )?;
    check_drive(&drive(1)?, MIB, 2)?;
    // Without the option, and through ordinary memory, no right is needed.
    let text = succeed(&format!("copy {SOURCE} {TARGET} --size 1M --check --json"))?;
    ensure!(text.contains("\"io\":\"uring\""), "{text}");
    check_drive(&drive(1)?, MIB, 1)?;
    succeed(&format!(
        "copy {SOURCE} {TARGET} --size 1M --io uring-fixed --via none --check"
    ))?;

    let text = succeed(&format!("verify {TARGET} --size 64k --write --json"))?;
    ensure!(text.contains("\"slot_refused\":true"), "{text}");
    ensure!(
        text.contains("\"write\":true") && !text.contains("uring-fixed"),
        "{text}"
    );
    let text = succeed(&format!("verify {TARGET} --size 64k"))?;
    ensure!(text.contains("registered memory was not tried"), "{text}");

    let _set = SlotsSet::to("everybody")?;
    succeed(&format!(
        "copy {SOURCE} {TARGET} --size 1M --io uring-fixed --check"
    ))?;
    Ok(())
}

/// The kernel starts a worker for each request that it cannot finish without waiting.
fn requests_are_not_repeated() -> Result<()> {
    prepare(MIB)?;
    for io in ["uring", "uring-fixed"] {
        let mut copy = Command::new("p2pmem")
            .args(words_of(&format!(
                "copy {SOURCE} {TARGET} -o 4096 --size 8M -s 4M --depth 2 --duration 2 --io {io}"
            )))
            .stdout(Stdio::null())
            .spawn()?;
        let tasks = format!("/proc/{}/task", copy.id());
        let mut workers = 0;
        while copy.try_wait()?.is_none() {
            for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
                let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                workers += u32::from(name.starts_with("iou-wrk"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        ensure!(copy.wait()?.success(), "{io}");
        ensure!(workers == 0, "{io}: workers were seen {workers} times");
    }
    Ok(())
}

const POINT: &str = "/tmp/copied";

/// Writes a file of 8 MiB with data at 1 MiB, at 4 MiB + 4 KiB, and nowhere else.
fn write_sparse(path: &str) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(8 << 20)?;
    for (place, length) in [(1 << 20, 64 << 10), ((4 << 20) + 4096, 4096)] {
        file.write_all_at(&vec![place as u8 | 1; length], place)?;
    }
    Ok(file.sync_all()?)
}

fn allocated(path: &str) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

fn holes_are_kept() -> Result<()> {
    format_and_mount(TARGET, POINT)?;
    let (source, copy, old) = (
        format!("{POINT}/source"),
        format!("{POINT}/copy"),
        format!("{POINT}/old"),
    );
    write_sparse(&source)?;
    fs::write(&old, vec![7; 9 << 20])?;
    File::open(&old)?.sync_all()?;
    for io in ["uring", "uring-fixed", "pread"] {
        for destination in [&copy, &old] {
            let text = succeed(&format!(
                "copy {source} {destination} -s 1M --io {io} --check --json"
            ))?;
            let length = fs::metadata(destination)?.len();
            ensure!(number(&text, "bytes")? == f64::from(8 << 20), "{text}");
            ensure!(
                number(&text, "holes")? == f64::from((8 << 20) - (68 << 10)),
                "{text}"
            );
            ensure!(
                length
                    == if destination == &copy {
                        8 << 20
                    } else {
                        9 << 20
                    }
            );
            // With what the file system itself needs.
            let most = 256 << 10;
            let tail = if destination == &old { 1 << 20 } else { 0 };
            let taken = allocated(destination)?;
            ensure!(taken < tail + most, "{destination} takes {taken} bytes");
            ensure!(fs::read(&source)? == fs::read(destination)?[..8 << 20]);
        }
        ensure!(fs::read(&old)?[8 << 20..].iter().all(|byte| *byte == 7));
        fs::remove_file(&copy)?;
    }
    // A block device gets the zeroes.
    put_on_drive(&drive(0)?, 8 * MIB, 3)?;
    succeed(&format!("copy {source} {SOURCE} --check"))?;
    run("umount", &[POINT])
}

fn longer_destination() -> Result<()> {
    format_and_mount(TARGET, POINT)?;
    let (short, long) = (format!("{POINT}/short"), format!("{POINT}/long"));
    fs::write(&short, vec![1; MIB])?;
    fs::write(&long, vec![2; 3 * MIB])?;
    let text = succeed(&format!("copy {short} {long} --check"))?;
    ensure!(
        text.contains(&format!("{long} keeps its last 2 MiB")),
        "{text}"
    );
    ensure!(fs::metadata(&long)?.len() == 3 << 20);
    // With --size, the tail is not reported.
    let text = succeed(&format!("copy {short} {long} --size 1M"))?;
    ensure!(!text.contains("keeps"), "{text}");
    let text = succeed(&format!("copy {short} {long} --json"))?;
    ensure!(number(&text, "tail")? == f64::from(2 << 20), "{text}");
    run("umount", &[POINT])
}

fn read_only_destination() -> Result<()> {
    prepare(MIB)?;
    run("blockdev", &["--setro", TARGET])?;
    let result = ["uring", "pread"].iter().try_for_each(|io| {
        fail(
            &format!("copy {SOURCE} {TARGET} --size 1M --io {io}"),
            &[TARGET, "is read-only"],
        )
    });
    let verified = fail(
        &format!("verify {TARGET} --write"),
        &[TARGET, "is read-only"],
    );
    run("blockdev", &["--setrw", TARGET])?;
    result.and(verified)
}

fn room_for_several_threads() -> Result<()> {
    fail(
        &format!("copy {SOURCE} {TARGET} --size 64M -s 48M --depth 1 --threads 4"),
        &[
            "/dev/p2pmem0 has no free run of 48 MiB for each of 4 threads, 192 MiB in all: \
             128 MiB were free in one run, enough for 2 threads: choose a smaller --chunk",
        ],
    )
}

/// As with `| head -0`.
fn output_without_reader() -> Result<()> {
    put_on_drive(&drive(1)?, MIB, 2)?;
    for (line, status) in [
        ("list --users", 0),
        ("list --json", 0),
        ("topo", 0),
        ("doctor", 0),
        ("doctor --errno EINVAL", 0),
        ("config", 0),
        ("config p2pmem0 --clear on --dry-run", 0),
        ("unbind p2pmem0 --dry-run", 0),
        ("bench --what load --size 4K --rounds 1", 0),
        ("copy /dev/nvme0n1 /dev/nvme1n1 -o 8M --size 1M", 0),
        ("verify /dev/nvme1n1 --size 64k --write", 0),
        ("verify /dev/nvme1n1 --size 100", 1),
        ("copy /dev/nvme0n1 /dev/nonexistent", 1),
        ("--help", 0),
        ("copy", 2),
    ] {
        let closed = || -> Result<Stdio> {
            let (reader, writer) = rustix::pipe::pipe()?;
            drop(reader);
            Ok(writer.into())
        };
        let output = Command::new("p2pmem")
            .args(words_of(line))
            .stdout(closed()?)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(status) && !text.contains("panicked"),
            "{line}: {:?}, {text}",
            output.status
        );
        // Nor does it matter if errors have no reader.
        let both = Command::new("p2pmem")
            .args(words_of(line))
            .stdout(closed()?)
            .stderr(closed()?)
            .status()?;
        ensure!(both.code() == Some(status), "{line}: {both:?}");
    }
    check_drive(&drive(1)?, MIB, 2)
}

fn results_of_failures() -> Result<()> {
    prepare(MIB)?;
    for line in [
        format!("copy {SOURCE} {SOURCE} --size 1M --json"),
        format!("verify {SOURCE} --size 100 --json"),
        "bench --size 100 --json".to_owned(),
        "bind 7f:00.0 --json".to_owned(),
        "unbind 7f:00.0 --json".to_owned(),
        "config 7f:00.0 --json".to_owned(),
        "topo --provider 99 --json".to_owned(),
        "topo --replay /nonexistent --json".to_owned(),
        "doctor /nonexistent --json".to_owned(),
    ] {
        let output = p2pmem(&line)?;
        ensure!(output.status.code() == Some(1), "{line}");
        let value = check_json(&String::from_utf8(output.stdout)?)?;
        let error = value["error"].as_str().context("no error")?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(
            told == format!("p2pmem: {error}\n"),
            "{line}: {told}, {error}"
        );
    }
    // Half of it arrives.
    let provider = Provider::first()?;
    let mut copy = Command::new("p2pmem");
    copy.args(words_of(&format!(
        "copy {SOURCE} {TARGET} -s 4k --io pread --json"
    )));
    let copy = copy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait_until(Duration::from_secs(10), "it copies", || {
        Ok(part(1, 0, PAGE)? == part(0, 0, PAGE)?)
    })?;
    unbind(&provider.pci)?;
    let output = copy.wait_with_output()?;
    crate::guest::restore()?;
    let value = check_json(&String::from_utf8(output.stdout)?)?;
    // The device may go away after the last chunk.
    let Some(error) = value["error"].as_str() else {
        return Ok(());
    };
    let stopped_at = value["stopped_at"].as_u64().context("it is not known")?;
    ensure!(stopped_at > 0 && value["bytes"] == stopped_at, "{value}");
    let onward = format!("--source-offset {stopped_at}");
    ensure!(
        error.contains("went away") && error.contains(&onward),
        "{error}"
    );
    let length = stopped_at as usize;
    ensure!(part(1, 0, length)? == part(0, 0, length)?, "less arrived");
    Ok(())
}

/// A schema that takes anything would prove nothing.
fn schema_is_strict() -> Result<()> {
    let text = succeed(&format!("copy {SOURCE} {TARGET} --size 64k --json"))?;
    check_json(&text)?;
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("\"command\":\"copy\"", "\"command\":\"list\""),
        ("\"tail\":", "\"tails\":"),
        ("\"error\":null,", ""),
        ("\"error\":null", "\"error\":null,\"more\":1"),
        ("\"io\":\"uring\"", "\"io\":\"read\""),
        ("\"bytes\":65536", "\"bytes\":\"64 KiB\""),
    ] {
        ensure!(text.contains(from), "{from} is not in {text}");
        ensure!(check_json(&text.replacen(from, to, 1)).is_err(), "{to}");
    }
    Ok(())
}
