//! Removes a folder of any depth: the standard library's way takes a descriptor and a stack frame for each level.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// So many levels are walked down; what lies deeper is first moved up.
const LEVELS: usize = 64;

/// Removes a folder and all that is in it; symlinks are not followed. The caller vouches that nobody else fills it meanwhile.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    let mut removal = Removal { moved: 0 };
    let top = open(rustix::fs::CWD, path)?;
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), top.as_fd(), 0)?;
        if removal.moved == before {
            break;
        }
    }
    std::fs::remove_dir(path)
}

struct Removal {
    /// How many folders were moved to the top.
    moved: u64,
}

impl Removal {
    fn empty(&mut self, top: BorrowedFd<'_>, dir: BorrowedFd<'_>, level: usize) -> io::Result<()> {
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
                let below = open(dir, name)?;
                self.empty(top, below.as_fd(), level + 1)?;
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if level == LEVELS => self.move_up(top, dir, name)?,
                answer => answer?,
            }
        }
        Ok(())
    }

    fn move_up(
        &mut self,
        top: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &std::ffi::CStr,
    ) -> io::Result<()> {
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

fn open(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
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
        remove_folder(&folder).unwrap();
        assert!(!folder.exists() && other.join("page").exists());
        assert!(remove_folder(&folder).is_err());
    }
}
