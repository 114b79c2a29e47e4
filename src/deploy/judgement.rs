//! Whether a caller may read a file that was opened with somebody else's rights, judged by owner, group and mode bits.
//!
//! For a daemon that cannot become the caller. Only what those bits say in full is let through: a file with an access control
//! list, and a filesystem whose permissions may be decided elsewhere, are refused.

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, fstat, fstatfs};
use rustix::io::Errno;

use crate::model::report::Caller;

/// Read permission, as in the bits of others.
pub const READ: u32 = 0o4;
/// What it takes to list a directory and to open what is in it.
pub const LIST: u32 = 0o5;

/// An extended attribute: the file's access control list, where it has one that says more than its mode.
const ACL: &str = "system.posix_acl_access";

/// Filesystems on which mode bits and access control lists say all about who may read: ext4, xfs, btrfs, zfs, f2fs, overlay,
/// bcachefs, tmpfs. Numbers as in statfs(2) and linux/magic.h.
const PLAIN: [i128; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0x794c_7630,
    0xca45_1a4e,
    0x0102_1994,
];

/// False for a folder on a filesystem whose permissions may be decided elsewhere.
pub fn is_possible_on(folder: impl AsFd) -> bool {
    fstatfs(folder).is_ok_and(|stat| PLAIN.contains(&stat.f_type.into()))
}

/// Refuses, as the kernel would, an open file that `caller` does not have all of these permissions on.
///
/// # Errors
/// `EACCES` without the permissions, and where they cannot be judged.
pub fn check(caller: &Caller, fd: impl AsFd, wanted: u32) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let stat = fstat(fd)?;
    let has_acl = match fgetxattr(fd, ACL, &mut [0u8; 0]) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => false,
        Ok(_) | Err(_) => true,
    };
    match !has_acl && bits_for(caller, stat.st_uid, stat.st_gid, stat.st_mode) & wanted == wanted {
        true => Ok(()),
        false => Err(Errno::ACCESS),
    }
}

/// The three bits that hold for the caller: the owner's, else the group's, else the others'; never a union of them.
fn bits_for(caller: &Caller, uid: u32, gid: u32, mode: u32) -> u32 {
    let shift = match caller {
        _ if caller.uid == uid => 6,
        _ if caller.gid == gid || caller.groups.contains(&gid) => 3,
        _ => 0,
    };
    mode >> shift & 0o7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides_alone() {
        let caller = Caller {
            name: "one".into(),
            uid: 10,
            gid: 20,
            groups: vec![21],
        };
        for (uid, gid, mode, bits) in [
            (10, 20, 0o077, 0),
            (10, 9, 0o640, 6),
            (9, 20, 0o704, 0),
            (9, 21, 0o750, 5),
            (9, 9, 0o774, 4),
            (0, 0, 0o600, 0),
        ] {
            assert_eq!(
                bits_for(&caller, uid, gid, mode),
                bits,
                "{uid} {gid} {mode:o}"
            );
        }
    }
}
