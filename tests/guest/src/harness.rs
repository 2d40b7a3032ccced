// SPDX-License-Identifier: GPL-2.0

//! Runs cases, and looks at what they leave behind.

use std::{
    fs::{self, File},
    io::{Read, Write},
    panic,
    time::{Duration, Instant},
};

use anyhow::{bail, Result};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{kill_process_group, waitpid, Pid, Signal, WaitOptions},
};

use crate::guest::{self, fork, Fork};

/// A case.
pub struct Case {
    /// Its name: group, underscore, claim.
    pub name: &'static str,
    /// Its code. It finds the module loaded and all devices bound.
    pub run: fn() -> Result<()>,
}

/// Makes a list of cases, which are named after their functions.
#[macro_export]
macro_rules! cases {
    ($group:literal: $($function:ident),* $(,)?) => {
        /// The cases of this file.
        pub const CASES: &[$crate::harness::Case] = &[
            $($crate::harness::Case {
                name: concat!($group, "_", stringify!($function)),
                run: $function,
            }),*
        ];
    };
}

/// Why a case was not run.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Something did not happen, however long it was waited for.
#[derive(Debug)]
pub struct TimedOut(pub String);

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

/// A case that made the kernel report a mistake on purpose: passed if the harness saw it.
#[derive(Debug)]
pub struct ExpectedMistake;

impl std::fmt::Display for ExpectedMistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a mistake is to be seen in the kernel's log")
    }
}

impl std::error::Error for ExpectedMistake {}

const LIMIT: Duration = Duration::from_secs(240);
/// Limit for memory to return to its pool: I/O in flight may hold it.
const SETTLE: Duration = Duration::from_secs(5);

const STACKS: &str = "the stacks of all tasks are in the kernel's log";

/// Exit statuses of the process of a case.
const PASSED: i32 = 0;
const FAILED: i32 = 1;
const SKIPPED: i32 = 77;
const MISTAKEN: i32 = 78;
const HUNG: i32 = 79;

/// Runs cases and returns whether all passed.
pub fn run(cases: &[&Case], no_skip: bool) -> bool {
    say("KTAP version 1");
    say(&format!("1..{}", cases.len()));

    let mut good = true;
    for (number, case) in (1..).zip(cases) {
        say(&format!("# case {}", case.name));
        let started = Instant::now();
        match run_case(case) {
            Ok(None) => {
                say(&format!("# {:.1} s", started.elapsed().as_secs_f64()));
                say(&format!("ok {number} {}", case.name));
            }
            Ok(Some(why)) if !no_skip => say(&format!("ok {number} {} # SKIP {why}", case.name)),
            Ok(Some(why)) => {
                say(&format!("# nothing may be skipped here, but: {why}"));
                say(&format!("not ok {number} {}", case.name));
                good = false;
            }
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    say(&format!("# {line}"));
                }
                say(&format!("not ok {number} {}", case.name));
                good = false;
            }
        }
    }

    good
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Runs a case. Returns why it was skipped, if it was.
fn run_case(case: &Case) -> Result<Option<String>> {
    guest::restore()?;
    // Other drivers keep allocations from their own pools.
    let before = guest::pools()?;
    let mut log = Log::from_now()?;

    let (reader, writer) = rustix::pipe::pipe()?;
    let child = match fork()? {
        Fork::Child => {
            let _ = rustix::process::setpgid(None, None);
            drop(reader);
            let (status, text) = outcome(case);
            let _ = File::from(writer).write_all(text.as_bytes());
            guest::exit(status)
        }
        Fork::Parent(child) => child,
    };
    drop(writer);

    let result = watch(child);
    let mut mistakes = Vec::new();
    if matches!(result, Ok(Some(HUNG))) {
        // Stacks that are asked for look like mistakes.
        mistakes = log.mistakes()?;
        show_tasks();
        log = Log::from_now()?;
    }
    // Processes that the case left behind.
    let _ = kill_process_group(child, Signal::KILL);
    let result = match result {
        Ok(ended) => ended,
        Err(error) => {
            // It may be one that cannot be killed.
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
            return Err(error);
        }
    };

    mistakes.extend(log.mistakes()?);
    match (result, mistakes.is_empty()) {
        (Some(MISTAKEN), true) => bail!("the harness overlooked a mistake in the kernel's log"),
        (Some(MISTAKEN), false) => return Ok(None),
        (_, true) => (),
        (_, false) => bail!("the kernel reported:\n{}", mistakes.join("\n")),
    }
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text)?;
    match result {
        Some(PASSED) => (),
        Some(SKIPPED) => return Ok(Some(text)),
        Some(_) => bail!("{text}"),
        None => bail!("the process of the case was killed by a signal; {text}"),
    }
    guest::wait_until(SETTLE, "all memory is back in its pool", || {
        Ok(guest::pools()?.iter().all(|pool| {
            before
                .iter()
                .all(|other| other.pci != pool.pci || other == pool)
        }))
    })?;

    Ok(None)
}

