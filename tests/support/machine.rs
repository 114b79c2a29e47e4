//! A Debian of its own: this one's files under a layer that is thrown away, booted by systemd in namespaces of its own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::files::sh;
use super::site::{stderr, stdout, text, wait_for, wait_up_to};

/// Boots nothing but what systemd itself needs. `/tmp` is empty, `/host` the folder that the test gave.
const BOOT: &str = "
    mount -t tmpfs none $FOLDER/disk
    mkdir $FOLDER/disk/{new,work,root}
    mount -t overlay none -o lowerdir=/,upperdir=$FOLDER/disk/new,workdir=$FOLDER/disk/work $FOLDER/disk/root
    cd $FOLDER/disk/root
    mkdir host
    mount --bind $FOLDER/host host
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t cgroup2 none sys/fs/cgroup
    mount -t tmpfs none dev
    mkdir dev/{pts,shm}
    for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
        IFS=: read -r name major minor <<<$node
        mknod -m 666 dev/$name c $major $minor
    done
    ln -s /proc/self/fd dev/fd
    mount -t tmpfs none tmp
    mount -t tmpfs none run
    printf '[Unit]\\nRequires=basic.target\\n' > etc/systemd/system/nothing-else.target
    touch $FOLDER/host/begun
    exec env -i PATH=$PATH container=docker chroot . /lib/systemd/systemd --unit=nothing-else.target --log-target=null";

const NEEDS: &str = "
    mount -t tmpfs none $FOLDER
    mkdir $FOLDER/{new,work,root,groups}
    mount -t overlay none -o lowerdir=/,upperdir=$FOLDER/new,workdir=$FOLDER/work $FOLDER/root
    mount -t cgroup2 none $FOLDER/groups
    mknod -m 666 $FOLDER/null c 1 3
    test -x /lib/systemd/systemd";

/// The machine; all its processes and mounts end when it is dropped.
pub struct Machine {
    outside: Child,
    inside: u32,
    folder: TempDir,
}

impl Machine {
    /// Why none can be booted here, if so: what it takes is root's, and not in every container.
    pub fn missing() -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let out = Command::new("unshare")
            .args(["--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts"])
            .args(["--fork", "bash", "-euc", NEEDS])
            .env("FOLDER", folder.path())
            .output()
            .unwrap();
        (!out.status.success()).then(|| stderr(&out))
    }

    /// Boots.
    pub fn boot() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-machine-")
            .tempdir()
            .unwrap();
        sh(&format!(
            "chmod 755 {0}; mkdir {0}/disk {0}/host",
            text(folder.path())
        ));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let outside = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--cgroup",
                "--net",
                "--ipc",
                "--uts",
                "--fork",
                "--kill-child",
            ])
            .args(["bash", "-euc", BOOT])
            .env("FOLDER", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let mut inside = None;
        wait_for("the machine's first process", || {
            let pids = fs::read_to_string(&children).unwrap_or_default();
            inside = pids.split(' ').next().and_then(|pid| pid.parse().ok());
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(log.is_empty(), "{log}");
            inside.is_some() && folder.path().join("host/begun").exists()
        });
        let machine = Machine {
            outside,
            inside: inside.unwrap(),
            folder,
        };
        // On a busy machine the first look alone takes a while.
        wait_up_to(90, "systemd", || {
            machine
                .try_run("systemctl is-active basic.target")
                .status
                .success()
        });
        machine
    }

    /// What is `/host` inside.
    pub fn host(&self) -> std::path::PathBuf {
        self.folder.path().join("host")
    }

    /// Runs a script as root, as if logged in.
    pub fn try_run(&self, script: &str) -> Output {
        let inside = self.inside.to_string();
        let root = format!("--root=/proc/{inside}/root");
        Command::new("nsenter")
            .args([
                "--target", &inside, "--mount", "--pid", "--cgroup", "--net", "--ipc", "--uts",
            ])
            .args([&root, "--wdns=/root"])
            .args([
                "env",
                "-i",
                "HOME=/root",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
            ])
            .args(["bash", "-euo", "pipefail", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a script that must succeed; what it printed.
    pub fn run(&self, script: &str) -> String {
        let out = self.try_run(script);
        assert!(
            out.status.success(),
            "{script}: {}{}",
            stdout(&out),
            stderr(&out)
        );
        stdout(&out).trim_end().to_owned()
    }

    /// Puts a file there.
    pub fn bring(&self, file: &Path) {
        fs::copy(file, self.host().join(file.file_name().unwrap())).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.outside.kill().ok();
        self.outside.wait().ok();
    }
}
