//! Looks at the machine, the store and what is mounted for whatever would keep visitors from the right bytes. Changes nothing.
//!
//! ```text
//! host.rs       the machine's files, below a folder that tests may plant; its processes
//! machine.rs    kernel, FUSE device, fuse.conf, SELinux
//! unchecked.rs  what a check could not see, and who can
//! stores.rs     the stores that the machine names
//! store.rs      owner and control group, free space, clock, index
//! daemon.rs     a daemon that is older than the program
//! mounts.rs     dead, read-write or private mounts; binds of `live`, mounts below it
//! namespaces.rs the mount as other mount namespaces have it
//! workers.rs    whether web servers' workers see and read the mount
//! stale_servers.rs  servers that answer with an older page
//! servers.rs    settings of web servers that hurt
//! ```

mod daemon;
mod host;
mod machine;
mod mounts;
mod namespaces;
mod servers;
mod stale_servers;
mod store;
mod stores;
mod unchecked;
mod workers;

use std::path::PathBuf;

use serde::Serialize;

use crate::model::report::StatusReport;

pub use host::Host;
pub use stores::{Named, Stores, named as named_stores};
use unchecked::Unchecked;

/// Something that would hurt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is so, and where.
    pub what: String,
    /// What follows from it.
    pub why: String,
    /// The command, or the change of a file, that mends it.
    pub mend: String,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A name that does not change.
    pub name: &'static str,
    /// What was seen, in a few words.
    pub seen: String,
    /// The store that it is about; `None` for the machine's.
    pub store: Option<PathBuf>,
    /// What could not be seen, most for lack of rights, and the command that sees it; `None` if all was seen.
    pub unchecked: Option<String>,
    /// What is wrong; empty where all is well, as far as could be seen.
    pub findings: Vec<Finding>,
}

/// What `doctor` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The store that the caller names; `None` if those that the machine names are checked.
    pub store: Option<PathBuf>,
    /// All stores that were checked.
    pub stores: Vec<PathBuf>,
    /// True where nothing is wrong, as far as could be seen.
    pub healthy: bool,
    /// All that was looked at.
    pub checks: Vec<Check>,
}

impl Check {
    fn new(name: &'static str, seen: impl Into<String>, findings: Vec<Finding>) -> Self {
        Check {
            name,
            seen: seen.into(),
            store: None,
            unchecked: None,
            findings,
        }
    }

    /// The check as one of this store.
    fn of(mut self, status: &StatusReport) -> Self {
        self.store = Some(status.store.clone());
        self
    }

    /// The check with the facts that it lacks.
    fn lacking(mut self, unchecked: &Unchecked) -> Self {
        self.unchecked = unchecked.note();
        self
    }
}

impl Finding {
    fn new(what: impl Into<String>, why: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding {
            what: what.into(),
            why: why.into(),
            mend: mend.into(),
        }
    }
}

/// Checks the machine, all that is mounted of these stores, and each store.
pub fn examine(host: &Host, stores: &Stores) -> DoctorReport {
    let asked = stores.asked.as_deref();
    let mounts = mounts::Mounts::of(host, asked);
    let owner = stores.status.first().filter(|_| asked.is_some());
    let mut checks = vec![
        machine::kernel(host),
        machine::device(host, &mounts),
        machine::fusermount(&mounts, owner),
        machine::fuse_conf(host, &mounts),
        machine::selinux(host),
        stores::stores(stores),
    ];
    for status in &stores.status {
        checks.extend([
            store::owner(status),
            store::space(status),
            store::clock(status),
            store::index(status),
            store::deploys(status),
            daemon::daemon(host, status),
            namespaces::visible(host, status),
        ]);
    }
    checks.extend([
        mounts.dead(),
        mounts.superblock(),
        mounts.below_live(),
        mounts.binds(host),
        mounts.locks(host),
        mounts.overlays(),
        namespaces::left_behind(host, asked),
        workers::workers(host, &mounts),
        servers::nginx(host, &mounts),
        servers::apache(host, &mounts),
        stale_servers::stale_servers(host, &mounts),
    ]);
    DoctorReport {
        store: stores.asked.clone(),
        stores: stores
            .status
            .iter()
            .map(|status| status.store.clone())
            .collect(),
        healthy: checks.iter().all(|check| check.findings.is_empty()),
        checks,
    }
}
