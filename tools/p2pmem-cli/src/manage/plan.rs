// SPDX-License-Identifier: GPL-2.0

//! Plans: files of sysfs, and the line to be written to each. If a step fails, those before it are
//! undone.

use std::{
    fmt,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use p2pmem::{PciAddress, Root};
use serde::Serialize;

use super::{
    choices,
    device::{driver_folder, driver_of, Device},
    kernel_log::KernelLog,
};

/// Something to be written to a file of sysfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The file.
    pub path: PathBuf,
    /// A line.
    pub text: String,
    /// The write that undoes it: file and line.
    #[serde(skip)]
    undo: Option<(PathBuf, String)>,
}

/// As a shell command.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, text, .. } = self;
        let path = path.display();
        if text.is_empty() {
            write!(f, "echo > {path}")
        } else if text.contains(' ') {
            write!(f, "echo '{text}' > {path}")
        } else {
            write!(f, "echo {text} > {path}")
        }
    }
}

/// Steps that change a device, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangePlan {
    pci: PciAddress,
    steps: Vec<Step>,
    /// The driver that loses the device, and by which step.
    taken: Option<(String, usize)>,
    pub notes: Vec<String>,
}

impl ChangePlan {
    pub fn new(device: &Device) -> Self {
        Self {
            pci: device.pci,
            steps: Vec::new(),
            taken: None,
            notes: Vec::new(),
        }
    }

    /// Returns what is to be done.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns what could not be found out, and what is not to be seen by the steps.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn add(&mut self, path: PathBuf, text: &str, undo: Option<(PathBuf, String)>) {
        self.steps.push(Step {
            path,
            text: text.to_owned(),
            undo,
        });
    }

    /// As [`add`](Self::add), where writing what was there before undoes it.
    pub fn set(&mut self, path: PathBuf, text: &str, before: String) {
        self.add(path.clone(), text, Some((path, before)));
    }

    /// Takes the device from its driver.
    pub fn take(&mut self, root: &Root, driver: String) {
        let folder = driver_folder(root, &driver);
        let pci = self.pci.to_string();
        let undo = (folder.join("bind"), pci.clone());
        self.taken = Some((driver, self.steps.len()));
        self.add(folder.join("unbind"), &pci, Some(undo));
    }

    /// Chooses regions, or `default`.
    pub fn choose(&mut self, root: &Root, regions: &str) -> Result<()> {
        let before = choices::of(root, self.pci)?;
        let line = |regions: &str| format!("{} {regions}", self.pci);
        let before = line(before.as_deref().unwrap_or("default"));
        let text = line(regions);
        self.set(choices::path(root), &text, before);
        Ok(())
    }

    /// Takes the steps, and calls `then`, which must succeed. If something fails, undoes all, and
    /// the error has the message of the kernel, if this user may read it.
    pub fn run<T>(&self, root: &Root, then: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut log = KernelLog::from_now(root);
        let mut done = 0;
        let result = self
            .steps
            .iter()
            .try_for_each(|step| {
                put(&step.path, &step.text)?;
                done += 1;
                Ok(())
            })
            .and_then(|()| then());

        result.map_err(|error| {
            // Before undoing adds to it.
            let error = match log.last(self.pci, driver_of(root, self.pci).as_deref()) {
                Some(line) => error.context(format!("the kernel says `{line}`")),
                None => error,
            };
            let undone = self.undo(done);
            error.context(self.outcome(root, done, undone))
        })
    }

    /// Returns in words the state of the device after the first steps were done and undone.
    fn outcome(&self, root: &Root, done: usize, undone: Result<()>) -> String {
        let taken = self.taken.as_ref().filter(|(_, step)| *step < done);
        let now = driver_of(root, self.pci);
        let text = match taken {
            None if undone.is_ok() => return "nothing has changed".to_owned(),
            None => "not all changes could be undone".to_owned(),
            Some((driver, _)) if now.as_ref() == Some(driver) => {
                format!(
                    "{} was unbound from {driver}, and bound to it again",
                    self.pci
                )
            }
            Some((driver, _)) => format!(
                "{} was unbound from {driver} and could not be bound to it again, {}",
                self.pci,
                match now {
                    Some(now) => format!("it is bound to {now}"),
                    None => "it has no driver now".to_owned(),
                }
            ),
        };
        match undone {
            Ok(()) => text,
            Err(error) => format!("{text}: {error:#}"),
        }
    }

    /// Undoes the first steps, the last one first. Goes on if one cannot be undone.
    fn undo(&self, done: usize) -> Result<()> {
        let mut result = Ok(());
        for step in self.steps[..done].iter().rev() {
            if let Some((path, text)) = &step.undo {
                result = result.and(put(path, text));
            }
        }
        result
    }
}

/// Writes a line to a file that is there.
pub fn put(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
        .with_context(|| match rustix::process::geteuid().is_root() {
            true => format!("cannot write `{text}` to {}", path.display()),
            false => format!("cannot write to {}: do it as root", path.display()),
        })
}
