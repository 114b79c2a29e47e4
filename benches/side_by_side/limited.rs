//! A disk that is as slow as it is told to be, to see what its speed has to do with a ratio.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::Disk;

/// Limits of the devices, in bytes per second: those of the group that all processes are in.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device",
    "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device",
];

/// An ext4 of its own, on a device that reads and writes only so much in a second.
pub struct LimitedDisk {
    disk: Disk,
    device: String,
}

impl LimitedDisk {
    /// A new one with room for so many MiB.
    pub fn new(mebibytes: u64, bytes_per_second: u64) -> io::Result<Self> {
        if !Disk::can_be_made() {
            return Err(io::Error::other("no loop device"));
        }
        let disk = Disk::new(mebibytes);
        let number = fs::metadata(&disk.path)?.dev();
        let device = format!(
            "{}:{}",
            rustix::fs::major(number),
            rustix::fs::minor(number)
        );
        limit(&device, bytes_per_second)?;
        Ok(LimitedDisk { disk, device })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.disk.path
    }
}

impl Drop for LimitedDisk {
    fn drop(&mut self) {
        limit(&self.device, 0).ok();
    }
}

/// Limits a device, named by its numbers as `7:0`; to 0: not any more.
pub fn limit(device: &str, bytes_per_second: u64) -> io::Result<()> {
    for file in LIMITS {
        fs::write(file, format!("{device} {bytes_per_second}"))
            .map_err(|error| io::Error::other(format!("{file}: {error}")))?;
    }
    Ok(())
}
