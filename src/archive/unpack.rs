//! Unpacks a tar stream into a new folder, which is filled by nobody else meanwhile.
//!
//! The folder itself tells what has come already: files are made only where nothing is, and everything is reached beneath the
//! folder and through no symlink. So no name leads out, none comes twice, and no table of names is kept in memory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fchmod, linkat, mkdirat, openat, openat2,
    statat, symlinkat,
};
use rustix::io::Errno;

use super::ArchiveError;
use super::tar::{Archive, Entry, Kind};
use crate::model::Name;
use crate::model::report::Progress;
use crate::model::tree::DEPTH_MAX;

/// The longest path that one system call can name.
const PATH_MAX: usize = 4095;
const BUFFER: usize = 256 << 10;
/// Progress is told after so many bytes or entries.
const TELL_BYTES: u64 = 4 << 20;
const TELL_ENTRIES: u64 = 256;

/// What an archive may hold at the most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, folders (those that are only in other names too) and links.
    pub entries: u64,
    /// Bytes of all files, each name of a hard link counted.
    pub bytes: u64,
}

/// Who listens, and who may stop it.
pub struct Watch<'a> {
    /// Told now and then.
    pub progress: &'a dyn Fn(Progress),
    /// Set by the one who asked.
    pub cancel: &'a AtomicBool,
}

/// Unpacks a plain tar stream into `folder`, which is empty. On an error the folder is to be thrown away.
pub fn unpack(
    from: impl Read,
    folder: &Path,
    limits: &Limits,
    watch: &Watch<'_>,
) -> Result<(), ArchiveError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|errno| write_error(folder, errno))?;
    let mut unpacker = Unpacker {
        folder,
        root,
        last: None,
        limits,
        watch,
        told: Progress::default(),
        done: Progress::default(),
        buffer: vec![0; BUFFER],
    };
    let mut archive = Archive::new(from);
    while let Some(entry) = archive.next()? {
        unpacker.entry(&entry, &mut archive)?;
    }
    (watch.progress)(unpacker.done);
    Ok(())
}

