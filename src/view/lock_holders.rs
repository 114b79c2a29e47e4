//! Processes that hold the lock of a folder of a mount: those whose listing does not end.
//!
//! The kernel names no holder of a lock. It shows which system call a thread is in, and its arguments; a listing is the one
//! call that holds a folder's lock while it waits for something other than this daemon: for the memory that it writes to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::mounts::{device_name, parse};
use crate::model::report::LockHolder;
use crate::users::name_of;

/// A listing that is still the same one after this time hangs.
const SAMPLE_WAIT: Duration = Duration::from_millis(100);
#[cfg(target_arch = "x86_64")]
const LISTINGS: [i64; 2] = [libc::SYS_getdents64, libc::SYS_getdents];
#[cfg(not(target_arch = "x86_64"))]
const LISTINGS: [i64; 1] = [libc::SYS_getdents64];

/// What was seen of the processes of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockHolders {
    /// Those that hold a lock.
    pub found: Vec<LockHolder>,
    /// How many processes this user may not look at.
    pub unseen: u64,
}

/// A thread in a listing.
#[derive(PartialEq, Eq)]
struct Listing {
    process: u32,
    thread: u32,
    /// The line that the kernel shows: call, arguments, stack and program counter.
    call: String,
    descriptor: u32,
    memory: u64,
}

/// The same by the number that stat(2) gives; the mount may be gone from every table.
pub fn lock_holders_on(device: u64) -> LockHolders {
    lock_holders(&device_name(device))
}

/// The processes that hold a folder's lock in the filesystem with this device number, as a mount table has it (`0:50`).
pub fn lock_holders(device: &str) -> LockHolders {
    let mut unseen = 0;
    let mut listings = Vec::new();
    for process in numbers(Path::new("/proc")) {
        match listings_of(process, device) {
            Ok(found) => listings.extend(found),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unseen += 1,
            // It has ended.
            Err(_) => {}
        }
    }
    if !listings.is_empty() {
        thread::sleep(SAMPLE_WAIT);
        listings.retain(|listing| {
            call_of(listing.process, listing.thread).is_ok_and(|call| call == listing.call)
        });
    }
    LockHolders {
        found: listings.iter().map(describe).collect(),
        unseen,
    }
}

pub(super) fn numbers(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn call_of(process: u32, thread: u32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall"))
}

fn listings_of(process: u32, device: &str) -> io::Result<Vec<Listing>> {
    let mut found = Vec::new();
    for thread in numbers(Path::new(&format!("/proc/{process}/task"))) {
        let call = call_of(process, thread)?;
        let Some((descriptor, memory)) = listing(&call) else {
            continue;
        };
        if device_of(process, descriptor).as_deref() == Some(device) {
            found.push(Listing {
                process,
                thread,
                call,
                descriptor,
                memory,
            });
        }
    }
    Ok(found)
}

/// The descriptor that is listed, and the address that the names go to.
fn listing(call: &str) -> Option<(u32, u64)> {
    let mut words = call.split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    if !LISTINGS.contains(&number) {
        return None;
    }
    let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    Some((argument()? as u32, argument()?))
}

fn descriptor_path(process: u32, descriptor: u32) -> PathBuf {
    format!("/proc/{process}/fd/{descriptor}").into()
}

/// As a mount table has it, asked of the kernel alone.
fn device_of(process: u32, descriptor: u32) -> Option<String> {
    let path = descriptor_path(process, descriptor);
    let stat = statx(
        CWD,
        &path,
        AtFlags::STATX_DONT_SYNC,
        StatxFlags::BASIC_STATS,
    )
    .ok()?;
    Some(format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor))
}

fn describe(listing: &Listing) -> LockHolder {
    let process = listing.process;
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}"));
    LockHolder {
        process,
        user: user_of(process),
        command: read("comm").unwrap_or_default().trim_end().to_owned(),
        folder: fs::read_link(descriptor_path(process, listing.descriptor)).unwrap_or_default(),
        fuse_connection: fuse_connection(process, listing.memory),
    }
}

/// Whose a process is.
pub(super) fn user_of(process: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let uid = status.lines().find_map(|line| {
        let numbers = line.strip_prefix("Uid:")?;
        numbers.split_whitespace().next()?.parse().ok()
    });
    uid.map(name_of).unwrap_or_default()
}

/// The FUSE filesystem that the memory at this address is a file of.
fn fuse_connection(process: u32, address: u64) -> Option<u32> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let device = maps.lines().find_map(|line| mapped_device(line, address))?;
    let name = format!("0:{device}");
    let table = fs::read(format!("/proc/{process}/mountinfo")).ok()?;
    let is_fuse = |kind: &str| kind.starts_with("fuse");
    let mut lines = parse(&table).into_iter();
    lines
        .any(|line| line.device == name && is_fuse(&line.fs_type))
        .then_some(device)
}

/// The minor device number of the file that this line of a memory map puts at the address.
fn mapped_device(line: &str, address: u64) -> Option<u32> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (_, minor) = words.nth(2)?.split_once(':')?;
    let inside = (hex(start)?..hex(end)?).contains(&address);
    inside.then(|| u32::from_str_radix(minor, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_told_from_other_calls_by_its_number() {
        let number = libc::SYS_getdents64;
        let line = format!("{number} 0x5 0x7f0000001000 0x8000 0x0 0x0 0x0 0x7ffc 0x7fff\n");
        assert_eq!(listing(&line), Some((5, 0x7f00_0000_1000)));
        assert_eq!(
            listing("0 0x5 0x7f0000001000 0x8000 0x0 0x0 0x0 0x7ffc 0x7fff"),
            None
        );
        assert_eq!(listing("running\n"), None);
    }

    #[test]
    fn memory_is_found_in_a_map_by_its_address() {
        let line = "7f0000001000-7f0000002000 rw-p 00000000 00:3a 10    /tmp/x/0";
        assert_eq!(mapped_device(line, 0x7f00_0000_1fff), Some(0x3a));
        assert_eq!(mapped_device(line, 0x7f00_0000_2000), None);
    }
}
