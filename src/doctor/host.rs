//! The machine's files as the checks see them, below a folder that a test may plant, and its processes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use super::unchecked::Unchecked;
use crate::model::report::Caller;
use crate::users::name_of;

/// The longest file that is read, in bytes. No server has a longer one.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// User ids below are those of the system and its services, which ordinary users cannot act as.
pub const FIRST_ORDINARY_USER: u32 = 1000;

/// A machine.
pub struct Host {
    root: PathBuf,
}

/// A running process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program's name, at most 15 bytes.
    pub name: String,
    /// Its words.
    pub words: Vec<String>,
    /// Which mount namespace it is in; empty where that may not be looked at.
    pub namespace: PathBuf,
    /// True where this user may not see its namespaces and open files.
    pub is_closed: bool,
}

impl Host {
    /// This machine.
    pub fn this() -> Self {
        Self::at("/")
    }

    /// What lies below a folder as if it were a machine's root.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Host { root: root.into() }
    }

    /// Where an absolute path of the machine is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a regular file, if there is one that may be read; the first [`FILE_BYTES_MAX`] of it. Whatever else is there, such as a
    /// named pipe or a device, is not even opened: whoever put it there could stop the one who looks.
    pub fn read(&self, path: &str) -> Option<String> {
        self.try_read(path).ok()
    }

    /// The same; a file that this user may not read is noted.
    pub fn read_or_note(&self, path: &str, unchecked: &mut Unchecked) -> Option<String> {
        let text = self.try_read(path);
        if let Err(error) = &text
            && error.kind() == ErrorKind::PermissionDenied
        {
            unchecked.add(format!("'{path}'"));
        }
        text.ok()
    }

    fn try_read(&self, path: &str) -> io::Result<String> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let place = openat(CWD, self.path(path), flags, Mode::empty())?;
        let kind = FileType::from_raw_mode(fstat(&place)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(ErrorKind::InvalidInput.into());
        }
        // By its descriptor: nobody can put something else in its place.
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The files that are there of those that a shell's `pattern`, with `*` in its last part only, means. A folder that this user may not
    /// list is noted.
    pub fn glob(&self, pattern: &str, unchecked: &mut Unchecked) -> Vec<String> {
        let Some((dir, name)) = pattern.rsplit_once('/') else {
            return Vec::new();
        };
        let Some((start, end)) = name.split_once('*') else {
            let file = self.path(pattern).exists().then(|| pattern.to_owned());
            return file.into_iter().collect();
        };
        let listing = fs::read_dir(self.path(dir));
        if let Err(error) = &listing
            && error.kind() == ErrorKind::PermissionDenied
        {
            unchecked.add(format!("'{dir}'"));
        }
        let entries = listing.into_iter().flatten().flatten();
        let mut found: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.len() >= start.len() + end.len())
            .filter(|name| name.starts_with(start) && name.ends_with(end))
            .map(|name| format!("{dir}/{name}"))
            .collect();
        found.sort();
        found
    }

    /// All processes.
    pub fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir(self.path("/proc"))
            .into_iter()
            .flatten()
            .flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut all: Vec<Process> = pids.filter_map(|pid| self.process(pid)).collect();
        all.sort_by_key(|process| process.pid);
        all
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let words = self.read(&format!("/proc/{pid}/cmdline"))?;
        let namespace = self.namespace(&pid.to_string());
        // Of a process that ends the kernel says the same as of one that is closed.
        let is_closed = namespace.as_os_str().is_empty()
            && !words.is_empty()
            && self
                .read(&format!("/proc/{pid}/cmdline"))
                .is_some_and(|words| !words.is_empty())
            && !self.is_beside_root(pid);
        Some(Process {
            pid,
            is_closed,
            name: self
                .read(&format!("/proc/{pid}/comm"))?
                .trim_end()
                .to_owned(),
            words: words.split('\0').map(str::to_owned).collect(),
            namespace,
        })
    }

    /// True if the caller is root and the process has the caller's mounts: one with more capabilities, such as a container's first process,
    /// is closed also to root, and shows nothing that root's own mount table does not.
    fn is_beside_root(&self, pid: u32) -> bool {
        // The number of a mount is that of one mount namespace only.
        let first = |pid: &str| {
            let table = self.mount_table(pid);
            table.split(|byte| *byte == b' ').next().map(<[u8]>::to_vec)
        };
        rustix::process::geteuid().is_root() && first(&pid.to_string()) == first("self")
    }

    /// True where /proc shows this user only part of the processes (`hidepid=`, see proc(5)).
    pub fn hides_processes(&self) -> bool {
        self.read("/proc/self/comm").is_some() && self.read("/proc/1/comm").is_none()
    }

    /// The mount namespace of a process, or of `self`; empty where that may not be looked at.
    pub fn namespace(&self, pid: &str) -> PathBuf {
        fs::read_link(self.path(&format!("/proc/{pid}/ns/mnt"))).unwrap_or_default()
    }

    /// The mount table that a process sees, or `self`.
    pub fn mount_table(&self, pid: &str) -> Vec<u8> {
        fs::read(self.path(&format!("/proc/{pid}/mountinfo"))).unwrap_or_default()
    }

    /// True for a process of root or of the user who asks: only their words say which files to read.
    pub fn is_trusted(&self, process: &Process) -> bool {
        let user = self.rights(process.pid).map(|rights| rights.uid);
        user.is_some_and(|user| user == 0 || user == rustix::process::geteuid().as_raw())
    }

    /// True for a trusted process, or one of a system user, such as a server that starts without root.
    pub fn is_of_system(&self, process: &Process) -> bool {
        let user = self.rights(process.pid).map(|rights| rights.uid);
        self.is_trusted(process) || user.is_some_and(|user| user < FIRST_ORDINARY_USER)
    }

    /// True for a process that a trusted one of such a name has started, as a server's master starts its workers.
    pub fn has_trusted_parent(&self, process: &Process, is_server: impl Fn(&str) -> bool) -> bool {
        let parent = self.numbers(process.pid, "PPid:");
        let parent = parent.and_then(|ids| self.process(*ids.first()?));
        parent.is_some_and(|parent| is_server(&parent.name) && self.is_trusted(&parent))
    }

    fn numbers(&self, pid: u32, key: &str) -> Option<Vec<u32>> {
        let status = self.read(&format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace()
            .map(|word| word.parse().ok())
            .collect()
    }

    /// With which rights a process opens files.
    pub fn rights(&self, pid: u32) -> Option<Caller> {
        let numbers = |key: &str| self.numbers(pid, key);
        // Real, effective, saved, and the one for files.
        let (uid, gid) = (*numbers("Uid:")?.get(3)?, *numbers("Gid:")?.get(3)?);
        Some(Caller {
            name: name_of(uid),
            uid,
            gid,
            groups: numbers("Groups:")?,
        })
    }
}