struct Unpacker<'a> {
    folder: &'a Path,
    root: OwnedFd,
    /// The directory that the last entry is in: the next is likely there too.
    last: Option<(Vec<u8>, OwnedFd)>,
    limits: &'a Limits,
    watch: &'a Watch<'a>,
    told: Progress,
    done: Progress,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), ArchiveError> {
        let path = &entry.path;
        // The folder itself: Python's arcname='' makes it "/", others "" or ".".
        if entry.kind == Kind::Dir && path.iter().all(|&byte| byte == b'/') {
            return Ok(());
        }
        let names = names(path, path)?;
        let Some((name, parents)) = names.split_last() else {
            return match entry.kind {
                Kind::Dir => Ok(()),
                Kind::File(_) | Kind::Symlink(_) | Kind::HardLink(_) => Err(ArchiveError::entry(
                    path,
                    "it stands where the folder itself is",
                )),
            };
        };
        self.count(path, 0)?;
        self.enter(parents, path)?;
        match &entry.kind {
            Kind::Dir => self.dir(name, entry.mode, path),
            Kind::Symlink(target) => self.symlink(name, target, path),
            Kind::HardLink(target) => self.hard_link(name, target, path),
            Kind::File(size) => self.file(name, *size, entry, archive),
        }
    }

    /// Counts an entry, before anything of it is written.
    fn count(&mut self, path: &[u8], bytes: u64) -> Result<(), ArchiveError> {
        if self.watch.cancel.load(Ordering::Relaxed) {
            return Err(ArchiveError::Cancelled);
        }
        let Limits {
            entries: most,
            bytes: most_bytes,
        } = *self.limits;
        if bytes == 0 {
            self.done.files += 1;
        }
        if self.done.files > most {
            return Err(ArchiveError::entry(
                path,
                format!(
                    "with it the archive has more than {most} entries: --max-entries allows more"
                ),
            ));
        }
        // What a file says of its size counts before its first byte is taken.
        self.done.bytes_total = self.done.bytes_total.saturating_add(bytes);
        if self.done.bytes_total > most_bytes {
            return Err(ArchiveError::entry(
                path,
                format!(
                    "with it the archive unpacks to more than {most_bytes} bytes: --max-bytes allows more"
                ),
            ));
        }
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        if self.done.bytes >= self.told.bytes + TELL_BYTES
            || self.done.files >= self.told.files + TELL_ENTRIES
        {
            self.told = self.done;
            // How much there is to come nobody knows.
            (self.watch.progress)(Progress {
                bytes_total: 0,
                ..self.done
            });
        }
    }

    /// Goes to the directory of these names; those that no entry made yet are made.
    fn enter(&mut self, parents: &[Name], path: &[u8]) -> Result<(), ArchiveError> {
        let wanted = joined(parents);
        if self.last.as_ref().is_some_and(|(at, _)| *at == wanted) {
            return Ok(());
        }
        let fd = match self.open_dir(&wanted) {
            Err(Errno::NOENT) => {
                for depth in 1..=parents.len() {
                    self.make_parent(&parents[..depth], path)?;
                }
                self.open_dir(&wanted)
            }
            opened => opened,
        };
        let fd = fd.map_err(|errno| self.no_dir(path, &wanted, errno))?;
        self.last = Some((wanted, fd));
        Ok(())
    }

    fn make_parent(&mut self, names: &[Name], path: &[u8]) -> Result<(), ArchiveError> {
        let Some((name, above)) = names.split_last() else {
            return Ok(());
        };
        let above = joined(above);
        let made = self
            .open_dir(&above)
            .and_then(|dir| mkdirat(&dir, OsStr::from_bytes(name.as_bytes()), Mode::from(0o755)));
        match made {
            Ok(()) => self.count(path, 0),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.no_dir(path, &above, errno)),
        }
    }

    /// Opens a directory below the folder, through no symlink.
    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path: &OsStr = match path {
            [] => OsStr::new("."),
            path => OsStr::from_bytes(path),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere on the system disturbed the walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
    }

    fn no_dir(&self, path: &[u8], dir: &[u8], errno: Errno) -> ArchiveError {
        match errno {
            Errno::LOOP | Errno::NOTDIR => ArchiveError::entry(
                path,
                format!(
                    "it lies below '{}', which is a file or a link in this archive",
                    String::from_utf8_lossy(dir)
                ),
            ),
            errno => self.failed(dir, errno),
        }
    }

    fn here(&self) -> &OwnedFd {
        self.last.as_ref().map_or(&self.root, |(_, fd)| fd)
    }

    fn dir(&mut self, name: &Name, mode: u32, path: &[u8]) -> Result<(), ArchiveError> {
        if mode & 0o500 != 0o500 {
            return Err(ArchiveError::entry(
                path,
                format!(
                    "its mode {:04o} keeps out its own owner: chmod u+rx",
                    mode & 0o7777
                ),
            ));
        }
        let name = OsStr::from_bytes(name.as_bytes());
        match mkdirat(self.here(), name, Mode::from(0o700)) {
            // It was made for what is in it, or comes a second time.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed(path, errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match openat(self.here(), name, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(twice(path)),
            Err(errno) => return Err(self.failed(path, errno)),
        };
        // It stays writable for its owner, who is to fill and remove it; a deploy has no write bits anyway.
        fchmod(&dir, Mode::from(mode & 0o777 | 0o200)).map_err(|errno| self.failed(path, errno))
    }

    fn symlink(&mut self, name: &Name, target: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
        let target = OsStr::from_bytes(target);
        match symlinkat(target, self.here(), OsStr::from_bytes(name.as_bytes())) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(twice(path)),
            Err(Errno::NOENT | Errno::INVAL | Errno::NAMETOOLONG) => Err(ArchiveError::entry(
                path,
                "it is a symlink with an empty, too long or otherwise impossible target",
            )),
            Err(errno) => Err(self.failed(path, errno)),
        }
    }

    fn hard_link(&mut self, name: &Name, target: &[u8], path: &[u8]) -> Result<(), ArchiveError> {
        let shown = String::from_utf8_lossy(target).into_owned();
        let nothing = || {
            ArchiveError::entry(
                path,
                format!(
                    "it is a hard link to '{shown}', which is no file or symlink earlier in this archive"
                ),
            )
        };
        let names = names(target, path).map_err(|_| nothing())?;
        let (last, parents) = names.split_last().ok_or_else(nothing)?;
        let from = self.open_dir(&joined(parents)).map_err(|_| nothing())?;
        let last = OsStr::from_bytes(last.as_bytes());
        let stat = statat(&from, last, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| nothing())?;
        let size = match FileType::from_raw_mode(stat.st_mode) {
            // Each name is read when it is sealed.
            FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
            // A symlink with two names; it is not followed.
            FileType::Symlink => 0,
            _ => return Err(nothing()),
        };
        if size > 0 {
            self.count(path, size)?;
        }
        let name = OsStr::from_bytes(name.as_bytes());
        match linkat(&from, last, self.here(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            // A file that was given to tar twice is a link to itself.
            Err(Errno::EXIST) if self.is_same(name, &stat) => Ok(()),
            Err(Errno::EXIST) => Err(twice(path)),
            Err(errno) => Err(self.failed(path, errno)),
        }
    }

    /// True where this name in the current directory is that very file.
    fn is_same(&self, name: &OsStr, stat: &rustix::fs::Stat) -> bool {
        statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino))
    }

    fn file<R: Read>(
        &mut self,
        name: &Name,
        size: u64,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), ArchiveError> {
        let path = &entry.path;
        if size > 0 {
            self.count(path, size)?;
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = OsStr::from_bytes(name.as_bytes());
        let mut file = match openat(self.here(), name, flags, Mode::from(0o600)) {
            Ok(fd) => File::from(fd),
            Err(Errno::EXIST) => return Err(twice(path)),
            Err(errno) => return Err(self.failed(path, errno)),
        };
        loop {
            if self.watch.cancel.load(Ordering::Relaxed) {
                return Err(ArchiveError::Cancelled);
            }
            let count = archive
                .read(&mut self.buffer)
                .map_err(|error| match error {
                    ArchiveError::Truncated => {
                        ArchiveError::entry(path, format!("in the middle of it, {error}"))
                    }
                    other => other,
                })?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count])
                .map_err(|cause| ArchiveError::Write {
                    path: self.shown(path),
                    cause,
                })?;
            self.done.bytes += count as u64;
            self.tell();
        }
        fchmod(&file, Mode::from(entry.mode & 0o777)).map_err(|errno| self.failed(path, errno))
    }

    fn failed(&self, path: &[u8], errno: Errno) -> ArchiveError {
        write_error(&self.shown(path), errno)
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.folder.join(OsStr::from_bytes(path))
    }
}