/// Runs the function of a case in this process.
fn outcome(case: &Case) -> (i32, String) {
    // The message of a panic goes to the harness, not to the terminal.
    panic::set_hook(Box::new(|_| ()));
    match panic::catch_unwind(case.run) {
        Ok(Ok(())) => (PASSED, String::new()),
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => (SKIPPED, why.clone()),
            None if error.is::<ExpectedMistake>() => (MISTAKEN, String::new()),
            None if error.is::<TimedOut>() => (HUNG, format!("{error:#}; {STACKS}")),
            None => (FAILED, format!("{error:#}")),
        },
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned().or_else(|| {
                payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
            });
            (FAILED, format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Waits for the end of a case. Returns its exit status, or [`None`] if a signal killed it.
fn watch(child: Pid) -> Result<Option<i32>> {
    // Some cases are told for how long to run.
    let longer = std::env::var("TORTURE_SECONDS").map_or(0, |text| text.parse().unwrap_or(0));
    let limit = guest::patience(LIMIT) + Duration::from_secs(longer);
    let deadline = Instant::now() + limit;
    loop {
        if let Some((_, status)) = waitpid(Some(child), WaitOptions::NOHANG)? {
            return Ok(status.exit_status());
        }
        if Instant::now() > deadline {
            show_tasks();
            bail!("did not end within {} s; {STACKS}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Has the kernel write to its log what the processors do, which tasks are blocked, and the stacks
/// of all tasks: a case that hangs need not be blocked.
fn show_tasks() {
    let _ = fs::write("/dev/kmsg", "lab: stacks of all tasks\n");
    for key in ["l", "w", "t"] {
        let _ = fs::write("/proc/sysrq-trigger", key);
    }
    let _ = fs::write("/dev/kmsg", "lab: end of stacks\n");
}

/// The kernel's log from some point on.
struct Log(File);

impl Log {
    fn from_now() -> Result<Self> {
        let file = rustix::fs::open(
            "/dev/kmsg",
            OFlags::RDONLY | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Self(file.into()))
    }

    /// Returns the lines that tell of a mistake, and those that follow each.
    fn mistakes(&mut self) -> Result<Vec<String>> {
        const SIGNS: &[&str] = &[
            "WARNING: ",
            "BUG: ",
            "BUG at ",
            "Oops",
            "KASAN",
            "UBSAN",
            "Call Trace",
            "general protection fault",
            "possible circular locking",
            "possible recursive locking",
            "inconsistent lock state",
            "suspicious RCU usage",
            "blocked for more than",
            "refcount_t:",
            "Bad page",
            "scheduling while atomic",
            "sleeping function called",
            "DMA-API:",
        ];
        const FOLLOWING: usize = 25;

        let mut found = Vec::new();
        let mut follow = 0;
        let mut record = [0; 8192];
        loop {
            let length = match rustix::io::read(&self.0, &mut record) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(length) => length,
                // Records were overwritten before they were read.
                Err(Errno::PIPE) => continue,
                Err(error) => return Err(error.into()),
            };
            let text = String::from_utf8_lossy(&record[..length]);
            let message = text.split_once(';').map_or(&*text, |(_, message)| message);
            let line = message.lines().next().unwrap_or_default();
            if SIGNS.iter().any(|sign| line.contains(sign)) {
                follow = FOLLOWING;
            }
            if follow > 0 {
                follow -= 1;
                found.push(line.to_owned());
            }
        }

        Ok(found)
    }
}
