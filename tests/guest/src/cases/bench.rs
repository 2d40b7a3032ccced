// SPDX-License-Identifier: GPL-2.0

//! `p2pmem bench` measures. The figures are not compared.

use std::{fs, process::Command};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{
    cases,
    guest::{
        check_drive, drive, expect_io_errno, on_debug_kernel, put_on_drive, Map, Provider, PAGE,
        WINDOW,
    },
    programs::says,
};

cases!(
    "bench": each_kind_without_a_drive, each_kind_with_a_drive, plot, table, writes_are_asked_for,
    full_pool, sizes_that_do_not_fit,
);

/// Runs `p2pmem bench` with few rounds, and returns its report.
fn bench(arguments: &[&str]) -> Result<Value> {
    let words = [&["bench", "--json", "--rounds", "1"], arguments].concat();
    Ok(serde_json::from_str(&says(&words)?)?)
}

/// Returns what was done with which memory, in order.
fn rows(report: &Value) -> Result<Vec<(&str, &str, u64, u64)>> {
    let rows = report["rows"].as_array().context("no rows")?;
    let mut found = Vec::new();
    for row in rows {
        for name in ["bytes_per_second", "ratio"] {
            let value = row[name].as_f64().context("no number")?;
            ensure!(value > 0.0 && value.is_finite(), "{row}");
        }
        let seconds = |name: &str| row["seconds"][name].as_f64().context("no time");
        let (min, median) = (seconds("min")?, seconds("median")?);
        ensure!(
            0.0 < min && min <= median && median <= seconds("max")?,
            "{row}"
        );
        let word = |name: &str| row[name].as_str().with_context(|| format!("no {name}"));
        let number = |name: &str| row[name].as_u64().with_context(|| format!("no {name}"));
        found.push((
            word("what")?,
            word("kind")?,
            number("size")?,
            number("depth")?,
        ));
    }
    Ok(found)
}

fn notes(report: &Value) -> Result<&Vec<Value>> {
    report["notes"].as_array().context("no notes")
}

fn each_kind_without_a_drive() -> Result<()> {
    let report = bench(&["--size", "4K,64K"])?;
    let mut expected = Vec::new();
    for (what, kinds) in [
        ("map", &["mainline", "mapped", "ordinary"][..]),
        ("register", &["ordinary-registered", "registered"]),
        ("store", &["ordinary", "mapped", "write-combining"]),
        ("load", &["ordinary", "mapped", "write-combining"]),
    ] {
        for size in [4 << 10, 64 << 10] {
            expected.extend(kinds.iter().map(|kind| (what, *kind, size, 1)));
        }
    }
    ensure!(rows(&report)? == expected, "{:?}", rows(&report)?);
    ensure!(notes(&report)?.is_empty(), "{report}");
    Provider::first()?.expect_taken(0)
}

fn each_kind_with_a_drive() -> Result<()> {
    let report = bench(&["/dev/nvme0n1", "--size", "4K,64K", "--depth", "1,4"])?;
    let mut expected = Vec::new();
    for size in [4 << 10, 64 << 10] {
        for depth in [1, 4] {
            expected.extend(
                [
                    "mainline",
                    "mapped",
                    "registered",
                    "ordinary",
                    "ordinary-registered",
                ]
                .map(|kind| ("read", kind, size, depth)),
            );
        }
    }
    ensure!(rows(&report)? == expected, "{:?}", rows(&report)?);
    for row in report["rows"].as_array().context("no rows")? {
        // The first of each comparison.
        ensure!(row["kind"] != "mainline" || row["ratio"] == 1.0, "{row}");
        ensure!(row["baseline"] == "mainline", "{row}");
    }
    let setup = &report["setup"];
    for (name, value) in [
        ("pci", &*Provider::first()?.pci),
        ("path", "/dev/p2pmem0"),
        (
            "kernel",
            fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        ),
    ] {
        ensure!(setup[name] == value, "{name} in {setup}");
    }
    ensure!(setup["drive"]["path"] == "/dev/nvme0n1", "{setup}");
    ensure!(setup["drive"]["model"].is_string(), "{setup}");
    ensure!(setup["clear"] == true, "{setup}");
    // The debug kernel does not read the firmware's description of the machine.
    ensure!(setup["machine"].is_string() || on_debug_kernel(), "{setup}");
    ensure!(
        ["TCG", "KVM"]
            .iter()
            .any(|name| setup["accelerator"] == *name),
        "{setup}"
    );
    Provider::first()?.expect_full()
}

