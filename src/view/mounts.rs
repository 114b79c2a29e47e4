//! The kernel's mount table: which paths are mounts of ours, which of them are dead, and taking one off.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// The filesystem type that the mount table shows for our mounts.
pub const FS_TYPE: &str = "fuse.deployfs";
/// How our source names start; the path of the store follows.
pub const SOURCE_PREFIX: &str = "deployfs:";

/// How long a daemon may take to answer: a dead one's mount answers at once, a stopped one's not at all.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A mount of deployfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The store it shows, as its source or its link to staging names it.
    pub store: PathBuf,
    /// Its daemon is gone.
    pub dead: bool,
    /// What of the filesystem is mounted there: `/`, or a path in it for a bind.
    pub root: PathBuf,
}

impl MountInfo {
    /// True if `path` is where it is mounted, and not a path in it.
    pub fn is_at(&self, path: &Path) -> bool {
        resolve(path) == self.mountpoint
    }
}

/// One line of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The filesystem's device number, as `0:50`: the same wherever it is mounted.
    pub device: String,
    /// What of the filesystem is mounted: `/`, or a path in it where it is a bind.
    pub root: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// `fuse.deployfs` for ours.
    pub fs_type: String,
    /// `deployfs:STORE`, or a name of its own.
    pub source: OsString,
    /// Of the filesystem, not of this mount of it.
    pub super_options: String,
}

impl Line {
    /// None if it is not a line of mountinfo (see proc_pid_mountinfo(5)).
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
        let root = OsString::from_vec(unescape(fields.next()?)).into();
        let mountpoint = unescape(fields.next()?);
        fields.find(|field| *field == b"-")?;
        let fs_type = String::from_utf8_lossy(fields.next()?).into_owned();
        let source = OsString::from_vec(unescape(fields.next()?));
        let super_options = String::from_utf8_lossy(fields.next()?).into_owned();
        Some(Line {
            device,
            root,
            mountpoint: OsString::from_vec(mountpoint).into(),
            fs_type,
            source,
            super_options,
        })
    }

    /// The user who mounted a FUSE filesystem, and whose daemon answers for it.
    pub fn user(&self) -> Option<u32> {
        let mut options = self.super_options.split(',');
        options.find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }

    /// True for a mount of deployfs, or of a user who calls a mount so.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// The store it shows; none: its source has a name of its own (--fsname).
    pub fn named_store(&self) -> Option<PathBuf> {
        let source = self.source.as_bytes();
        let store = source.strip_prefix(SOURCE_PREFIX.as_bytes())?;
        Some(OsStr::from_bytes(store).into())
    }

    /// False if its source names another store.
    pub fn may_show(&self, store: &Path) -> bool {
        self.named_store().is_none_or(|named| named == store)
    }

    /// The mount, its store and whether it is dead, looked at in this process's mount namespace.
    pub fn info(self) -> MountInfo {
        MountInfo {
            store: self
                .named_store()
                .or_else(|| store_of_link(&self.mountpoint))
                .unwrap_or_else(|| self.source.clone().into()),
            dead: is_dead(&self.mountpoint),
            mountpoint: self.mountpoint,
            root: self.root,
        }
    }
}

/// The store that a mount's link to its staging folders leads to.
fn store_of_link(mountpoint: &Path) -> Option<PathBuf> {
    let link = mountpoint.join("staging");
    let staging = in_time(move || std::fs::read_link(link).ok())??;
    Some(staging.parent()?.to_owned())
}

/// Only statfs tells: stat and warm reads still succeed on a mount whose daemon was killed.
pub fn is_dead(mountpoint: &Path) -> bool {
    let mountpoint = mountpoint.to_owned();
    let ask = move || rustix::fs::statfs(mountpoint).is_err_and(|error| error == Errno::NOTCONN);
    in_time(ask).unwrap_or(false)
}

/// Asks a mount something; none: its daemon does not answer. The thread that waits for it ends with this process.
fn in_time<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = bounded(1);
    std::thread::spawn(move || tell.send(ask()).ok());
    told.recv_timeout(ANSWER_WAIT).ok()
}

/// Takes back the octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The lines of a mountinfo file.
pub fn parse(table: &[u8]) -> Vec<Line> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(Line::parse)
        .collect()
}

fn table() -> Vec<Line> {
    std::fs::read("/proc/self/mountinfo").map_or_else(|_| Vec::new(), |table| parse(&table))
}

/// The topmost mount at exactly this path.
pub(super) fn mount_at(path: &Path) -> Option<Line> {
    table().into_iter().rfind(|line| line.mountpoint == path)
}

/// A filesystem's device number as a mount table has it.
pub fn device_name(device: u64) -> String {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("{major}:{minor}")
}

/// Whether the machine's first process has this filesystem in its mount table; none where that cannot be read.
pub(super) fn is_seen_by_first_process(device: u64) -> Option<bool> {
    let table = std::fs::read("/proc/1/mountinfo").ok()?;
    let device = device_name(device);
    Some(parse(&table).iter().any(|line| line.device == device))
}

/// The device number of what is mounted at this path, as a mount table has it.
pub fn device_of_mount(path: &Path) -> Option<String> {
    mount_at(path).map(|line| line.device)
}

