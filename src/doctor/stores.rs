//! The stores that a machine names: those of its mounts, of /etc/fstab and of the service's configurations.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::host::{FIRST_ORDINARY_USER, quoted};
use super::mounts::Mounts;
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::model::report::StatusReport;
use crate::view::mounts::FS_TYPE;

/// A store, and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The store's folder.
    pub store: PathBuf,
    /// The mount or the file that names it.
    pub by: String,
    /// True for a mount, false for a configuration, whose store may be yet to be made.
    pub is_mounted: bool,
    /// True where the store belongs to an ordinary user other than the caller: any program may answer as its daemon.
    pub is_doubtful: bool,
}

/// The stores to be checked, and their state.
#[derive(Debug, Default)]
pub struct Stores {
    /// The one store that the caller names; `None` if the machine's are checked.
    pub asked: Option<PathBuf>,
    /// The state of each that could be had.
    pub status: Vec<StatusReport>,
    /// Those whose state could not be had, with the reason.
    pub failed: Vec<(Named, String)>,
}

impl Stores {
    /// One store, named by the caller.
    pub fn of(status: StatusReport) -> Self {
        Stores {
            asked: Some(status.store.clone()),
            status: vec![status],
            failed: Vec::new(),
        }
    }
}

/// All stores that the machine names, each once.
pub fn named(host: &Host) -> Vec<Named> {
    let mounts = Mounts::of(host, None);
    let mut all: Vec<Named> = mounts
        .named_stores()
        .map(|(store, mountpoint)| {
            Named::new(store, format!("the mount '{}'", mountpoint.display()), true)
        })
        .collect();
    let fstab = host.read("/etc/fstab").unwrap_or_default();
    all.extend(of_fstab(&fstab).map(|store| Named::new(store, "/etc/fstab".into(), false)));
    for file in host.glob("/etc/deployfs/*.conf", &mut Unchecked::default()) {
        let text = host.read(&file).unwrap_or_default();
        all.extend(of_conf(&text).map(|store| Named::new(store, file.clone(), false)));
    }
    let mut once: Vec<Named> = Vec::new();
    for one in all {
        let is_new = once.iter().all(|other| other.store != one.store);
        if one.store.is_absolute() && is_new {
            once.push(one);
        }
    }
    once
}

impl Named {
    fn new(store: PathBuf, by: String, is_mounted: bool) -> Self {
        let owner = std::fs::metadata(&store).map_or(0, |meta| meta.uid());
        let caller = rustix::process::geteuid().as_raw();
        Named {
            is_doubtful: owner >= FIRST_ORDINARY_USER && owner != caller,
            store,
            by,
            is_mounted,
        }
    }
}

fn of_fstab(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (source, kind) = (words.next()?, words.nth(1)?);
        let is_ours = kind == FS_TYPE && !source.starts_with('#');
        is_ours.then(|| source.replace("\\040", " ").into())
    })
}

fn of_conf(text: &str) -> Option<PathBuf> {
    let mut lines = text.lines().rev();
    let value = lines.find_map(|line| line.trim().strip_prefix("STORE="))?;
    Some(value.trim().trim_matches(['"', '\'']).into())
}

/// Which stores were checked, and why others were not.
pub fn stores(stores: &Stores) -> Check {
    let mut unchecked = Unchecked::default();
    let mut findings = Vec::new();
    let is_root = rustix::process::geteuid().is_root();
    for (named, why) in &stores.failed {
        let Named { store, by, .. } = named;
        let command = format!("deployfs --store {} doctor", quoted(store));
        let what = format!("the store '{}', which {by} names", store.display());
        if named.is_doubtful {
            let what = format!("{what} and which belongs to an ordinary user");
            unchecked.add_with(what, format!("'{command}' checks it"));
        } else if !named.is_mounted && is_missing(store) {
            unchecked.add_with(what, "it is not there (deployfs init makes it)");
        } else if !is_root {
            unchecked.add(what);
        } else {
            findings.push(Finding::new(
                format!("{what}, cannot be checked: {why}"),
                "nothing is known of its owner, space, clock and index, and its daemon may not answer others either",
                format!("{command}   # the cause at length; a daemon that does not answer: systemctl restart deployfs@NAME"),
            ));
        }
    }
    if stores.status.is_empty() && stores.failed.is_empty() {
        unchecked.add_with(
            "owner, space, clock, index, deploys, visible, daemon",
            "neither a mount nor /etc/fstab nor /etc/deployfs/*.conf names a store: 'deployfs --store PATH doctor' checks one",
        );
    }
    let names = stores
        .status
        .iter()
        .map(|status| status.store.display().to_string());
    let names: Vec<String> = names.collect();
    let seen = match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    Check::new("stores", seen, findings).lacking(&unchecked)
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::planted;
    use super::*;

    #[test]
    fn the_stores_of_fstab_and_of_the_service_are_found_once() {
        let fstab = "# /srv/no /mnt fuse.deployfs\n/dev/sda1 / ext4 rw 0 1\n/srv/my\\040store /srv/site fuse.deployfs ro 0 0\n#/srv/off /m fuse.deployfs\n";
        let (_root, host) = planted(&[
            ("etc/fstab", fstab),
            (
                "etc/deployfs/a.conf",
                "# STORE=/srv/no\nSTORE=\"/srv/a\"\nMOUNTPOINT=/srv/site\n",
            ),
            ("etc/deployfs/b.conf", "STORE=/srv/a\n"),
            ("etc/deployfs/c.conf", "OPTIONS=\n"),
        ]);
        let all = named(&host);
        let found: Vec<(&str, &str)> = all
            .iter()
            .map(|one| (one.store.to_str().unwrap(), one.by.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("/srv/my store", "/etc/fstab"),
                ("/srv/a", "/etc/deployfs/a.conf")
            ]
        );
    }

    #[test]
    fn without_any_store_the_check_says_what_was_not_looked_at() {
        let (_root, host) = planted(&[]);
        assert_eq!(named(&host), []);
        let check = stores(&Stores::default());
        assert_eq!(check.findings, []);
        assert!(check.unchecked.unwrap().contains("--store PATH"));
    }
}