/// The elements of a name in the archive, if it leads to something below the folder.
fn names(name: &[u8], entry: &[u8]) -> Result<Vec<Name>, ArchiveError> {
    let refused = |what: &str| Err(ArchiveError::entry(entry, what));
    if name.is_empty() {
        return refused("an entry has no name");
    }
    if name.starts_with(b"/") {
        return refused(
            "its name is absolute: make the archive from within the folder (tar -C FOLDER .)",
        );
    }
    if name.len() > PATH_MAX {
        return refused("its path is longer than the 4095 bytes that a program can open");
    }
    let mut names = Vec::new();
    for element in name.split(|&byte| byte == b'/') {
        match element {
            b"" | b"." => {}
            b".." => return refused("its name has '..' in it, which may lead out of the site"),
            element => match Name::new(element) {
                Ok(name) => names.push(name),
                Err(error) => return refused(&error.to_string()),
            },
        }
    }
    // The last one may be a file's.
    if names.len() > DEPTH_MAX + 1 {
        return refused(&format!(
            "it lies within more than {DEPTH_MAX} folders, and no more are taken"
        ));
    }
    Ok(names)
}

fn joined(names: &[Name]) -> Vec<u8> {
    let names: Vec<&[u8]> = names.iter().map(Name::as_bytes).collect();
    names.join(&b'/')
}

fn twice(path: &[u8]) -> ArchiveError {
    ArchiveError::entry(
        path,
        "its name comes twice: which of the two is meant cannot be known, so make the archive anew",
    )
}

fn write_error(path: &Path, errno: Errno) -> ArchiveError {
    ArchiveError::Write {
        path: path.to_owned(),
        cause: errno.into(),
    }
}