/// How a path is shown in a command for the shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@,".contains(&byte);
    match text.bytes().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// A path made of bytes.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine of these files.
    pub fn planted(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(root.path());
        (root, host)
    }

    #[test]
    fn patterns_mean_files() {
        let (_root, host) = planted(&[("etc/a/x.conf", ""), ("etc/a/y.conf", ""), ("etc/a/z", "")]);
        assert_eq!(
            host.glob("/etc/a/*.conf", &mut Unchecked::default()),
            ["/etc/a/x.conf", "/etc/a/y.conf"]
        );
        assert_eq!(
            host.glob("/etc/a/z", &mut Unchecked::default()),
            ["/etc/a/z"]
        );
        assert!(host.glob("/etc/b/*", &mut Unchecked::default()).is_empty());
        assert!(host.glob("/etc/b/z", &mut Unchecked::default()).is_empty());
    }

    #[test]
    fn only_regular_files_are_read_and_not_without_end() {
        let (root, host) = planted(&[("etc/plain", "text")]);
        let at = |name: &str| root.path().join("etc").join(name);
        assert_eq!(host.read("/etc/plain").as_deref(), Some("text"));
        std::os::unix::fs::symlink("plain", at("link")).unwrap();
        assert_eq!(host.read("/etc/link").as_deref(), Some("text"));
        let long = File::create(at("long")).unwrap();
        long.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(
            host.read("/etc/long").map(|text| text.len() as u64),
            Some(FILE_BYTES_MAX)
        );
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(host.read("/etc/pipe"), None);
        assert_eq!(host.read("/etc"), None);
    }

    #[test]
    fn this_process_is_among_them_with_its_rights() {
        let own = std::process::id();
        let host = Host::this();
        let all = host.processes();
        let process = all.iter().find(|process| process.pid == own).unwrap();
        assert!(!process.namespace.as_os_str().is_empty());
        let rights = host.rights(own).unwrap();
        assert_eq!(rights.uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn paths_are_quoted_where_the_shell_would_split_them() {
        assert_eq!(quoted(Path::new("/srv/site")), "/srv/site");
        assert_eq!(quoted(Path::new("/srv/my site's")), r"'/srv/my site'\''s'");
    }
}
