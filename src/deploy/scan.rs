//! Looks at a folder that is to be sealed: what is in it, and a stamp of everything, to find changes made meanwhile.
//!
//! Who may write the folder must not be able to make us read elsewhere: everything is opened beneath the folder's descriptor,
//! through no link of any kind and into no other filesystem, with the rights of the one who asked, and what was opened is
//! checked, not what a name said before.

mod listed;
mod walk;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx};
use rustix::io::Errno;

use super::cores::on_all_cores;
use super::credentials::Rights;
use super::error::{DeployError, Problem};
use super::judgement::{self, LIST, READ, check};
use super::superblock::Superblock;
use crate::sync::thread;

pub use listed::{FileJob, Item, Scan};

/// Fewer files than these are not worth a thread.
const FILES_MIN: usize = 256;
/// How often an open is repeated that the kernel asks to repeat; the second half of them a millisecond apart.
const AGAIN_MAX: usize = 1000;
/// How many problems are named.
const NAMED: usize = 20;

/// What tells that a file or directory has not been touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    dev: (u32, u32),
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    mode: u16,
}

/// Which file, whatever it is called: device and inode.
pub type FileId = ((u32, u32), u64);

/// An open folder to be read. The one who reads has taken on its rights.
pub struct Folder {
    /// For messages.
    pub path: PathBuf,
    /// Whose rights it is read with.
    pub rights: Rights,
    fd: OwnedFd,
}

/// Problems found, the first of them named.
#[derive(Debug, Default)]
pub struct Problems {
    named: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// Adds one.
    pub fn add(&mut self, path: &Path, what: impl Into<String>) {
        if self.named.len() < NAMED {
            self.named.push(Problem {
                path: path.to_owned(),
                what: what.into(),
            });
        } else {
            self.more += 1;
        }
    }

    /// An error if there are any.
    pub fn refuse(mut self, folder: &Path) -> Result<(), DeployError> {
        if self.named.is_empty() {
            return Ok(());
        }
        self.named.sort_by(|a, b| a.path.cmp(&b.path));
        Err(DeployError::Refused {
            folder: folder.to_owned(),
            problems: self.named,
            more: self.more,
        })
    }
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Stamp {
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            mode: stat.stx_mode,
        }
    }

    /// How many numbers make a stamp.
    pub const NUMBERS: usize = 9;

    /// The stamp as numbers; times before 1970 wrap, and come back.
    pub fn numbers(&self) -> [u64; Self::NUMBERS] {
        [
            self.dev.0.into(),
            self.dev.1.into(),
            self.ino,
            self.size,
            self.mtime.0 as u64,
            self.mtime.1.into(),
            self.ctime.0 as u64,
            self.ctime.1.into(),
            self.mode.into(),
        ]
    }

    /// The stamp of these numbers, if they are one's.
    pub fn from_numbers(numbers: [u64; Self::NUMBERS]) -> Option<Self> {
        let [
            major,
            minor,
            ino,
            size,
            mtime,
            mtime_part,
            ctime,
            ctime_part,
            mode,
        ] = numbers;
        Some(Stamp {
            dev: (major.try_into().ok()?, minor.try_into().ok()?),
            ino,
            size,
            mtime: (mtime as i64, mtime_part.try_into().ok()?),
            ctime: (ctime as i64, ctime_part.try_into().ok()?),
            mode: mode.try_into().ok()?,
        })
    }

    /// Which file it is of.
    pub fn file(&self) -> FileId {
        (self.dev, self.ino)
    }

    /// The last change of anything of the file.
    pub fn changed_at(&self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.ctime.0).ok()?;
        UNIX_EPOCH.checked_add(Duration::new(seconds, self.ctime.1))
    }

    /// False where the filesystem may keep whole seconds only.
    pub fn has_fractions(&self) -> bool {
        self.ctime.1 != 0
    }

    /// Permission bits.
    pub fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The stamp of an open file.
    pub fn of_open(fd: impl AsFd) -> Result<Self, Errno> {
        let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Stamp::of(&stat))
    }
}

impl Folder {
    /// An open folder, named `path` in messages.
    pub fn new(path: PathBuf, rights: Rights, fd: OwnedFd) -> Self {
        Folder { path, rights, fd }
    }

    /// The mounted superblock that it lies on, where its files' times can be trusted.
    pub fn superblock(&self) -> Option<Superblock> {
        Superblock::of(&self.fd)
    }

    /// False where mode bits alone do not say who may read, and they have to.
    pub(super) fn can_be_judged(&self) -> bool {
        !matches!(self.rights, Rights::Judged(_)) || judgement::is_possible_on(&self.fd)
    }

    /// Opens something below for reading, never through a link or into another filesystem.
    pub fn open_below(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let wanted = match flags.contains(OFlags::DIRECTORY) {
            true => LIST,
            false => READ,
        };
        let fd = self.open_beneath(path, flags)?;
        match &self.rights {
            Rights::Judged(caller) => check(caller, &fd, wanted).map(|()| fd),
            Rights::Own | Rights::Caller(_) => Ok(fd),
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        for attempt in 0.. {
            match openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                Err(Errno::INTR) => {}
                // A rename elsewhere on the system disturbed the walk. Somebody's write lease answers the same, for longer.
                Err(Errno::AGAIN) if attempt < AGAIN_MAX => {
                    if attempt > AGAIN_MAX / 2 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                answer => return answer,
            }
        }
        unreachable!("the attempts end in an answer")
    }

    /// Adds every directory and file that is not any more as the walk saw it. Each is asked for anew.
    pub fn find_changes(&self, scan: &Scan, problems: &mut Problems) {
        let (dirs, count) = (scan.dirs(), scan.dirs() + scan.files());
        let starts: Vec<usize> = (0..count).step_by(FILES_MIN / 2).collect();
        let changed_from = |&start: &usize| {
            let numbers = start..count.min(start + FILES_MIN / 2);
            let changed = numbers.filter_map(|number| {
                let (path, seen) = match number.checked_sub(dirs) {
                    Some(file) => (scan.path(file), Some(scan.stamp(file))),
                    None => (scan.dir_path(number), scan.dir_stamp(number)),
                };
                (self.stamp(&path).ok() != seen || seen.is_none()).then_some(path)
            });
            changed.collect::<Vec<PathBuf>>()
        };
        for path in on_all_cores(&starts, 2, changed_from).into_iter().flatten() {
            problems.add(&path, CHANGED);
        }
    }

    fn stamp(&self, path: &Path) -> Result<Stamp, Errno> {
        let (path, flags) = if path.as_os_str().is_empty() {
            (Path::new(""), AtFlags::EMPTY_PATH)
        } else {
            (path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
        };
        statx(&self.fd, path, flags, StatxFlags::BASIC_STATS).map(|stat| Stamp::of(&stat))
    }
}

/// What is said of something that moved under the seal.
pub const CHANGED: &str = "it changed while it was being sealed: wait until nothing writes there any more, then seal again";

/// What is said of something that cannot be read.
pub fn cannot_read(errno: Errno) -> String {
    match errno {
        Errno::ACCESS | Errno::PERM => {
            "it cannot be read: permission denied; make it readable for whoever seals".into()
        }
        Errno::XDEV => "it is on another filesystem: copy it into the folder".into(),
        Errno::LOOP | Errno::NOENT => CHANGED.into(),
        other => format!("it cannot be read: {}", std::io::Error::from(other)),
    }
}
