//! Reading a folder with the rights of the one who asked, not with the daemon's.

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::model::report::Caller;

use super::error::DeployError;

/// What lets a process pass over the permissions of files. The kernel takes these from a thread of root that becomes somebody
/// else for files, and leaves them to one of a service's user.
const OVER_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// With whose rights files are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// This process's own.
    Own,
    /// The caller's, taken on by each thread that reads.
    Caller(Caller),
}

impl Rights {
    /// The rights to read a folder that `caller` names. Only a privileged process can, and has to, take on the caller's: one of
    /// root, or of a service's user that may pass over permissions.
    pub fn of(caller: &Caller) -> Self {
        let privileged = geteuid().is_root()
            || capabilities(None).is_ok_and(|own| own.effective.intersects(OVER_FILES));
        if privileged && caller.uid != 0 {
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
        let own = capabilities(None);
        self.take_on()?;
        let done = work();
        if set_file_ids(geteuid().as_raw(), getegid().as_raw()) && own.and_then(set).is_ok() {
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
        let became = set_file_ids(caller.uid, caller.gid);
        let own = capabilities(None).and_then(|own| {
            set(CapabilitySets {
                effective: own.effective.difference(OVER_FILES),
                ..own
            })
        });
        if became && own.is_ok() {
            Ok(())
        } else {
            Err(cannot_become(caller))
        }
    }
}

/// Who this thread is to the permissions of files; true if it is so now.
fn set_file_ids(uid: u32, gid: u32) -> bool {
    // The kernel answers with the id before, whether or not it changed: ask again to see.
    // SAFETY: integer arguments only; they act on this thread alone.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsgid, gid) == i64::from(gid)
            && libc::syscall(libc::SYS_setfsuid, uid) == i64::from(uid)
    }
}

/// This thread's capabilities from here on.
fn set(capabilities: CapabilitySets) -> rustix::io::Result<()> {
    set_capabilities(None, capabilities)
}

fn cannot_become(caller: &Caller) -> DeployError {
    DeployError::Io {
        doing: "take on the rights of user",
        path: caller.name.clone().into(),
        cause: std::io::Error::last_os_error(),
    }
}
