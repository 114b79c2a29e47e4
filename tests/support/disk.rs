//! A small ext4 of its own, on a loop device: to compare with, to fill up, to make read-only.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::files::sh;
use super::site::is_mounted;

/// A mounted disk image; unmounted and removed when dropped.
pub struct Disk {
    folder: TempDir,
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Disk {
    /// A new, empty ext4 of this size, writable.
    pub fn new(mebibytes: u64) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-disk-")
            .tempdir()
            .unwrap();
        sh(&format!("chmod 755 {}", folder.path().display()));
        let path = folder.path().join("mnt");
        fs::create_dir(&path).unwrap();
        let disk = Disk { folder, path };
        sh(&format!(
            "truncate -s {mebibytes}M {image}\nmkfs.ext4 -q -m 0 {image}\n\
             mount -o loop,nosuid,nodev,noatime {image} {path}\nrmdir {path}/lost+found",
            image = disk.folder.path().join("image").display(),
            path = disk.path.display(),
        ));
        disk
    }

    /// Mounts it anew as read-only (`ro`) or writable (`rw`).
    pub fn remount(&self, how: &str) {
        sh(&format!("mount -o remount,{how} {}", self.path.display()));
    }

    /// Takes all space that is left; what gives it back is removing the file.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0xff; size];
            while file.write_all(&block).is_ok() {}
            file.sync_all().ok();
        }
        assert_eq!(free_blocks(&self.path), 0, "the disk is full");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

/// A folder that a test has mounted something on; unmounted when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// An empty filesystem in memory.
    pub fn tmpfs(path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        sh(&format!("mount -t tmpfs none {}", path.display()));
        Mounted(path.to_owned())
    }

    /// What is at `from`, as writable as root can make it.
    pub fn bind(from: &Path, path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        let path_text = path.display();
        sh(&format!("mount --bind {} {path_text}", from.display()));
        let mounted = Mounted(path.to_owned());
        sh(&format!("mount -i -o remount,bind,rw {path_text}"));
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

fn detach(path: &Path) {
    while is_mounted(path) {
        let unmounted = Command::new("umount").arg("-l").arg(path).output();
        if !unmounted.is_ok_and(|out| out.status.success()) {
            break;
        }
    }
}

fn free_blocks(path: &Path) -> u64 {
    rustix::fs::statvfs(path).unwrap().f_bavail
}
