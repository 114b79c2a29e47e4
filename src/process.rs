//! Processes as /proc shows them, told from others that have had the same number, or have it in another PID namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A process: its number alone says nothing in another PID namespace, or once it has ended and the number is given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// The number in its own PID namespace.
    pub pid: i32,
    /// When it began, in clock ticks since the machine did.
    pub started: u64,
    /// The inode of its PID namespace.
    pub namespace: u64,
}

impl ProcessId {
    /// This process; `None` where /proc is not that of its PID namespace.
    pub fn this() -> Option<Self> {
        let pid = i32::try_from(std::process::id()).ok()?;
        Some(ProcessId {
            pid,
            started: State::of(pid)?.started,
            namespace: own_namespace()?,
        })
    }

    /// True if the process has ended or is about to, but for threads that cannot. False where that cannot be seen from here.
    pub fn is_killed(&self) -> bool {
        own_namespace() == Some(self.namespace)
            && State::of(self.pid)
                .is_some_and(|state| state.started == self.started && state.is_killed())
    }

    /// True where this process's own number would mean the same.
    pub fn is_of_this_namespace(&self) -> bool {
        own_namespace() == Some(self.namespace)
    }
}

/// What proc_pid_stat(5) says of a process's first thread.
pub struct State {
    letter: char,
    /// `PF_` in the kernel's linux/sched.h.
    flags: u64,
    /// Clock ticks since the machine began.
    started: u64,
}

/// In the flags: the thread is ending, also where it waits for something on its way.
const PF_EXITING: u64 = 4;

impl State {
    /// The state of the process that has this number in this process's PID namespace; `None` where there is none, or where /proc is that
    /// of another namespace.
    pub fn of(pid: i32) -> Option<Self> {
        if !has_own_proc() {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may have spaces and parentheses.
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(State {
            letter: fields.first()?.chars().next()?,
            flags: fields.get(6)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Stopped by a signal or by a debugger.
    pub fn is_stopped(&self) -> bool {
        matches!(self.letter, 'T' | 't')
    }

    /// Ended, or about to end: the first thread, too, may wait for an answer when it closes what the process had open.
    pub fn is_killed(&self) -> bool {
        self.letter == 'Z' || self.flags & PF_EXITING != 0
    }
}

/// False where /proc is that of another PID namespace, such as after unshare(1) without --mount-proc: its numbers are others.
fn has_own_proc() -> bool {
    let own = std::process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&own))
}

fn own_namespace() -> Option<u64> {
    if !has_own_proc() {
        return None;
    }
    fs::metadata("/proc/self/ns/pid")
        .ok()
        .map(|meta| meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn this_process_runs_and_a_child_that_has_ended_counts_as_killed_under_its_own_start_only() {
        let this = ProcessId::this().unwrap();
        assert!(!this.is_killed() && this.is_of_this_namespace());
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id() as i32;
        while !State::of(pid).unwrap().is_killed() {
            std::thread::yield_now();
        }
        let ended = ProcessId {
            pid,
            started: State::of(pid).unwrap().started,
            ..this
        };
        assert!(ended.is_killed());
        let before = ProcessId {
            started: ended.started - 1,
            ..ended
        };
        assert!(!before.is_killed(), "another process had this number");
        let elsewhere = ProcessId {
            namespace: ended.namespace + 1,
            ..ended
        };
        assert!(!elsewhere.is_killed(), "the number is of another namespace");
        child.wait().unwrap();
        assert!(!ended.is_killed());
    }
}
