// SPDX-License-Identifier: GPL-2.0

//! Limits of control groups. Needs a kernel with CONFIG_CGROUP_DMEM: the debug kernel.

use std::{fs, path::Path};

use anyhow::{ensure, Context, Result};
use p2pmem::Provider as Node;
use rustix::{io::Errno, mm::MapFlags};

use crate::{
    cases,
    guest::{
        bind, expect_errno, expect_io_errno, restore, unbind, Child, Map, Provider, READ_WRITE,
        WINDOW,
    },
    programs::run,
};

cases!("dmem": limited, hierarchy, charged_to_the_end, registered_again);

const ROOT: &str = "/tmp/cgroup";

/// A control group. Its name is that of its directory.
struct Group(String);

impl Group {
    fn new(name: &str) -> Result<Self> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.procs").exists() {
            fs::create_dir_all(root)?;
            run("mount", &["-t", "cgroup2", "cgroup2", ROOT])?;
        }
        let path = root.join(name);
        let above = path.parent().context("a group above")?;
        fs::write(above.join("cgroup.subtree_control"), "+dmem").context("+dmem")?;
        fs::create_dir(&path)?;
        Ok(Self(name.to_owned()))
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new(ROOT).join(&self.0).join(name)
    }

    fn limit(&self, provider: &Provider, bytes: usize) -> Result<()> {
        let line = format!("{} {bytes}", name(provider));
        Ok(fs::write(self.file("dmem.max"), line)?)
    }

    fn expect_current(&self, provider: &Provider, bytes: usize) -> Result<()> {
        let text = fs::read_to_string(self.file("dmem.current"))?;
        let line = format!("{} {bytes}", name(provider));
        ensure!(
            text.lines().any(|one| one == line),
            "no {line:?} in {text:?}"
        );
        Ok(())
    }

    /// Runs a function in a process of the group.
    fn run(&self, function: impl FnOnce() -> Result<()>) -> Result<()> {
        Child::spawn(|| {
            fs::write(self.file("cgroup.procs"), "0")?;
            function()
        })?
        .expect_success()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(Path::new(ROOT).join(&self.0)).expect("the group is empty");
    }
}

/// Returns the name of a provider's memory.
fn name(provider: &Provider) -> String {
    format!("p2pmem/{}", provider.pci)
}

/// Maps so many bytes.
fn map(provider: &Provider, length: usize) -> Result<Result<Map, Errno>> {
    let file = provider.open()?;
    Ok(Map::with(&file, length, READ_WRITE, MapFlags::SHARED, 0))
}

fn limited() -> Result<()> {
    let provider = Provider::first()?;
    let group = Group::new("limited")?;
    group.limit(&provider, 2 * WINDOW)?;
    group.run(|| {
        let map_one = map(&provider, WINDOW)??;
        map_one.fill(0..WINDOW, 1);
        group.expect_current(&provider, WINDOW)?;
        // In a mapping, and by a request.
        expect_errno(map(&provider, 2 * WINDOW)?, Errno::DQUOT, "a mapping")?;
        let node = Node::open(&provider.path)?;
        expect_io_errno(node.alloc(2 * WINDOW as u64, 0), Errno::DQUOT, "a request")?;
        // A failed request is not charged.
        group.expect_current(&provider, WINDOW)?;
        let handle = node.alloc(WINDOW as u64, 0)?;
        group.expect_current(&provider, 2 * WINDOW)?;
        drop((map_one, handle));
        group.expect_current(&provider, 0)?;
        drop(map(&provider, 2 * WINDOW)??);
        Ok(())
    })?;
    // This process is in none.
    drop(map(&provider, 4 * WINDOW)??);
    Ok(())
}

fn hierarchy() -> Result<()> {
    let provider = Provider::first()?;
    let above = Group::new("above")?;
    above.limit(&provider, WINDOW)?;
    let below = Group::new("above/below")?;
    below.run(|| {
        expect_errno(map(&provider, 2 * WINDOW)?, Errno::DQUOT, "a mapping")?;
        let _map = map(&provider, WINDOW)??;
        above.expect_current(&provider, WINDOW)
    })
}

/// The process that allocated memory is charged, until the last user releases it.
fn charged_to_the_end() -> Result<()> {
    let provider = Provider::first()?;
    let group = Group::new("end")?;
    group.run(|| {
        let memory = map(&provider, WINDOW)??;
        // In another group by then.
        fs::write(format!("{ROOT}/cgroup.procs"), "0")?;
        group.expect_current(&provider, WINDOW)?;
        drop(memory);
        group.expect_current(&provider, 0)
    })
}

/// The name can be used again, while files of before are open.
fn registered_again() -> Result<()> {
    let provider = Provider::first()?;
    let group = Group::new("again")?;
    group.run(|| {
        let memory = map(&provider, WINDOW)??;
        unbind(&provider.pci)?;
        bind(&provider.pci)?;
        restore()?;
        let capacity = fs::read_to_string(format!("{ROOT}/dmem.capacity"))?;
        let found = capacity
            .lines()
            .filter(|line| *line == format!("{} {}", name(&provider), provider.size))
            .count();
        ensure!(found == 1, "{capacity:?}");
        group.limit(&provider, WINDOW)?;
        drop(map(&provider, WINDOW)??);
        expect_errno(map(&provider, 2 * WINDOW)?, Errno::DQUOT, "a mapping")?;
        drop(memory);
        Ok(())
    })
}
