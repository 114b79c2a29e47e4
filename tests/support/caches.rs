//! The kernel's caches, which all tests on a machine share: some count on them, some drop them.

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::fs::{FlockOperation, flock};

/// While the answer exists, no test drops the kernel's caches.
pub fn keep_caches() -> File {
    lock(FlockOperation::LockShared)
}

/// Drops the kernel's cached names and inodes, once no test counts on them.
pub fn drop_caches() {
    let mut control = lock(FlockOperation::LockExclusive);
    control.write_all(b"2\n").unwrap();
}

/// The switch itself is the lock, so that test runs side by side respect each other too.
fn lock(how: FlockOperation) -> File {
    let mut options = OpenOptions::new();
    let control = options
        .write(true)
        .open("/proc/sys/vm/drop_caches")
        .expect("the switch that drops caches, open to root");
    flock(&control, how).unwrap();
    control
}
