//! The kernel, its FUSE device, fuse.conf, SELinux.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::host::FIRST_ORDINARY_USER;
use super::mounts::Mounts;
use super::unchecked::Unchecked;
use super::{Check, Finding, Host};
use crate::model::report::StatusReport;
use crate::view::has_fusermount;

/// openat2(2) came with it; all that the mount asks of FUSE is older.
const KERNEL_MIN: (u32, u32) = (5, 6);

/// New enough, and with FUSE.
pub fn kernel(host: &Host) -> Check {
    let release = host.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut findings = Vec::new();
    if version(release).is_some_and(|version| version < KERNEL_MIN) {
        findings.push(Finding::new(
            format!("Linux {release} is older than 5.6"),
            "deployfs opens files by a call that this kernel does not have, so nothing can be sealed",
            "install a newer kernel of your distribution and reboot",
        ));
    }
    let known = host.read("/proc/filesystems").unwrap_or_default();
    let has_fuse = known
        .lines()
        .any(|line| line.split('\t').nth(1) == Some("fuse"));
    if !has_fuse {
        findings.push(Finding::new(
            "the kernel knows no filesystem 'fuse'",
            "nothing can be mounted",
            "modprobe fuse",
        ));
    }
    let with = if has_fuse { "with" } else { "without" };
    Check::new("kernel", format!("Linux {release}, {with} FUSE"), findings)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// There, and open to ordinary users if one mounts.
pub fn device(host: &Host, mounts: &Mounts) -> Check {
    let Ok(meta) = std::fs::metadata(host.path("/dev/fuse")) else {
        let missing = Finding::new(
            "/dev/fuse is not there",
            "nothing can be mounted; in a container it must be given: docker run --device /dev/fuse --cap-add SYS_ADMIN",
            "modprobe fuse",
        );
        return Check::new("device", "no /dev/fuse", vec![missing]);
    };
    let mode = meta.permissions().mode() & 0o777;
    let seen = format!("/dev/fuse has mode {mode:04o}");
    let mut findings = Vec::new();
    if !meta.file_type().is_char_device() {
        findings.push(Finding::new(
            "/dev/fuse is no device",
            "nothing can be mounted",
            "rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229",
        ));
    } else if mode & 0o006 != 0o006 && mounts.is_for_ordinary_user() {
        findings.push(Finding::new(
            format!("{seen}: ordinary users cannot open it"),
            "only root can mount",
            "chmod 666 /dev/fuse   # udev does it where it runs",
        ));
    }
    Check::new("device", seen, findings)
}

/// Whether the program is installed by which ordinary users mount and unmount, where one does: the caller, or the owner of the store.
pub fn fusermount(mounts: &Mounts, store: Option<&StatusReport>) -> Check {
    let owner = store.and_then(|status| Some(std::fs::metadata(&status.store).ok()?.uid()));
    let is_needed = mounts.is_for_ordinary_user()
        || mounts.has_one_of_caller()
        || owner.is_some_and(|owner| owner >= FIRST_ORDINARY_USER);
    let is_installed = has_fusermount();
    let mut findings = Vec::new();
    if is_needed && !is_installed {
        findings.push(Finding::new(
            "fusermount3 is not installed, or not in PATH",
            "ordinary users cannot mount or unmount without it (root and the packaged service can)",
            "apt install fuse3",
        ));
    }
    let seen = match is_installed {
        true => "fusermount3 is installed",
        false => "fusermount3 is not installed",
    };
    Check::new("fusermount", seen, findings)
}

/// Whether an ordinary user's mount may be seen by the web server's.
pub fn fuse_conf(host: &Host, mounts: &Mounts) -> Check {
    let mut unchecked = Unchecked::default();
    let text = host.read_or_note("/etc/fuse.conf", &mut unchecked);
    if !unchecked.is_empty() {
        return Check::new("fuse-conf", "not readable", Vec::new()).lacking(&unchecked);
    }
    let text = text.unwrap_or_default();
    let allowed = text.lines().any(|line| line.trim() == "user_allow_other");
    let mut findings = Vec::new();
    if !allowed && mounts.is_for_ordinary_user() && !mounts.has_allow_other() {
        findings.push(Finding::new(
            "/etc/fuse.conf does not say user_allow_other",
            "a mount by an ordinary user is hidden from the web server's user (root and the packaged service need no such line)",
            "echo user_allow_other | sudo tee -a /etc/fuse.conf",
        ));
    }
    let seen = if allowed {
        "user_allow_other is set"
    } else {
        "user_allow_other is not set"
    };
    Check::new("fuse-conf", seen, findings)
}

/// Whether SELinux lets web servers read FUSE filesystems.
pub fn selinux(host: &Host) -> Check {
    let enforced = host.read("/sys/fs/selinux/enforce");
    if enforced.as_deref().map(str::trim) != Some("1") {
        return Check::new("selinux", "not enforced", Vec::new());
    }
    // The value now, and the one that is pending.
    let switch = host
        .read("/sys/fs/selinux/booleans/httpd_use_fusefs")
        .unwrap_or_default();
    if switch.starts_with('1') {
        return Check::new("selinux", "enforced, httpd_use_fusefs is on", Vec::new());
    }
    let finding = Finding::new(
        "SELinux is enforced, and httpd_use_fusefs is off",
        "web servers get 'permission denied' for every file in the mount",
        "setsebool -P httpd_use_fusefs 1",
    );
    Check::new("selinux", "enforced", vec![finding])
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::planted;
    use super::*;

    #[test]
    fn an_old_kernel_or_one_without_fuse_is_told() {
        let (_root, host) = planted(&[
            ("proc/sys/kernel/osrelease", "5.4.0-150-generic\n"),
            ("proc/filesystems", "nodev\ttmpfs\n\text4\n"),
        ]);
        let check = kernel(&host);
        assert_eq!(check.findings.len(), 2, "{check:?}");
        assert!(
            check.findings[0]
                .what
                .contains("5.4.0-150-generic is older")
        );
        assert_eq!(check.findings[1].mend, "modprobe fuse");
        let (_root, host) = planted(&[
            ("proc/sys/kernel/osrelease", "6.18.44-fc-v657\n"),
            ("proc/filesystems", "nodev\ttmpfs\nnodev\tfuse\n\tfuseblk\n"),
        ]);
        assert_eq!(kernel(&host).findings, []);
    }

    #[test]
    fn a_missing_a_false_and_a_closed_device_are_told() {
        let (_root, host) = planted(&[]);
        let nobody = Mounts::planted(65_534);
        assert!(
            device(&host, &nobody).findings[0]
                .what
                .contains("not there")
        );
        let (_root, host) = planted(&[("dev/fuse", "")]);
        assert!(
            device(&host, &nobody).findings[0]
                .what
                .contains("no device")
        );
        let path = host.path("/dev/fuse");
        std::fs::remove_file(&path).unwrap();
        let number = rustix::fs::makedev(10, 229);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::CharacterDevice,
            mode,
            number,
        )
        .expect("root makes devices");
        assert!(
            device(&host, &nobody).findings[0]
                .mend
                .starts_with("chmod 666")
        );
        assert_eq!(device(&host, &Mounts::planted(0)).findings, []);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(device(&host, &nobody).findings, []);
    }

    #[test]
    fn fuse_conf_matters_to_ordinary_users_only() {
        let (root, host) = planted(&[("etc/fuse.conf", "#user_allow_other\n")]);
        let nobody = Mounts::planted(65_534);
        assert_eq!(fuse_conf(&host, &nobody).findings.len(), 1);
        assert_eq!(fuse_conf(&host, &Mounts::planted(0)).findings, []);
        std::fs::write(root.path().join("etc/fuse.conf"), "user_allow_other\n").unwrap();
        assert_eq!(fuse_conf(&host, &nobody).findings, []);
    }

    #[test]
    fn selinux_that_keeps_web_servers_out_is_told() {
        let switch = "sys/fs/selinux/booleans/httpd_use_fusefs";
        for (enforce, value, wrong) in [("1", "0 0", 1), ("1", "1 1", 0), ("0", "0 0", 0)] {
            let (_root, host) = planted(&[("sys/fs/selinux/enforce", enforce), (switch, value)]);
            let check = selinux(&host);
            assert_eq!(check.findings.len(), wrong, "{check:?}");
        }
        let (_root, host) = planted(&[("sys/fs/selinux/enforce", "1"), (switch, "0 0")]);
        assert_eq!(
            selinux(&host).findings[0].mend,
            "setsebool -P httpd_use_fusefs 1"
        );
    }
}
