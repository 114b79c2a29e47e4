//! Doing something as an ordinary user.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user and group id of `nobody` and `nogroup`.
pub const NOBODY: u32 = 65_534;

/// Runs this on a thread of its own that is `nobody`, without any other group.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    as_user(NOBODY, NOBODY, work)
}

/// Runs this on a thread of its own that is this user, in this group only.
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> T {
    let thread = || {
        let no_groups = std::ptr::null::<libc::gid_t>();
        // The raw calls act on this thread alone; the C library's would change the whole process.
        // SAFETY: no group is read from the null pointer; the other arguments are integers.
        let became = unsafe {
            libc::syscall(libc::SYS_setgroups, 0, no_groups) == 0
                && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
                && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
        };
        assert!(became, "{}", std::io::Error::last_os_error());
        work()
    };
    std::thread::scope(|scope| scope.spawn(thread).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Lets a program run as `nobody`, without any other group.
pub fn nobody(command: &mut Command) -> &mut Command {
    command.uid(NOBODY).gid(NOBODY)
}

/// Lets a program run as this user, in this group only.
pub fn user(command: &mut Command, uid: u32, gid: u32) -> &mut Command {
    command.uid(uid).gid(gid)
}
