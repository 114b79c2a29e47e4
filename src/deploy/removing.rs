//! Removes a folder of any depth: the standard library's way takes a descriptor and a stack frame for each level.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, ResolveFlags, fchmod, fstat, openat2, renameat, unlinkat,
};
use rustix::io::Errno;

/// So many levels are walked down; what lies deeper is first moved up.
const LEVELS: usize = 64;

/// Removes all that is in a folder, as far as the rights of this thread go; symlinks are not followed, and a directory of this
/// user's that is closed to its owner is opened first, as its owner could. The caller vouches that nobody else fills it meanwhile.
///
/// # Errors
/// What is mounted inside belongs to somebody else's filesystem: it is not entered, and named.
pub fn empty_folder(folder: impl AsFd) -> io::Result<()> {
    let mut removal = Removal { moved: 0 };
    let top = open(&folder, ".").or_else(|error| {
        make_accessible(folder.as_fd());
        open(&folder, ".").map_err(|_| error)
    })?;
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), top.as_fd(), 0)?;
        if removal.moved == before {
            return Ok(());
        }
    }
}

struct Removal {
    /// How many folders were moved to the top.
    moved: u64,
}

impl Removal {
    fn empty(&mut self, top: BorrowedFd<'_>, dir: BorrowedFd<'_>, level: usize) -> io::Result<()> {
        make_writable(dir);
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
            if level < LEVELS {
                let below = open(dir, name)
                    .or_else(|error| open_closed(dir, name).map_err(|_| error))
                    .map_err(|error| match error.kind() {
                        // A file that may not be removed.
                        io::ErrorKind::NotADirectory => Errno::PERM.into(),
                        io::ErrorKind::CrossesDevices => mounted_inside(name),
                        _ => error,
                    })?;
                self.empty(top, below.as_fd(), level + 1)?;
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if level == LEVELS => self.move_up(top, dir, name)?,
                answer => answer?,
            }
        }
        Ok(())
    }

    fn move_up(&mut self, top: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            match renameat(dir, name, top, format!(".removed-{}", self.moved)) {
                // A name that is taken.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                answer => return Ok(answer?),
            }
        }
    }
}

fn open(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat2(dir, name, flags, Mode::empty(), INSIDE)?)
}

/// Through no link, and into no other mount.
const INSIDE: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_XDEV);

fn mounted_inside(name: &CStr) -> io::Error {
    let name = name.to_string_lossy();
    let what = format!("something is mounted at '{name}' in it: unmount that first");
    io::Error::new(io::ErrorKind::CrossesDevices, what)
}

/// Opens a directory that its owner has closed, where this thread may open it to the owner again.
fn open_closed(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let closed = openat2(dir, name, flags, Mode::empty(), INSIDE)?;
    make_accessible(closed.as_fd());
    open(&closed, ".")
}

/// Gives the owner all rights on a directory that is open by its path only. Whoever may not is told when it is opened.
fn make_accessible(dir: BorrowedFd<'_>) {
    // The one call that changes a mode through such a descriptor is younger than the oldest Linux this runs on.
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    rustix::fs::chmod(path, Mode::RWXU).ok();
}

/// Names can be removed from a directory only by who may write to it. Whoever may not change that is told at the first name.
fn make_writable(dir: BorrowedFd<'_>) {
    let is_closed = |stat: rustix::fs::Stat| stat.st_mode & 0o700 != 0o700;
    if fstat(dir).is_ok_and(is_closed) {
        fchmod(dir, Mode::RWXU).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::fs;

    #[test]
    fn a_folder_of_any_depth_goes_and_what_a_link_leads_to_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (folder, other) = (temp.path().join("folder"), temp.path().join("other"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("page"), "x").unwrap();
        fs::write(folder.join(".removed-1"), "in the way").unwrap();
        let mut at = open(rustix::fs::CWD, &folder).unwrap();
        for _ in 0..1000 {
            for name in ["d", "empty"] {
                mkdirat(&at, name, Mode::from_bits_retain(0o755)).unwrap();
            }
            rustix::fs::symlinkat(&other, &at, "link").unwrap();
            at = open(&at, "d").unwrap();
        }
        empty_folder(open(rustix::fs::CWD, &folder).unwrap()).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert!(other.join("page").exists());
    }
}
