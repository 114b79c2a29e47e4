//! Reading a folder with the rights of the one who asked, not with the daemon's.

use crate::model::report::Caller;

use super::error::DeployError;

/// With whose rights files are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// This process's own.
    Own,
    /// The caller's, taken on by each thread that reads.
    Caller(Caller),
}

impl Rights {
    /// The rights to read a folder that `caller` names. Only a privileged process can, and has to, take on another's.
    pub fn of(caller: &Caller) -> Self {
        if rustix::process::geteuid().is_root() && caller.uid != 0 {
            Rights::Caller(caller.clone())
        } else {
            Rights::Own
        }
    }

    /// Runs something with the rights, and gives them back: the same thread goes on to write to the store as who it is.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, DeployError> {
        let Rights::Caller(caller) = self else {
            return Ok(work());
        };
        self.take_on()?;
        let done = work();
        // SAFETY: integer arguments only; they act on this thread alone, and the last calls tell whether they did.
        let back = unsafe {
            libc::syscall(libc::SYS_setfsuid, 0);
            libc::syscall(libc::SYS_setfsgid, 0);
            libc::syscall(libc::SYS_setfsuid, 0) == 0 && libc::syscall(libc::SYS_setfsgid, 0) == 0
        };
        if back {
            Ok(done)
        } else {
            Err(cannot_become(caller))
        }
    }

    /// Takes the rights on for the rest of this thread's life. For threads made for this only.
    pub fn take_on(&self) -> Result<(), DeployError> {
        let Rights::Caller(caller) = self else {
            return Ok(());
        };
        // The raw calls act on this thread alone; the C library's would change the whole process.
        // SAFETY: the pointer and length describe a live slice; the other arguments are integers.
        let groups = unsafe {
            libc::syscall(
                libc::SYS_setgroups,
                caller.groups.len(),
                caller.groups.as_ptr(),
            )
        };
        if groups != 0 {
            return Err(cannot_become(caller));
        }
        // The kernel answers with the id before, whether or not it changed: ask again to see.
        // SAFETY: integer arguments only.
        let became = unsafe {
            libc::syscall(libc::SYS_setfsgid, caller.gid);
            libc::syscall(libc::SYS_setfsuid, caller.uid);
            libc::syscall(libc::SYS_setfsgid, caller.gid) == i64::from(caller.gid)
                && libc::syscall(libc::SYS_setfsuid, caller.uid) == i64::from(caller.uid)
        };
        if became {
            Ok(())
        } else {
            Err(cannot_become(caller))
        }
    }
}

fn cannot_become(caller: &Caller) -> DeployError {
    DeployError::Io {
        doing: "take on the rights of user",
        path: caller.name.clone().into(),
        cause: std::io::Error::last_os_error(),
    }
}
