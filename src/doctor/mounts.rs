//! What is mounted: dead mounts, writable ones, mounts below `live` and binds of it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::host::{FIRST_ORDINARY_USER, Process, quoted};
use super::namespaces::bind_of_parent;
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::users::name_of;
use crate::view::lock_holders::lock_holders;
use crate::view::mounts::{Line, parse};

/// The mounts of one store, or of all, among all that is mounted here.
pub struct Mounts {
    table: Vec<Line>,
    ours: Vec<Ours>,
    /// Mounts of ordinary users, by path: not looked at where root asks about all mounts.
    others: Vec<PathBuf>,
    user: u32,
}

/// A mount of deployfs.
pub struct Ours {
    /// Where.
    pub mountpoint: PathBuf,
    /// Of which store.
    pub store: PathBuf,
    /// Its filesystem's device number.
    pub device: String,
    is_dead: bool,
    is_read_only: bool,
    has_allow_other: bool,
    user: u32,
}

impl Ours {
    fn of(line: &Line) -> Self {
        let info = line.clone().info();
        let has = |option: &str| line.super_options.split(',').any(|word| word == option);
        Ours {
            device: line.device.clone(),
            is_read_only: has("ro"),
            has_allow_other: has("allow_other"),
            user: line.user().unwrap_or_default(),
            mountpoint: info.mountpoint,
            store: info.store,
            is_dead: info.dead,
        }
    }

    /// Where a process with this mount table has the whole mount.
    pub fn place_in<'a>(&self, table: &'a [Line]) -> Option<&'a Path> {
        let is_this = |line: &&Line| line.device == self.device && line.root == Path::new("/");
        let line = table.iter().rev().find(is_this)?;
        Some(&line.mountpoint)
    }
}

impl Mounts {
    /// Of this store; none: of all. Root leaves out those of ordinary users other than the store's owner: such a user's daemon may be any
    /// program, and may let whoever looks wait for ever.
    pub fn of(host: &Host, store: Option<&Path>) -> Self {
        let table = parse(&host.mount_table("self"));
        let whole = table
            .iter()
            .filter(|line| line.is_ours() && line.root == Path::new("/"));
        let user = rustix::process::geteuid().as_raw();
        let owner = store.and_then(|store| Some(std::fs::metadata(store).ok()?.uid()));
        let is_doubtful = |line: &&Line| {
            let of = line.user().unwrap_or_default();
            user == 0 && of >= FIRST_ORDINARY_USER && Some(of) != owner
        };
        let (others, whole): (Vec<&Line>, Vec<&Line>) = whole.partition(is_doubtful);
        let ours = whole
            .into_iter()
            .filter(|line| store.is_none_or(|store| line.may_show(store)))
            .map(Ours::of)
            .filter(|ours| store.is_none_or(|store| ours.store == store));
        Mounts {
            ours: ours.collect(),
            others: others
                .into_iter()
                .filter(|_| store.is_none())
                .map(|line| line.mountpoint.clone())
                .collect(),
            user,
            table,
        }
    }

    /// Nothing is mounted, and this user would mount.
    #[cfg(test)]
    pub fn planted(user: u32) -> Self {
        Mounts {
            table: Vec::new(),
            ours: Vec::new(),
            others: Vec::new(),
            user,
        }
    }

    /// A mount as it should be.
    #[cfg(test)]
    pub fn planted_at(mountpoint: &str) -> Self {
        let mut mounts = Self::planted(0);
        mounts.ours.push(Ours {
            mountpoint: mountpoint.into(),
            store: "/srv/store".into(),
            device: "0:99".into(),
            is_dead: false,
            is_read_only: true,
            has_allow_other: true,
            user: 0,
        });
        mounts
    }

    /// Those whose daemon answers.
    pub fn alive(&self) -> impl Iterator<Item = &Ours> {
        self.ours.iter().filter(|ours| !ours.is_dead)
    }

    /// True where nothing is mounted yet, and the one who asks is not root.
    pub fn is_for_ordinary_user(&self) -> bool {
        self.user != 0 && self.alive().next().is_none()
    }

    /// True where the caller, who is not root, has mounted one.
    pub fn has_one_of_caller(&self) -> bool {
        self.user != 0 && self.ours.iter().any(|ours| ours.user == self.user)
    }

