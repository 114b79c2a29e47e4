//! A small filesystem of its own, on a loop device: to compare with, to fill up, to make read-only, to cut the power of.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::files::sh;
use super::site::{is_mounted, wait_for};

/// A mounted disk image; unmounted and removed when dropped.
pub struct Disk {
    folder: TempDir,
    /// Where it is mounted.
    pub path: PathBuf,
    options: &'static str,
}

const EXT4: &str = "loop,nosuid,nodev,noatime";
/// A copy has the same UUID, which xfs else refuses.
const XFS: &str = "loop,nosuid,nodev,noatime,nouuid";

impl Disk {
    /// A new, empty ext4 of this size, writable.
    pub fn new(mebibytes: u64) -> Self {
        let disk = Self::made(mebibytes, "mkfs.ext4 -q -m 0", EXT4);
        sh(&format!("rmdir {}/lost+found", disk.path.display()));
        disk
    }

    /// A new, empty xfs.
    pub fn xfs() -> Self {
        Self::made(320, "mkfs.xfs -q", XFS)
    }

    /// True where a filesystem can be mounted from an image.
    pub fn can_be_made() -> bool {
        let free = Command::new("losetup").arg("-f").output();
        free.is_ok_and(|out| out.status.success())
    }

    fn made(mebibytes: u64, make: &str, options: &'static str) -> Self {
        let disk = Self::unmade(options);
        let image = disk.image();
        sh(&format!(
            "truncate -s {mebibytes}M {image}\n{make} {image}",
            image = image.display()
        ));
        disk.mount();
        disk
    }

    fn unmade(options: &'static str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-disk-")
            .tempdir()
            .unwrap();
        sh(&format!("chmod 755 {}", folder.path().display()));
        let path = folder.path().join("mnt");
        fs::create_dir(&path).unwrap();
        Disk {
            folder,
            path,
            options,
        }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Mounts it again. The loop device goes with the mount.
    pub fn mount(&self) {
        sh(&format!(
            "mount -o {} {} {}",
            self.options,
            self.image().display(),
            self.path.display()
        ));
    }

    /// Cuts the power: what has not reached the disk by now never will.
    pub fn cut_power(&self) {
        sh(&format!("xfs_io -x -c shutdown {}", self.path.display()));
    }

    /// The power is back. Nobody may have a file open on it.
    pub fn start_again(&self) {
        wait_for("the end of the disk's users", || {
            let out = Command::new("umount").arg(&self.path).output();
            out.is_ok_and(|out| out.status.success())
        });
        // Another test's mount namespace may still have the stopped filesystem: the same file would only show that one again.
        sh(&format!(
            "cp --sparse=always {0} {0}.again && mv {0}.again {0}",
            self.image().display()
        ));
        self.mount();
    }

    /// What another machine would find on the disk now; none where something was written to it all the while.
    pub fn copy(&self) -> Option<Self> {
        let copy = Self::unmade(self.options);
        let copied = (0..20).any(|_| {
            let before = self.writes();
            sh(&format!(
                "cp --sparse=always {} {}",
                self.image().display(),
                copy.image().display()
            ));
            self.writes() == before
        });
        copied.then(|| {
            copy.mount();
            copy
        })
    }

    /// Writes done, and requests under way.
    fn writes(&self) -> [u64; 2] {
        let stat = sh(&format!(
            "cat /sys/block/$(basename $(losetup -n -O NAME -j {}))/stat",
            self.image().display()
        ));
        let field = |number: usize| {
            let field = stat.split_whitespace().nth(number);
            field.and_then(|field| field.parse().ok()).unwrap()
        };
        [field(4), field(8)]
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
