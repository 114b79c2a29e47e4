//! Opening the store's own files so that nobody can put another file in their place.
//!
//! Root may work on a store that belongs to somebody else. The owner can put anything there, such as a link to a file of root's under the name
//! of the lock: that must not be followed, and what root makes there must be the owner's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{
    CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat, fchown, fstat, openat, openat2,
};
use rustix::io::Errno;

use super::STAGING;

/// Folders of a store: those that are there must be plain folders of its owner's before another user, root, works in it.
const FOLDERS: [&str; 9] = [
    "packs",
    "deploys",
    "index",
    "cache",
    "damaged",
    "hooks",
    STAGING,
    "staging/.sealing",
    ".",
];

/// Whose files may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Files that only a deployfs writes.
    Owners,
    /// Files that people write: root's too, and through links in one's own store.
    Peoples,
}

/// The store's folder, and whether it is this process's own.
struct Root {
    folder: OwnedFd,
    owner: u32,
    group: u32,
    is_own: bool,
}

impl Root {
    fn open(store: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, store, flags, Mode::empty())?;
        let stat = fstat(&folder)?;
        Ok(Root {
            folder,
            owner: stat.st_uid,
            group: stat.st_gid,
            is_own: stat.st_uid == rustix::process::geteuid().as_raw(),
        })
    }

    /// In one's own store a folder may be a link, to another disk for example.
    fn resolve(&self) -> ResolveFlags {
        match self.is_own {
            true => ResolveFlags::NO_MAGICLINKS,
            false => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        }
    }

    fn check(&self, stat: &Stat, whose: Whose) -> io::Result<()> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file: take it away"));
        }
        let is_fine = match (self.is_own, whose) {
            (true, Whose::Peoples) => true,
            // A second name may be that of a file elsewhere.
            (true, Whose::Owners) => stat.st_uid == self.owner || stat.st_nlink == 1,
            (false, Whose::Peoples) => [self.owner, 0].contains(&stat.st_uid),
            (false, Whose::Owners) => stat.st_uid == self.owner,
        };
        match is_fine {
            true => Ok(()),
            false => Err(io::Error::other(format!(
                "it belongs to user {}, the store to user {1}: chown {1} it if it is the store's, else take it away",
                stat.st_uid, self.owner
            ))),
        }
    }
}

/// Opens a file of the store, `path` below its folder, and makes it where `create` says so and it is not there.
pub fn open(
    store: &Path,
    path: &str,
    flags: OFlags,
    create: bool,
    whose: Whose,
) -> io::Result<File> {
    let root = Root::open(store)?;
    let mut flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !(root.is_own && whose == Whose::Peoples));
    loop {
        match openat2(&root.folder, path, flags, Mode::empty(), root.resolve()) {
            Ok(file) => {
                root.check(&fstat(&file)?, whose)?;
                return Ok(file.into());
            }
            Err(Errno::NOENT) if create => {}
            Err(errno) => return Err(refused(errno)),
        }
        let new = flags | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(0o600 as RawMode);
        match openat2(&root.folder, path, new, mode, root.resolve()) {
            Ok(file) => {
                if !root.is_own {
                    give(&root, &file)?;
                }
                return Ok(file.into());
            }
            // Somebody was faster.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// The folder `path` of the store, for calls relative to it.
pub fn folder(store: &Path, path: &str) -> io::Result<OwnedFd> {
    let root = Root::open(store)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(&root.folder, path, flags, Mode::empty(), root.resolve()).map_err(refused)
}

/// Fails where another user's store has something else in a folder's place. Of one's own store nothing is asked.
pub fn check_folders(store: &Path) -> io::Result<()> {
    let root = Root::open(store)?;
    if root.is_own {
        return Ok(());
    }
    for name in FOLDERS {
        let wrong = |what: &str| Err(io::Error::other(format!("'{name}' {what}")));
        match fs::symlink_metadata(store.join(name)) {
            Ok(meta) if !meta.is_dir() => return wrong("is no folder: take it away"),
            Ok(meta) if meta.uid() != root.owner => {
                return wrong(&format!(
                    "belongs to user {}, the store to user {1}: chown -R {1} it if it is the store's",
                    meta.uid(),
                    root.owner
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn give(root: &Root, file: impl AsFd) -> io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(root.owner);
    let group = rustix::fs::Gid::from_raw(root.group);
    Ok(fchown(file, Some(owner), Some(group))?)
}

fn refused(errno: Errno) -> io::Error {
    match errno {
        Errno::LOOP | Errno::XDEV => io::Error::other(
            "it is a link, or lies behind one: put the file itself there, or work on the store as its owner",
        ),
        errno => errno.into(),
    }
}
