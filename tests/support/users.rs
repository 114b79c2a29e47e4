//! Doing something as an ordinary user.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user and group id of `nobody` and `nogroup`.
pub const NOBODY: u32 = 65_534;

/// Runs this on a thread of its own that is `nobody`, without any other group.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let thread = || {
        let no_groups = std::ptr::null::<libc::gid_t>();
        // The raw calls act on this thread alone; the C library's would change the whole process.
        // SAFETY: no group is read from the null pointer; the other arguments are integers.
        let became = unsafe {
            libc::syscall(libc::SYS_setgroups, 0, no_groups) == 0
                && libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
                && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
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
