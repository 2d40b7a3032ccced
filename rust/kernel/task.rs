// SPDX-License-Identifier: GPL-2.0

//! Processes, as they are told of to administrators.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/capability.h`](srctree/include/linux/capability.h)

use kernel::{
    fmt,
    prelude::*,
    str::BStr,
    task::Pid, //
};

use crate::bindings;

/// Returns whether the calling thread was killed: it should return soon (`fatal_signal_pending()`).
pub fn is_killed() -> bool {
    // SAFETY: The current task is valid.
    unsafe { bindings::fatal_signal_pending(kernel::current!().as_ptr()) != 0 }
}

/// Returns whether the calling thread may administer the system (`CAP_SYS_ADMIN`). To decide what
/// is shown: that it may not is not recorded as an attempt.
pub fn is_administrator() -> bool {
    // SAFETY: The initial namespace is valid.
    unsafe {
        bindings::ns_capable_noaudit(
            &raw mut bindings::init_user_ns,
            bindings::CAP_SYS_ADMIN as c_int,
        )
    }
}

/// Returns whether the calling thread may do raw I/O (`CAP_SYS_RAWIO`).
pub fn may_do_raw_io() -> bool {
    // SAFETY: Has no requirements.
    unsafe { bindings::capable(bindings::CAP_SYS_RAWIO as c_int) }
}

/// Which process did something: the process ID and the name that it had then.
#[derive(Clone, Copy)]
pub struct Process {
    pid: Pid,
    name: [u8; bindings::TASK_COMM_LEN as usize],
}

impl Process {
    /// Returns the calling process.
    pub fn current() -> Self {
        let task = kernel::current!();
        let mut name = [0; bindings::TASK_COMM_LEN as usize];

        // SAFETY: The buffer is as long as the C side writes, and the task is the current one.
        unsafe { bindings::get_task_comm(name.as_mut_ptr(), task.as_ptr()) };

        Self {
            // Of the whole process, not of a thread.
            pid: task.tgid(),
            name,
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &BStr {
        let end = self.name.iter().position(|&byte| byte == 0);

        BStr::from_bytes(self.name.get(..end.unwrap_or(0)).unwrap_or_default())
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{}[{}]", self.name(), self.pid))
    }
}
