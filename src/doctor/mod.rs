//! Looks at the machine, the store and what is mounted for whatever would keep visitors from the right bytes. Changes nothing.
//!
//! ```text
//! host.rs       the machine's files, below a folder that tests may plant; its processes
//! machine.rs    kernel, FUSE device, fuse.conf, SELinux
//! store.rs      owner and control group, free space, clock, index
//! mounts.rs     dead, read-write or private mounts; binds of `live`, mounts below it
//! namespaces.rs the mount as other mount namespaces have it
//! workers.rs    whether web servers' workers see and read the mount
//! stale_servers.rs  servers that answer with an older page
//! servers.rs    settings of web servers that hurt
//! ```

mod host;
mod machine;
mod mounts;
mod namespaces;
mod servers;
mod stale_servers;
mod store;
mod workers;

use std::path::PathBuf;

use serde::Serialize;

use crate::model::report::StatusReport;

pub use host::Host;

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
    /// What is wrong; empty where all is well.
    pub findings: Vec<Finding>,
}

/// What `doctor` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// The store looked at; none: only the machine was.
    pub store: Option<PathBuf>,
    /// True where nothing is wrong.
    pub healthy: bool,
    /// All that was looked at.
    pub checks: Vec<Check>,
}

impl Check {
    fn new(name: &'static str, seen: impl Into<String>, findings: Vec<Finding>) -> Self {
        Check {
            name,
            seen: seen.into(),
            findings,
        }
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

/// Looks at everything; at the store's matters where its status is given.
pub fn examine(host: &Host, status: Option<&StatusReport>) -> DoctorReport {
    let mounts = mounts::Mounts::of(host, status.map(|status| status.store.as_path()));
    let mut checks = vec![
        machine::kernel(host),
        machine::device(host, &mounts),
        machine::fuse_conf(host, &mounts),
        machine::selinux(host),
    ];
    if let Some(status) = status {
        checks.extend([
            store::owner(status),
            store::space(&status.store),
            store::clock(status),
            store::index(status),
            store::deploys(status),
            namespaces::visible(status),
        ]);
    }
    checks.extend([
        mounts.dead(),
        mounts.superblock(),
        mounts.below_live(),
        mounts.binds(host),
        mounts.locks(),
        mounts.overlays(),
        namespaces::left_behind(host, status.map(|status| status.store.as_path())),
        workers::workers(host, &mounts),
        servers::nginx(host, &mounts),
        servers::apache(host, &mounts),
        stale_servers::stale_servers(host, &mounts),
    ]);
    DoctorReport {
        store: status.map(|status| status.store.clone()),
        healthy: checks.iter().all(|check| check.findings.is_empty()),
        checks,
    }
}