    /// The stores of all mounts, dead ones too, each with its mount.
    pub fn named_stores(&self) -> impl Iterator<Item = (PathBuf, &Path)> {
        let ours = self.ours.iter();
        ours.map(|ours| (ours.store.clone(), ours.mountpoint.as_path()))
    }

    /// True where the kernel lets the caller's statfs(2) reach the daemon; else a dead mount looks alive.
    fn is_reachable(&self, ours: &Ours) -> bool {
        let parent = ours.mountpoint.parent().unwrap_or(&ours.mountpoint);
        (ours.has_allow_other || ours.user == self.user)
            && !std::fs::metadata(parent.join("."))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    }

    /// True where other users see a mount.
    pub fn has_allow_other(&self) -> bool {
        self.alive().any(|ours| ours.has_allow_other)
    }

    /// Mounts whose daemon is gone.
    pub fn dead(&self) -> Check {
        let dead = self.ours.iter().filter(|ours| ours.is_dead);
        let findings = dead.map(|ours| {
            Finding::new(
                format!("the daemon of '{}' is gone", ours.mountpoint.display()),
                "what the kernel has cached is still served, everything else fails",
                format!(
                    "deployfs mount {} {}   # or, with the service: systemctl restart deployfs@NAME",
                    quoted(&ours.store),
                    quoted(&ours.mountpoint)
                ),
            )
        });
        let findings = findings.collect();
        let alive: Vec<String> = self
            .alive()
            .map(|ours| ours.mountpoint.display().to_string())
            .collect();
        let seen = match alive.is_empty() {
            true => "none".to_owned(),
            false => alive.join(", "),
        };
        let mut unchecked = Unchecked::default();
        for other in &self.others {
            unchecked.add_with(
                format!("'{}'", other.display()),
                "an ordinary user mounted it, and any program may answer for it: 'deployfs --store STORE doctor' checks it",
            );
        }
        for ours in self.alive().filter(|ours| !self.is_reachable(ours)) {
            unchecked.add_with(
                format!(
                    "whether the daemon of '{}' answers",
                    ours.mountpoint.display()
                ),
                format!(
                    "'sudo -u {} deployfs --store {} doctor' checks it",
                    name_of(ours.user),
                    quoted(&ours.store)
                ),
            );
        }
        Check::new("mounts", seen, findings).lacking(&unchecked)
    }

    /// Superblocks that were remounted.
    pub fn superblock(&self) -> Check {
        let writable = self.alive().filter(|ours| !ours.is_read_only);
        let findings = writable.map(|ours| {
            Finding::new(
                format!("'{}' has been remounted read-write", ours.mountpoint.display()),
                "root can change what the kernel has cached of a deploy; deployfs itself still refuses every change",
                format!("mount -i -o remount,ro {}   # mount it anew if something was changed", quoted(&ours.mountpoint)),
            )
        });
        Check::new("read-only", "the mounts' superblocks", findings.collect())
    }

    /// Mounts on or below `live`.
    pub fn below_live(&self) -> Check {
        let mut findings = Vec::new();
        for ours in self.alive() {
            let below = self
                .table
                .iter()
                .filter(|line| flips(&ours.mountpoint, &line.mountpoint));
            findings.extend(below.map(|line| {
                Finding::new(
                    format!("a mount of type {} lies on '{}'", line.fs_type, line.mountpoint.display()),
                    "it is on the deploy that was shown when it was made, and leaves with it at the next activation",
                    format!(
                        "umount {}   # let the web server find those files elsewhere: nginx 'location … {{ alias … }}'",
                        quoted(&line.mountpoint)
                    ),
                )
            }));
        }
        Check::new("mounts-below-live", "this mount namespace", findings)
    }

