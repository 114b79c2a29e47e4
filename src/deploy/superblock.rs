//! The mounted superblock that a folder lies on, told apart from every other one since the machine started.
//!
//! A device number is no identity: images with fixed dates (squashfs, `mke2fs -d`, layers of containers) that are mounted one
//! after the other at the same place repeat device, inode numbers, sizes, modes and times. A file's ctime tells of a change only
//! while one superblock stays mounted and writable, since then every change goes through this kernel and its clock.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, StatVfsMountFlags, StatxFlags, fstatfs, fstatvfs, stat, statfs, statx};

/// Numbers of filesystems, as in statfs(2) and linux/magic.h.
const EXT: i128 = 0xef53;
const XFS: i128 = 0x5846_5342;
const F2FS: i128 = 0xf2f5_2010;
const BTRFS: i128 = 0x9123_683e;
const ZFS: i128 = 0x2fc1_2fc1;
const BCACHEFS: i128 = 0xca45_1a4e;
const SYSFS: i128 = 0x6265_6572;

/// The major number of loop devices, whose bytes are a file that others may write.
const LOOP_MAJOR: u32 = 7;
/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): an id that no other mount gets until the machine is started again.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A superblock that is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    id: [u8; 32],
    dev: (u32, u32),
}

impl Superblock {
    /// Bytes of an id.
    pub const ID_LEN: usize = 32;

    /// The superblock of an open file or folder. `None` where it cannot be told from others, or where files may change without
    /// a new ctime: read-only and loop mounts, overlays, tmpfs (a write through a shared mapping changes no time there), FUSE,
    /// the network.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        let fd = fd.as_fd();
        let volume = fstatvfs(fd).ok()?;
        let fields = StatxFlags::BASIC_STATS | MOUNT_ID_UNIQUE;
        let found = statx(fd, "", AtFlags::EMPTY_PATH, fields).ok()?;
        let dev = (found.stx_dev_major, found.stx_dev_minor);
        if volume.f_flag.contains(StatVfsMountFlags::RDONLY) || dev.0 == LOOP_MAJOR {
            return None;
        }
        let has_mount_id = found.stx_mask & MOUNT_ID_UNIQUE.bits() != 0;
        let instance = match fstatfs(fd).ok()?.f_type.into() {
            EXT => sysfs_inode("ext4", dev)?,
            XFS => sysfs_inode("xfs", dev)?,
            F2FS => sysfs_inode("f2fs", dev)?,
            BTRFS | ZFS | BCACHEFS if has_mount_id => found.stx_mnt_id,
            _ => return None,
        };
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let mut id = blake3::Hasher::new();
        id.update(&boot);
        // A subvolume has an f_fsid of its own, where device numbers are used again.
        for number in [dev.0.into(), dev.1.into(), instance, volume.f_fsid] {
            id.update(&u64::to_le_bytes(number));
        }
        Some(Superblock {
            id: *id.finalize().as_bytes(),
            dev,
        })
    }

    /// Bytes that no other superblock has.
    pub fn id(&self) -> &[u8; Self::ID_LEN] {
        &self.id
    }

    /// True for the device number of its files; other subvolumes have others.
    pub fn has_device(&self, dev: (u32, u32)) -> bool {
        self.dev == dev
    }

    /// A superblock of a test's own.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn invented(number: u8, dev: (u32, u32)) -> Self {
        Superblock {
            id: [number; Self::ID_LEN],
            dev,
        }
    }
}

/// The inode of the folder that the kernel makes in sysfs for each superblock while it is mounted, by the filesystem's name and
/// the device's numbers. The kernel counts these inodes up (with 64 bits since Linux 5.5), so no later mount has the same one.
pub fn sysfs_inode(kind: &str, (major, minor): (u32, u32)) -> Option<u64> {
    let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let folder = Path::new("/sys/fs").join(kind).join(device.file_name()?);
    if i128::from(statfs(&folder).ok()?.f_type) != SYSFS {
        return None;
    }
    Some(stat(&folder).ok()?.st_ino)
}
