//! Whether a store's daemon runs the program that is installed now.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::host::quoted;
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::model::report::StatusReport;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the kernel appends to the path of a running program whose file was removed or replaced.
const DELETED: &[u8] = b" (deleted)";

/// The daemon's version and its program's file.
pub fn daemon(host: &Host, status: &StatusReport) -> Check {
    let Some(pid) = status.daemon_pid else {
        return Check::new("daemon", "none runs", Vec::new());
    };
    let version = status.daemon_version.as_deref();
    let seen = match version {
        Some(version) => format!("process {pid}, deployfs {version}"),
        None => format!("process {pid}, of a version that does not name itself"),
    };
    let mut unchecked = Unchecked::default();
    let mut what = match version {
        Some(VERSION) => None,
        Some(version) => Some(format!(
            "runs deployfs {version}, this program is {VERSION}"
        )),
        None => Some(format!("is older than this program, which is {VERSION}")),
    };
    match fs::read_link(host.path(&format!("/proc/{pid}/exe"))) {
        Ok(program) if what.is_none() => what = replaced(&program),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            unchecked.add(format!("which file process {pid} runs"));
        }
        Err(_) => {}
    }
    let findings = what.map(|what| {
        Finding::new(
            format!("the daemon of '{}' (process {pid}) {what}", status.store.display()),
            "mended faults stay in it until it starts again, and commands of another version may not be understood",
            restart(status),
        )
    });
    Check::new("daemon", seen, findings.into_iter().collect())
        .of(status)
        .lacking(&unchecked)
}

fn replaced(program: &Path) -> Option<String> {
    let path = program.as_os_str().as_bytes().strip_suffix(DELETED)?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    // A daemon in another PID namespace has its number there: here another program may have it.
    let is_deployfs = path
        .file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"deployfs"));
    is_deployfs.then(|| {
        format!(
            "runs a file '{}' that has been replaced or removed since",
            path.display()
        )
    })
}

fn restart(status: &StatusReport) -> String {
    let Some(mountpoint) = &status.mountpoint else {
        return "systemctl restart deployfs@NAME".into();
    };
    let (store, mountpoint) = (quoted(&status.store), quoted(mountpoint));
    format!(
        "deployfs umount {mountpoint} && deployfs mount {store} {mountpoint}   # with the service: systemctl restart deployfs@NAME"
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::planted;
    use super::*;

    fn status(version: Option<&str>) -> StatusReport {
        StatusReport {
            store: "/srv/store".into(),
            mountpoint: Some("/srv/site".into()),
            daemon_pid: Some(7),
            daemon_version: version.map(str::to_owned),
            ..StatusReport::default()
        }
    }

    #[test]
    fn a_daemon_of_another_version_is_to_be_restarted() {
        let (_root, host) = planted(&[]);
        assert_eq!(daemon(&host, &StatusReport::default()).findings, []);
        assert_eq!(daemon(&host, &status(Some(VERSION))).findings, []);
        for (version, said) in [(Some("0.0.1"), "runs deployfs 0.0.1"), (None, "is older")] {
            let finding = &daemon(&host, &status(version)).findings[0];
            assert!(finding.what.contains(said), "{finding:?}");
            assert!(finding.mend.contains("restart deployfs@NAME"));
        }
    }

    #[test]
    fn another_program_with_the_daemons_number_is_no_finding() {
        let (root, host) = planted(&[("proc/7/comm", "")]);
        let exe = root.path().join("proc/7/exe");
        for (program, wrong) in [
            ("/usr/bin/deployfs", 0),
            ("/usr/bin/deployfs (deleted)", 1),
            ("/usr/lib/systemd/systemd (deleted)", 0),
        ] {
            fs::remove_file(&exe).ok();
            std::os::unix::fs::symlink(program, &exe).unwrap();
            let check = daemon(&host, &status(Some(VERSION)));
            assert_eq!(check.findings.len(), wrong, "{check:?}");
        }
    }
}
