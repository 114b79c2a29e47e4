//! Whether the workers of web servers see the mount, in their mount namespace and with their rights.
//!
//! Anybody can give a process a server's name. Looked at are those of system users and those that a server of root's has started; of what they
//! see, only files of the mount are opened.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use super::host::{Process, path_of, quoted};
use super::mounts::{Mounts, Ours};
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::model::report::Caller;
use crate::view::mounts::{device_name, parse};

/// How the processes of web servers are called, or begin.
const SERVERS: [&str; 6] = ["nginx", "apache2", "httpd", "caddy", "lighttpd", "php-fpm"];
/// How much of `live` is tried.
const TRIED_MAX: usize = 1000;
/// How many unreadable paths are named.
const NAMED_MAX: usize = 3;

fn is_server(name: &str) -> bool {
    SERVERS.iter().any(|server| name.starts_with(server))
}

/// Every kind of worker, on every mount.
pub fn workers(host: &Host, mounts: &Mounts) -> Check {
    // By server, user and namespace: all of a kind see the same.
    let mut kinds: BTreeMap<_, (Vec<Process>, Caller)> = BTreeMap::new();
    let processes = host.processes();
    let is_root = rustix::process::geteuid().is_root();
    let mut unchecked = Unchecked::default();
    if mounts.alive().next().is_some() {
        unchecked = closed(host, &processes, is_root);
    }
    for process in processes {
        if !is_server(&process.name) {
            continue;
        }
        let Some(rights) = host.rights(process.pid) else {
            continue;
        };
        if !host.is_of_system(&process) && !host.has_trusted_parent(&process, is_server) {
            continue;
        }
        let kind = (
            process.name.clone(),
            process.namespace.clone(),
            rights.uid,
            rights.groups.clone(),
        );
        let (processes, _) = kinds.entry(kind).or_insert((Vec::new(), rights));
        processes.push(process);
    }
    let mut findings = Vec::new();
    // Only root can act with a worker's rights.
    for ours in mounts.alive().filter(|_| is_root) {
        for (processes, rights) in kinds.values() {
            // Servers end and replace their workers: another of the kind is asked then.
            let mut looks = processes.iter().map(|one| look(host, ours, one, rights));
            findings.extend(looks.find_map(Result::ok).flatten());
        }
    }
    let names: Vec<String> = kinds
        .iter()
        .map(|((name, ..), (_, rights))| format!("{name} as {}", rights.name))
        .collect();
    let seen = if names.is_empty() {
        "no web server runs".to_owned()
    } else {
        names.join(", ")
    };
    Check::new("workers", seen, findings).lacking(&unchecked)
}

/// The servers whose view of the mount the caller cannot try.
fn closed(host: &Host, processes: &[Process], is_root: bool) -> Unchecked {
    let mut unchecked = Unchecked::default();
    if host.hides_processes() {
        unchecked.add("processes of others, which /proc hides");
    }
    for process in processes.iter().filter(|one| is_server(&one.name)) {
        if !is_root || process.is_closed {
            unchecked.add(format!("whether {} sees and reads the mount", process.name));
        }
    }
    unchecked
}

/// The process has ended meanwhile, or there is no `live` to read.
struct Gone;

fn look(
    host: &Host,
    ours: &Ours,
    process: &Process,
    rights: &Caller,
) -> Result<Option<Finding>, Gone> {
    let pid = process.pid;
    let root = host.path(&format!("/proc/{pid}/root/"));
    let table = parse(&host.mount_table(&pid.to_string()));
    // A container may have it elsewhere.
    let Some(place) = ours.place_in(&table) else {
        return match is_of_this_root(&root) {
            Some(is_ours) => Ok(is_ours.then(|| hidden(ours, process))),
            None => Err(Gone),
        };
    };
    let tried = try_as(rights, &root, &place.join("live"), &ours.device);
    let (what, mend) = match tried {
        Tried::Gone => return Err(Gone),
        Tried::Refused(path) => {
            let mend = if path.starts_with(place) {
                "mount it as root, or with user_allow_other in /etc/fuse.conf, without --no-allow-other".to_owned()
            } else {
                format!("chmod o+x {}", quoted(&path))
            };
            (format!("'{}'", path.display()), mend)
        }
        Tried::Files { unreadable, .. } if unreadable.is_empty() => return Ok(None),
        Tried::Files { unreadable, more } => {
            let names: Vec<String> = unreadable
                .iter()
                .map(|path| format!("'live/{}'", path.display()))
                .collect();
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let mend = format!(
                "chmod -R a+rX BUILD, and deploy it again; or mount with --gid {} if the group may read them",
                rights.gid
            );
            (format!("{}{more}", names.join(", ")), mend)
        }
    };
    Ok(Some(Finding::new(
        format!(
            "{} (process {pid}, user {}) may not read {what}",
            process.name, rights.name
        ),
        "visitors get 403 or 404 there",
        mend,
    )))
}

