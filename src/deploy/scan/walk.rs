//! Walks a folder level by level, the folders of one level on all cores: the kernel has to be asked about every single file.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, StatxFlags, readlinkat, statx};
use rustix::io::Errno;

use super::listed::Listing;
use super::{CHANGED, Folder, Problems, Scan, Stamp, cannot_read};
use crate::deploy::cores::on_all_cores;
use crate::deploy::error::DeployError;
use crate::model::Name;
use crate::model::name::NameError;
use crate::model::tree::{DEPTH_MAX, TARGET_MAX};

/// The longest path that one system call can name.
const PATH_MAX: usize = 4095;
/// Fewer folders than these are not worth a thread.
const FOLDERS_MIN: usize = 8;

/// One folder, and what cannot be deployed in it.
struct Listed {
    listing: Listing,
    problems: Vec<(PathBuf, String)>,
}

enum Found {
    File(Stamp),
    Symlink(Box<[u8]>),
    Folder,
}

impl Folder {
    /// Walks the folder.
    pub fn scan(&self, problems: &mut Problems) -> Result<Scan, DeployError> {
        if !self.can_be_judged() {
            return Err(DeployError::CannotJudge(self.path.clone()));
        }
        let root = self
            .list(Path::new(""))
            .map_err(|errno| DeployError::io("read", &self.path)(errno.into()))?;
        let mut scan = Scan::new();
        let (mut level, mut listed) = (vec![(0, PathBuf::new())], vec![Ok(root)]);
        while !level.is_empty() {
            let mut below = Vec::new();
            for ((dir, path), listed) in level.into_iter().zip(listed) {
                match listed {
                    Ok(listed) => {
                        for (path, what) in listed.problems {
                            problems.add(&path, what);
                        }
                        below.extend(scan.add(dir, listed.listing));
                    }
                    Err(errno) => problems.add(&path, cannot_read(errno)),
                }
            }
            level = below
                .into_iter()
                .map(|dir| (dir, scan.dir_path(dir)))
                .collect();
            listed = on_all_cores(&level, FOLDERS_MIN, |(_, path)| self.list(path));
        }
        Ok(scan)
    }

    fn list(&self, path: &Path) -> Result<Listed, Errno> {
        let fd = self.open_below(path, OFlags::DIRECTORY)?;
        let mut listed = Listed {
            listing: Listing::new(Stamp::of_open(&fd)?),
            problems: Vec::new(),
        };
        let at = At {
            fd: &fd,
            path_len: path.as_os_str().len(),
            depth: path.iter().count(),
        };
        for item in Dir::read_from(&fd)? {
            let item = match item {
                Ok(item) => item,
                Err(errno) => {
                    listed.problem(path.to_owned(), cannot_read(errno));
                    break;
                }
            };
            let bytes = item.file_name().to_bytes();
            let name = OsStr::from_bytes(bytes);
            match Name::check(bytes) {
                Ok(()) => match at.find(name) {
                    Ok(found) => {
                        if !listed.add(bytes, found) {
                            let what = "its folder has too many names".into();
                            listed.problem(path.join(name), what);
                        }
                    }
                    Err(what) => listed.problem(path.join(name), what),
                },
                Err(NameError::Dots) => {}
                Err(error) => listed.problem(path.join(name), error.to_string()),
            }
        }
        for name in listed.listing.sort() {
            listed.problem(path.join(name), CHANGED.into());
        }
        Ok(listed)
    }
}

impl Listed {
    fn add(&mut self, name: &[u8], found: Found) -> bool {
        match found {
            Found::File(stamp) => self.listing.add_file(name, &stamp),
            Found::Symlink(target) => self.listing.add_link(name, target),
            Found::Folder => self.listing.add_dir(name),
        }
    }

    fn problem(&mut self, path: PathBuf, what: String) {
        self.problems.push((path, what));
    }
}

/// An open folder.
struct At<'a> {
    fd: &'a OwnedFd,
    /// Bytes of its path.
    path_len: usize,
    /// How many folders it lies in.
    depth: usize,
}

impl At<'_> {
    /// What the folder has under a name, or why that cannot be deployed.
    fn find(&self, name: &OsStr) -> Result<Found, String> {
        let slash = usize::from(self.path_len > 0);
        if self.path_len + slash + name.len() > PATH_MAX {
            return Err("its path is longer than the 4095 bytes that a program can open".into());
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = statx(self.fd, name, flags, StatxFlags::BASIC_STATS).map_err(cannot_read)?;
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => Ok(Found::File(Stamp::of(&stat))),
            FileType::Directory if self.depth + 1 > DEPTH_MAX => Err(too_deep()),
            FileType::Directory => Ok(Found::Folder),
            FileType::Symlink => symlink(self.fd, name).map(Found::Symlink),
            kind @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => Err(format!(
                "it is a {}: remove it, only files, folders and symlinks can be deployed",
                word(kind)
            )),
        }
    }
}

fn symlink(dir: &OwnedFd, name: &OsStr) -> Result<Box<[u8]>, String> {
    let target = readlinkat(dir, name, Vec::new()).map_err(cannot_read)?;
    match target.as_bytes() {
        target if (1..=TARGET_MAX).contains(&target.len()) => Ok(target.into()),
        _ => Err("it is a symlink with an empty or too long target".into()),
    }
}

fn too_deep() -> String {
    format!(
        "it lies within {DEPTH_MAX} other folders, and no more are taken: a link or a script that copies into itself may have made them"
    )
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown => {
            "file of an unknown kind"
        }
    }
}