fn plot() -> Result<()> {
    const FILE: &str = "/tmp/plot.svg";
    bench(&[
        "--what",
        "map,store",
        "--size",
        "4K,16K,64K",
        "--plot",
        FILE,
    ])?;
    let text = fs::read_to_string(FILE)?;
    fs::remove_file(FILE)?;
    ensure!(
        text.starts_with("<svg") && text.trim_end().ends_with("</svg>"),
        "{text}"
    );
    // A chart each, with a line for each kind.
    for word in [
        "map, touch",
        "store by",
        "write-combining",
        "the node, mapped",
        "16 KiB",
    ] {
        ensure!(text.contains(word), "no {word} in {text}");
    }
    ensure!(text.matches("<polyline").count() >= 6, "{text}");
    ensure!(
        text.contains("clearing is on") && text.contains("MiB/s"),
        "{text}"
    );
    Ok(())
}

fn table() -> Result<()> {
    let run = Command::new("p2pmem")
        .args([
            "bench", "--via", "0", "--what", "load", "--size", "4K", "--rounds", "1",
        ])
        .output()?;
    let text = String::from_utf8_lossy(&run.stdout);
    ensure!(run.status.success(), "{run:?}");
    // Three lines on the machine, an empty one, the title, the names, and one for each kind.
    ensure!(text.lines().count() == 9, "{text}");
    for word in [
        "clearing is on",
        "load by the CPU; baseline: ordinary memory",
        "MEDIAN",
        "MiB/s",
        "write-combining",
    ] {
        ensure!(text.contains(word), "no {word} in {text}");
    }
    Ok(())
}

fn writes_are_asked_for() -> Result<()> {
    let drive = drive(1)?;
    put_on_drive(&drive, WINDOW, 7)?;
    let run = Command::new("p2pmem")
        .args(["bench", "/dev/nvme1n1", "--what", "write", "--size", "4K"])
        .output()?;
    let text = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.code() == Some(1) && text.contains("--write"),
        "{text}"
    );
    check_drive(&drive, WINDOW, 7)?;

    let report = bench(&[
        "/dev/nvme1n1",
        "--what",
        "write",
        "--write",
        "--size",
        "4K",
        "--depth",
        "2",
    ])?;
    let rows = rows(&report)?;
    ensure!(
        rows.len() == 5 && rows.iter().all(|row| row.0 == "write"),
        "{rows:?}"
    );
    // As much as was said, and no more.
    ensure!(
        check_drive(&drive, 2 * PAGE, 7).is_err(),
        "nothing was written"
    );
    let map = Map::ordinary(WINDOW)?;
    crate::guest::read_at(&drive, &map, 0..WINDOW, 0)?;
    map.check(2 * PAGE..WINDOW, 7)
}

/// Measurements without enough memory are left out, with a note.
fn full_pool() -> Result<()> {
    let provider = Provider::first()?;
    let file = provider.open()?;
    let _all = Map::new(&file, provider.size)?;
    expect_io_errno(
        p2pmem::Buffer::map(&file, PAGE),
        rustix::io::Errno::NOSPC,
        "the pool is full",
    )?;
    let report = bench(&["--what", "map,register,store", "--size", "4K"])?;
    let rows = rows(&report)?;
    let kinds: Vec<_> = rows.iter().map(|row| (row.0, row.1)).collect();
    let expected = [
        ("map", "ordinary"),
        ("register", "ordinary-registered"),
        ("store", "ordinary"),
    ];
    ensure!(kinds == expected, "{kinds:?}");
    let notes = notes(&report)?;
    ensure!(notes.len() == 5, "{notes:?}");
    ensure!(
        notes
            .iter()
            .all(|note| note.as_str().is_some_and(|note| note.contains("left out"))),
        "{notes:?}"
    );
    Ok(())
}

fn sizes_that_do_not_fit() -> Result<()> {
    // More than the pool has, and more than the drive has.
    let report = bench(&["/dev/nvme0n1", "--size", "4K,64M", "--depth", "4"])?;
    ensure!(rows(&report)?.iter().all(|row| row.2 == 4096), "{report}");
    ensure!(notes(&report)?.len() == 1, "{report}");
    // The kernel takes less than 4 GiB in a slot, and any length in a mapping.
    for (what, size) in [("map", "0"), ("map", "1000"), ("register", "4G")] {
        let run = Command::new("p2pmem")
            .args(["bench", "--what", what, "--size", size])
            .output()?;
        let text = String::from_utf8_lossy(&run.stderr);
        ensure!(
            run.status.code() == Some(1) && text.contains("--size"),
            "{text}"
        );
    }
    Ok(())
}