/// A container has files of its own, and need not have the mount. None: the process is gone.
fn is_of_this_root(root: &Path) -> Option<bool> {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    Some(id(root)? == id(Path::new("/"))?)
}

fn hidden(ours: &Ours, process: &Process) -> Finding {
    Finding::new(
        format!(
            "{} (process {}) is in a mount namespace of its own, where '{}' is not what is mounted now",
            process.name,
            process.pid,
            ours.mountpoint.display()
        ),
        "it serves an empty folder, or a mount whose daemon is gone",
        format!(
            "systemctl restart {0}; if it comes again: systemctl edit {0}, and start it after the mount (After=deployfs@NAME.service)",
            process.name
        ),
    )
}

enum Tried {
    /// The process has ended meanwhile, or there is no `live` to read.
    Gone,
    /// The first folder on the way that may not be passed.
    Refused(std::path::PathBuf),
    /// What of the tried files may not be read, relative to `live`.
    Files {
        unreadable: Vec<std::path::PathBuf>,
        more: usize,
    },
}

/// On a thread of its own, with the worker's rights, from the worker's root.
fn try_as(rights: &Caller, root: &Path, live: &Path, device: &str) -> Tried {
    let Ok(root) = openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return Tried::Gone;
    };
    let work = || match rights.uid == 0 || become_worker(rights) {
        true => try_live(root, live, device),
        false => Tried::Gone,
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or(Tried::Gone)
}

/// For the rest of this thread's life. All ids, since FUSE looks at more than those for files.
fn become_worker(rights: &Caller) -> bool {
    let (uid, gid) = (rights.uid, rights.gid);
    // The raw calls act on this thread alone; the C library's would change the whole process.
    // SAFETY: the pointer and length describe a live slice; the other arguments are integers.
    unsafe {
        libc::syscall(
            libc::SYS_setgroups,
            rights.groups.len(),
            rights.groups.as_ptr(),
        ) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
    }
}

/// `device`: the mount's, as a mount table has it; nothing of another one is opened.
fn try_live(root: OwnedFd, live: &Path, device: &str) -> Tried {
    let mut path = std::path::PathBuf::from("/");
    let mut folder = root.try_clone();
    for part in live.iter().skip(1) {
        path.push(part);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        folder = match openat2(&root, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Ok(folder) => Ok(folder),
            // The folder above may not be passed, not this one.
            Err(Errno::ACCESS) => return Tried::Refused(path.parent().unwrap_or(&path).to_owned()),
            Err(_) => return Tried::Gone,
        };
    }
    let Ok(folder) = folder else {
        return Tried::Gone;
    };
    if !is_on(&folder, device) {
        return Tried::Gone;
    }
    let mut walk = Walk::default();
    match open_folder(&folder, ".") {
        Ok(folder) => walk.folder(folder, Path::new("")),
        // May be passed and not listed: a server needs no more.
        Err(_) => return Tried::Gone,
    }
    Tried::Files {
        unreadable: walk.unreadable,
        more: walk.more,
    }
}

fn is_on(folder: &OwnedFd, device: &str) -> bool {
    fstat(folder).is_ok_and(|stat| device_name(stat.st_dev) == device)
}

fn open_folder(at: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

#[derive(Default)]
struct Walk {
    tried: usize,
    unreadable: Vec<std::path::PathBuf>,
    more: usize,
}

impl Walk {
    fn folder(&mut self, folder: OwnedFd, path: &Path) {
        let Ok(entries) = Dir::read_from(&folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || self.tried >= TRIED_MAX {
                continue;
            }
            self.tried += 1;
            let below = path.join(path_of(name.to_bytes()));
            let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let is_folder = entry.file_type() == FileType::Directory;
            flags.set(OFlags::DIRECTORY, is_folder);
            match openat2(&folder, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
                Ok(opened) if is_folder => self.folder(opened, &below),
                Ok(opened) => drop(File::from(opened)),
                Err(Errno::ACCESS) if self.unreadable.len() < NAMED_MAX => {
                    self.unreadable.push(below)
                }
                Err(Errno::ACCESS) => self.more += 1,
                Err(_) => {}
            }
        }
    }
}
