//! What the rows about reading share: a mounted store with both versions of the site, and the same files on the disk itself.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::data::{Data, Random};
use crate::support::{Site, text};

/// A mounted store whose live deploy is the first version of the site.
pub struct Bed {
    /// The store and its mount.
    pub site: Site,
    /// The first version's id.
    pub first: String,
    /// The second version's id.
    pub second: String,
    /// The first version's files in an order that is neither the disk's nor the mount's.
    pub order: Vec<PathBuf>,
}

impl Bed {
    /// Seals both versions and activates the first.
    pub fn new(data: &Data) -> Self {
        let site = Site::new();
        let first = site.deploy(&data.site);
        site.activate(&first);
        let second = site.deploy(&data.next);
        let mut order = data.files.clone();
        Random::new(3).shuffle(&mut order);
        Bed {
            site,
            first,
            second,
            order,
        }
    }

    /// Where the live deploy is.
    pub fn live(&self) -> PathBuf {
        self.site.path("live")
    }
}

/// Absolute paths ready for system calls.
pub fn c_paths(root: &Path, files: &[PathBuf]) -> Vec<CString> {
    let path = |file: &PathBuf| CString::new(root.join(file).as_os_str().as_bytes());
    files
        .iter()
        .map(|file| path(file).expect("no NUL in a path"))
        .collect()
}

/// Opens, stats, reads whole and closes every file; seconds.
pub fn read_all(root: &Path, files: &[PathBuf]) -> f64 {
    let paths: Vec<PathBuf> = files.iter().map(|file| root.join(file)).collect();
    let mut buffer = vec![0; 1 << 20];
    time(|| {
        for path in &paths {
            read_through(path, &mut buffer).expect("a file of the site");
        }
    })
}

/// Reads a file to its end; its length.
pub fn read_through(path: &Path, buffer: &mut [u8]) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut total = 0;
    while total < size {
        match io::Read::read(&mut file, buffer)? {
            0 => break,
            count => total += count as u64,
        }
    }
    Ok(total)
}

/// Stats every file; seconds.
pub fn stat_all(root: &Path, files: &[PathBuf]) -> f64 {
    let paths: Vec<PathBuf> = files.iter().map(|file| root.join(file)).collect();
    time(|| {
        for path in &paths {
            fs::symlink_metadata(path).expect("a file of the site");
        }
    })
}

/// The kinds of upcalls of which there are more than before.
pub fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    let grown = |(kind, count): (&String, &u64)| {
        let more = count - before.get(kind).unwrap_or(&0);
        (more > 0).then(|| format!("{kind} {more}"))
    };
    after.iter().filter_map(grown).collect()
}

/// How long something takes, in seconds.
pub fn time(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// How long a command takes that must succeed, in seconds. It says nothing.
pub fn time_command(command: &mut Command) -> f64 {
    time(|| {
        let out = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(
            out.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    })
}

/// Writes back everything that is dirty and waits until the disk is idle, so that the next measurement does not pay for what
/// was written or deleted before it. Where others keep the disk busy, it gives up after half a second.
pub fn settle() {
    rustix::fs::sync();
    let mut seen = disk_activity();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(50));
        let now = disk_activity();
        if now == seen {
            return;
        }
        seen = now;
    }
}

/// The counters of all disks: equal twice, and nothing has been done in between.
fn disk_activity() -> String {
    fs::read_to_string("/proc/diskstats").unwrap_or_default()
}

/// Writes back and drops everything the kernel has cached of files.
pub fn drop_caches() {
    settle();
    let mut switch = lock_caches(FlockOperation::LockExclusive);
    switch.write_all(b"3\n").expect("root may drop the caches");
}

/// While the answer exists, none of the tests and benchmarks of deployfs on this machine drops the kernel's caches.
pub fn keep_caches() -> File {
    lock_caches(FlockOperation::LockShared)
}

fn lock_caches(how: FlockOperation) -> File {
    let mut options = OpenOptions::new();
    let switch = options.write(true).open("/proc/sys/vm/drop_caches");
    let switch = switch.expect("root may open the switch");
    flock(&switch, how).expect("a lock");
    switch
}

/// Copies a folder with `cp -r` to where nothing is yet.
pub fn copy(from: &Path, to: &Path) {
    time_command(Command::new("cp").args(["-r", text(from), text(to)]));
}
