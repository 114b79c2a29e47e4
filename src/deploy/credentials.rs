//! Whose rights a client's files are opened with: the caller's, without any capability of the daemon.
//!
//! A thread that reads, empties or looks at something of a client's takes the rights on first, and has no effective capability
//! until it has put them off again. Nothing of the store is opened meanwhile.

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::error::DeployError;
use crate::model::report::Caller;
use crate::sync::thread;
use crate::users::user;

/// What a process needs to take on the rights of another user.
const TO_BECOME_ANOTHER: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// With whose rights files are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rights {
    /// This process's own: it belongs to the caller, or both belong to root.
    Own,
    /// The caller's: the thread becomes the caller for the kernel's checks.
    Caller(Caller),
    /// This process's, where it cannot become the caller: whatever is opened must also be readable for the caller by its mode
    /// bits (see [`super::judgement`]).
    Judged(Caller),
}

impl Rights {
    /// The rights for what `caller` asks of this process.
    pub fn of(caller: &Caller) -> Self {
        let own = geteuid();
        if caller.uid == 0 && own.is_root() {
            return Rights::Own;
        }
        if effective().contains(TO_BECOME_ANOTHER) {
            return Rights::Caller(caller.clone());
        }
        // Root can read all that this process can.
        match caller.uid == 0 || caller.uid == own.as_raw() {
            true => Rights::Own,
            false => Rights::Judged(caller.clone()),
        }
    }

    /// The rights for what `caller` asks to be done with a folder of the user `owner`. Root, where this process cannot take on
    /// root's rights over everything, does it as the owner, which root can become.
    pub fn over(caller: &Caller, owner: u32) -> Self {
        match Self::of(caller) {
            Rights::Caller(root) if root.uid == 0 => Rights::Caller(user(owner)),
            rights => rights,
        }
    }

    /// Runs something on a thread of its own that has these rights, as have the threads that it starts.
    pub fn on_a_thread<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, DeployError> {
        if *self == Rights::Own {
            return Ok(work());
        }
        let run = || {
            self.take_on()?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(run).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Gives a thread that will use [`Rights::within`] the caller's groups. It keeps them.
    pub fn prepare(&self) -> Result<(), DeployError> {
        let Rights::Caller(caller) = self else {
            return Ok(());
        };
        // The raw call acts on this thread alone; the C library's would change the whole process.
        // SAFETY: the pointer and length describe a live slice.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_setgroups,
                caller.groups.len(),
                caller.groups.as_ptr(),
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(cannot_become(caller)),
        }
    }

    /// Runs something with the rights and puts them off again: the same thread goes on to write to the store as who it is.
    /// Only after [`Rights::prepare`].
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, DeployError> {
        let (Rights::Caller(caller) | Rights::Judged(caller)) = self else {
            return Ok(work());
        };
        let own = capabilities(None).map_err(|_| cannot_become(caller))?;
        self.put_on(&own)?;
        let done = work();
        let is_back = match self {
            Rights::Own | Rights::Judged(_) => true,
            Rights::Caller(_) => set_file_ids(geteuid().as_raw(), getegid().as_raw()),
        };
        if is_back && set_capabilities(None, own).is_ok() {
            Ok(done)
        } else {
            Err(cannot_become(caller))
        }
    }

    /// Takes the rights on for the rest of this thread's life, and that of the threads that it starts.
    pub fn take_on(&self) -> Result<(), DeployError> {
        let (Rights::Caller(caller) | Rights::Judged(caller)) = self else {
            return Ok(());
        };
        self.prepare()?;
        let own = capabilities(None).map_err(|_| cannot_become(caller))?;
        self.put_on(&own)
    }

    fn put_on(&self, own: &CapabilitySets) -> Result<(), DeployError> {
        let (Rights::Caller(caller) | Rights::Judged(caller)) = self else {
            return Ok(());
        };
        let became = match self {
            Rights::Own | Rights::Judged(_) => true,
            Rights::Caller(_) => set_file_ids(caller.uid, caller.gid),
        };
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            ..*own
        };
        // They are what lets it come back; without an effective one the kernel's checks pass over nothing.
        if became && set_capabilities(None, none).is_ok() {
            Ok(())
        } else {
            Err(cannot_become(caller))
        }
    }
}

/// Runs something that touches files as root would, but for root's capabilities; `None` where this process cannot. For fixed paths of
/// the kernel's own, such as those in `/sys`, that only root may write.
pub fn as_root<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    if !effective().contains(TO_BECOME_ANOTHER) {
        return None;
    }
    let root = Caller {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };
    Rights::Caller(root).on_a_thread(work).ok()
}

/// This thread's effective capabilities.
fn effective() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |own| own.effective)
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

fn cannot_become(caller: &Caller) -> DeployError {
    DeployError::Io {
        doing: "take on the rights of user",
        path: caller.name.clone().into(),
        cause: std::io::Error::last_os_error(),
    }
}
