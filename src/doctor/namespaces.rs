//! Mounts as other mount namespaces have them: a daemon that only itself sees, a container that has kept the mount of a daemon
//! that has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::host::quoted;
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::model::report::StatusReport;
use crate::view::mounts::{is_dead, parse};

/// What a container is to have in place of a bind of the mount itself.
pub fn bind_of_parent(mountpoint: &Path) -> String {
    let parent = mountpoint.parent().unwrap_or(mountpoint);
    format!(
        "docker run -v {0}:{0}:ro,rslave   # the folder that the mount point is in: a new mount is seen there too",
        quoted(parent)
    )
}

/// The daemon's mount is seen by the rest of the machine.
pub fn visible(host: &Host, status: &StatusReport) -> Check {
    let mut findings = Vec::new();
    let mut unchecked = Unchecked::default();
    // A daemon without rights cannot see the first process's mounts; the caller may.
    let is_visible = status.mount_visible.or_else(|| is_visible(host, status));
    if is_visible.is_none() && status.mountpoint.is_some() {
        unchecked.add("the mounts that the machine's first process sees");
    }
    if let (Some(false), Some(mountpoint)) = (is_visible, &status.mountpoint) {
        findings.push(Finding::new(
            format!(
                "the mount of process {} at '{}' is in a mount namespace that the machine's first process does not share",
                status.daemon_pid.unwrap_or_default(),
                mountpoint.display()
            ),
            "web servers outside that namespace see an empty folder, whatever is activated",
            "start the daemon where the web server runs: as a service without PrivateMounts=, PrivateTmp=, ProtectSystem= and the like, \
             outside of 'unshare' and containers",
        ));
    }
    Check::new("visible", "the mount, from the first process", findings)
        .of(status)
        .lacking(&unchecked)
}

/// Whether the first process has the daemon's mount. `None` without a daemon, or if a mount table cannot be read.
fn is_visible(host: &Host, status: &StatusReport) -> Option<bool> {
    let (pid, mountpoint) = (status.daemon_pid?, status.mountpoint.as_ref()?);
    let own = parse(&host.mount_table(&pid.to_string()));
    let mut own = own.iter().rev();
    let mount = own.find(|line| line.is_ours() && line.mountpoint == *mountpoint)?;
    let first = parse(&host.mount_table("1"));
    let has = || first.iter().any(|line| line.device == mount.device);
    (!first.is_empty()).then(has)
}

/// Mounts whose daemon has ended, in any mount namespace but this one.
pub fn left_behind(host: &Host, store: Option<&Path>) -> Check {
    let own = host.namespace("self");
    let mut namespaces = BTreeMap::new();
    let mut unchecked = Unchecked::default();
    let processes = host.processes();
    unchecked.add_closed(host, &processes);
    for process in processes {
        if !process.namespace.as_os_str().is_empty() && process.namespace != own {
            namespaces
                .entry(process.namespace.clone())
                .or_insert(process);
        }
    }
    let mut findings = Vec::new();
    for process in namespaces.values() {
        for line in parse(&host.mount_table(&process.pid.to_string())) {
            let is_meant = store.is_none_or(|store| line.named_store().as_deref() == Some(store));
            let below = line
                .mountpoint
                .strip_prefix("/")
                .unwrap_or(&line.mountpoint);
            let from_here: PathBuf = host
                .path(&format!("/proc/{}/root", process.pid))
                .join(below);
            if !line.is_ours() || !is_meant || !is_dead(&from_here) {
                continue;
            }
            findings.push(Finding::new(
                format!(
                    "'{}', as process {} ({}) sees it, is the mount of a daemon that has ended",
                    line.mountpoint.display(),
                    process.pid,
                    process.name
                ),
                "what the kernel has cached of it is served there as it was then, everything else fails (ENOTCONN), and no new mount is seen",
                format!("start the container again, with {}", bind_of_parent(&line.mountpoint)),
            ));
        }
    }
    let seen = format!("{} other mount namespaces", namespaces.len());
    Check::new("left-behind", seen, findings).lacking(&unchecked)
}