    /// Binds of `live`, in any mount namespace, such as a container's.
    pub fn binds(&self, host: &Host) -> Check {
        let mut namespaces = BTreeMap::new();
        let processes = host.processes();
        let unchecked = self.closed(host, &processes);
        for process in processes {
            if !process.namespace.as_os_str().is_empty() {
                namespaces
                    .entry(process.namespace.clone())
                    .or_insert(process);
            }
        }
        let mut findings = Vec::new();
        for process in namespaces.values() {
            for line in parse(&host.mount_table(&process.pid.to_string())) {
                let is_of_it =
                    |ours: &&Ours| ours.device == line.device && flips(Path::new("/"), &line.root);
                let Some(ours) = self.alive().find(is_of_it) else {
                    continue;
                };
                findings.push(Finding::new(
                    format!(
                        "'{}', as process {} ({}) sees it, is a bind of 'live' or of a channel",
                        line.mountpoint.display(),
                        process.pid,
                        process.name
                    ),
                    "it stays with the deploy that was shown when it was made: activations are not seen there",
                    format!(
                        "serve 'live' or 'channels/NAME' of the whole mount: {}",
                        bind_of_parent(&ours.mountpoint)
                    ),
                ));
            }
        }
        Check::new(
            "binds-of-live",
            format!("{} mount namespaces", namespaces.len()),
            findings,
        )
        .lacking(&unchecked)
    }
}

impl Mounts {
    /// Overlays that write over a folder of a mount.
    pub fn overlays(&self) -> Check {
        let mut findings = Vec::new();
        for line in self.table.iter().filter(|line| line.fs_type == "overlay") {
            let options = || line.super_options.split(',');
            let lower = options()
                .filter_map(|option| option.split_once("lowerdir"))
                .flat_map(|(_, value)| {
                    value
                        .trim_start_matches(['+', '='])
                        .split(':')
                        .map(PathBuf::from)
                });
            let is_below = |lower: &PathBuf| {
                self.ours
                    .iter()
                    .any(|ours| lower.starts_with(&ours.mountpoint))
            };
            let is_written = options().any(|option| option.starts_with("upperdir="));
            let Some(lower) = lower.into_iter().find(is_below).filter(|_| is_written) else {
                continue;
            };
            findings.push(Finding::new(
                format!("an overlay at '{}' is written over '{}'", line.mountpoint.display(), lower.display()),
                "equal files of a deploy are one inode: what is written to one of them there, the others show too until the kernel's caches are dropped",
                "copy the deploy and work on the copy: cp -r DEPLOY COPY",
            ));
        }
        Check::new("overlays", "this mount namespace", findings)
    }

    /// Processes that hold the lock of a folder, so that flips or visitors wait for them.
    pub fn locks(&self, host: &Host) -> Check {
        let mut findings = Vec::new();
        for ours in self.alive() {
            let holders = lock_holders(&ours.device);
            findings.extend(holders.found.iter().map(|holder| {
                Finding::new(
                    holder.sentence(),
                    "the kernel holds that folder's lock for it: the next activation, and then every visitor, may wait until it ends",
                    format!("{}   # as root", holder.remedy()),
                )
            }));
        }
        let unchecked = self.closed(host, &host.processes());
        Check::new("locks", "no listing that does not end", findings).lacking(&unchecked)
    }

    /// The processes that the caller may not see into; none if no mount is there that they could have something of.
    pub fn closed(&self, host: &Host, processes: &[Process]) -> Unchecked {
        let mut unchecked = Unchecked::default();
        if self.alive().next().is_some() {
            unchecked.add_closed(host, processes);
        }
        unchecked
    }
}

/// True for `live` and channels below `top`, and what lies under them. A tree that was shown there bears another name later.
fn flips(top: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(top) else {
        return false;
    };
    let mut names = below.iter().map(|name| name.to_string_lossy());
    match names.next().as_deref() {
        Some("live") => true,
        Some("channels") => names.next().is_some(),
        Some(name) => name.starts_with(".retired-"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_channels_and_what_they_showed_are_told_from_deploys() {
        let shows = |path: &str| flips(Path::new("/srv/site"), Path::new(path));
        assert!(shows("/srv/site/live"));
        assert!(shows("/srv/site/live/uploads"));
        assert!(shows("/srv/site/.retired-0123/uploads"));
        assert!(shows("/srv/site/channels/preview"));
        assert!(!shows("/srv/site/channels"));
        assert!(!shows("/srv/site"));
        assert!(!shows("/srv/site/deploys/0123456789abcdef"));
        assert!(!shows("/srv/live"));
    }
}