/// Where a filesystem is mounted, wherever it was moved to and whatever covers it.
pub(super) fn mounts_of(device: u64) -> Vec<Line> {
    let device = device_name(device);
    let lines = table().into_iter();
    lines
        .filter(|line| line.is_ours() && line.device == device)
        .collect()
}

/// The mount that a path is in: the longest mount point above it, the topmost of those on one path.
fn mount_above(table: Vec<Line>, path: &Path) -> Option<Line> {
    table
        .into_iter()
        .filter(|line| path.starts_with(&line.mountpoint))
        .max_by_key(|line| line.mountpoint.as_os_str().len())
}

/// The absolute path; on a dead mount, where nothing can be resolved, as far as it goes.
pub(super) fn resolve(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path,
    }
}

/// Which deployfs mount a path is in, if any.
pub fn find_mount_of(path: &Path) -> Option<MountInfo> {
    mount_above(table(), &resolve(path))
        .filter(Line::is_ours)
        .map(Line::info)
}

/// A mount of this store whose daemon answers.
pub fn living_mount_of(store: &Path) -> Option<PathBuf> {
    let whole = table()
        .into_iter()
        .filter(|line| line.is_ours() && line.root == Path::new("/"));
    let mut mounts = whole.map(Line::info);
    let living = mounts.find(|mount| !mount.dead && mount.store == store)?;
    Some(living.mountpoint)
}

/// Detaches the deployfs mount at `path` at once; what is open in it reads on while its daemon lives.
/// Errors: there is no such mount, or the caller may not unmount it.
pub fn unmount_path(path: &Path) -> io::Result<()> {
    let path = resolve(path);
    match mount_at(&path) {
        Some(line) if line.is_ours() => detach(&path),
        Some(line) => Err(io::Error::other(format!(
            "'{}' is a mount of type {}, not of deployfs: it is left alone",
            path.display(),
            line.fs_type
        ))),
        None => Err(io::Error::other(format!(
            "'{}' is not a mount point",
            path.display()
        ))),
    }
}

/// Ends the connection of every mount of this store to its daemon, as the daemon's own end does: whoever waits for an answer gets an
/// error. For a daemon that is dead and has not ended. By its device alone a mount with a name of its own is known.
pub fn abort_mounts_of(store: &Path, device: Option<u64>) {
    let device = device.map(device_name);
    let is_this = |other: &Path| match (store.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    for line in table().into_iter().filter(Line::is_ours) {
        let is_meant = match line.named_store() {
            Some(store) => is_this(&store),
            None => device.as_ref() == Some(&line.device),
        };
        if is_meant {
            abort(&line).unwrap_or_else(|error| {
                log::debug!(
                    "the mount at '{}' cannot be aborted: {error}",
                    line.mountpoint.display()
                );
            });
        }
    }
}

fn abort(line: &Line) -> io::Result<()> {
    // Named by the minor number of the filesystem's device.
    let minor = line.device.rsplit(':').next().unwrap_or_default();
    let control = format!("/sys/fs/fuse/connections/{minor}/abort");
    // That filesystem need not be mounted.
    if std::fs::write(control, "1").is_ok() {
        return Ok(());
    }
    // A path names what lies on top.
    if mount_at(&line.mountpoint).is_none_or(|top| top.device != line.device) {
        return Err(io::Error::other("another mount covers it"));
    }
    match unmount(&line.mountpoint, UnmountFlags::FORCE) {
        // It is in use: aborted, and still mounted.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn detach(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => detach_as_user(path),
        other => Ok(other?),
    }
}

fn detach_as_user(path: &Path) -> io::Result<()> {
    let output = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(path)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] =
        b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
          40 22 0:50 / /srv/my\\040site ro,nosuid - fuse.deployfs deployfs:/var/st\\134ore ro,user_id=0\n\
          41 40 0:51 / /srv/my\\040site/x rw master:2 propagate_from:1 - tmpfs none rw\n\
          rubbish\n";

    #[test]
    fn lines_are_parsed_with_their_escapes() {
        let table = parse(TABLE);
        assert_eq!(table.len(), 3);
        assert!(table[1].is_ours());
        assert_eq!(table[1].super_options, "ro,user_id=0");
        let info = table[1].clone().info();
        assert_eq!(info.mountpoint, Path::new("/srv/my site"));
        assert_eq!(info.store, Path::new("/var/st\\ore"));
    }

    #[test]
    fn a_path_is_in_the_nearest_mount_above_it() {
        let kind = |path: &str| mount_above(parse(TABLE), Path::new(path)).unwrap().fs_type;
        assert_eq!(kind("/srv/my site/live/index.html"), FS_TYPE);
        assert_eq!(kind("/srv/my site/x/y"), "tmpfs");
        assert_eq!(kind("/srv/my sites"), "ext4");
    }

    #[test]
    fn only_our_mounts_are_unmounted() {
        let error = unmount_path(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("left alone"), "{error}");
        let error = unmount_path(Path::new("/etc")).unwrap_err().to_string();
        assert!(error.contains("not a mount point"), "{error}");
    }
}
