//! Walks a folder level by level, the folders of one level on all cores: the kernel has to be asked about every single file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, StatxFlags, readlinkat, statx};
use rustix::io::Errno;

use super::{FileJob, Folder, Problems, Scan, ScanDir, ScanEntry, Stamp, cannot_read};
use crate::deploy::cores::on_all_cores;
use crate::deploy::error::DeployError;
use crate::model::Name;
use crate::model::name::NameError;
use crate::model::tree::{DEPTH_MAX, TARGET_MAX};

/// The longest path that one system call can name.
const PATH_MAX: usize = 4095;
/// Fewer folders than these are not worth a thread.
const FOLDERS_MIN: usize = 8;

/// One folder, before those in it are looked into.
struct Listing {
    stamp: Stamp,
    entries: BTreeMap<Name, Found>,
    problems: Vec<(PathBuf, String)>,
}

enum Found {
    File(FileJob),
    Symlink(Box<[u8]>),
    Folder,
}

/// One level of the folder: paths and what is there, in the order of the paths.
type Level =
    std::iter::Zip<std::vec::IntoIter<PathBuf>, std::vec::IntoIter<Result<Listing, Errno>>>;

impl Folder {
    /// Walks the folder. The files come in the order in which a walk by names meets them.
    pub fn scan(&self, problems: &mut Problems) -> Result<Scan, DeployError> {
        if !self.can_be_judged() {
            return Err(DeployError::CannotJudge(self.path.clone()));
        }
        let root = self
            .list(Path::new(""))
            .map_err(|errno| DeployError::io("read", &self.path)(errno.into()))?;
        let (mut paths, mut level) = (vec![PathBuf::new()], vec![Ok(root)]);
        let mut levels = Vec::new();
        while !paths.is_empty() {
            let below = folders(&paths, &level);
            levels.push(paths.into_iter().zip(level));
            level = on_all_cores(&below, FOLDERS_MIN, |path| self.list(path));
            paths = below;
        }
        Ok(Assembly::new(levels, problems).scan())
    }

    fn list(&self, path: &Path) -> Result<Listing, Errno> {
        let fd = self.open_below(path, OFlags::DIRECTORY)?;
        let mut listing = Listing {
            stamp: Stamp::of_open(&fd)?,
            entries: BTreeMap::new(),
            problems: Vec::new(),
        };
        for item in Dir::read_from(&fd)? {
            let item = match item {
                Ok(item) => item,
                Err(errno) => {
                    listing.problem(path.to_owned(), cannot_read(errno));
                    break;
                }
            };
            let name = OsStr::from_bytes(item.file_name().to_bytes());
            let below = || path.join(name);
            match Name::new(name.as_bytes()) {
                Ok(valid) => match found(&fd, name, below()) {
                    Ok(found) => drop(listing.entries.insert(valid, found)),
                    Err(what) => listing.problem(below(), what),
                },
                Err(NameError::Dots) => {}
                Err(error) => listing.problem(below(), error.to_string()),
            }
        }
        Ok(listing)
    }
}

impl Listing {
    fn problem(&mut self, path: PathBuf, what: String) {
        self.problems.push((path, what));
    }
}

/// All folders in these, in their order.
fn folders(paths: &[PathBuf], level: &[Result<Listing, Errno>]) -> Vec<PathBuf> {
    let mut below = Vec::new();
    for (path, listing) in paths.iter().zip(level) {
        let entries = listing.iter().flat_map(|listing| &listing.entries);
        let folders = entries.filter(|(_, found)| matches!(found, Found::Folder));
        below.extend(folders.map(|(name, _)| path.join(OsStr::from_bytes(name.as_bytes()))));
    }
    below
}

/// What a folder has under a name, or why that cannot be deployed.
fn found(dir: &OwnedFd, name: &OsStr, path: PathBuf) -> Result<Found, String> {
    if path.as_os_str().len() > PATH_MAX {
        return Err("its path is longer than the 4095 bytes that a program can open".into());
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statx(dir, name, flags, StatxFlags::BASIC_STATS).map_err(cannot_read)?;
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Ok(Found::File(FileJob {
            path,
            stamp: Stamp::of(&stat),
        })),
        FileType::Directory if path.iter().count() > DEPTH_MAX => Err(too_deep()),
        FileType::Directory => Ok(Found::Folder),
        FileType::Symlink => symlink(dir, name).map(Found::Symlink),
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

/// Puts the levels together, depth first: that way each level's folders come one after another.
struct Assembly<'a> {
    levels: Vec<Level>,
    problems: &'a mut Problems,
    files: Vec<FileJob>,
    stamps: Vec<(PathBuf, Stamp)>,
}

impl<'a> Assembly<'a> {
    fn new(levels: Vec<Level>, problems: &'a mut Problems) -> Self {
        Assembly {
            levels,
            problems,
            files: Vec::new(),
            stamps: Vec::new(),
        }
    }

    fn scan(mut self) -> Scan {
        let root = self.folder(0).unwrap_or_default();
        Scan {
            root,
            bytes: self.files.iter().map(|job| job.stamp.size()).sum(),
            files: self.files,
            stamps: self.stamps,
        }
    }

    /// The next folder of this level; none: it could not be read, and is among the problems.
    fn folder(&mut self, level: usize) -> Option<ScanDir> {
        let (path, listing) = self.levels.get_mut(level)?.next()?;
        let listing = match listing {
            Ok(listing) => listing,
            Err(errno) => {
                self.problems.add(&path, cannot_read(errno));
                return None;
            }
        };
        for (path, what) in listing.problems {
            self.problems.add(&path, what);
        }
        let mode = listing.stamp.permissions();
        self.stamps.push((path, listing.stamp));
        let mut entries = BTreeMap::new();
        for (name, found) in listing.entries {
            let entry = match found {
                Found::File(job) => {
                    self.files.push(job);
                    ScanEntry::File(self.files.len() - 1)
                }
                Found::Symlink(target) => ScanEntry::Symlink(target),
                Found::Folder => match self.folder(level + 1) {
                    Some(dir) => ScanEntry::Dir(dir),
                    None => continue,
                },
            };
            entries.insert(name, entry);
        }
        Some(ScanDir { mode, entries })
    }
}
