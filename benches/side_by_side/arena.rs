//! The folder that everything happens in, and its clean-up: at the end, after a failure, and on Ctrl-C.
//!
//! One process measures; the one that started it waits, and cleans up after it however it ends.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{limited, support};

/// How often clean-up looks for processes that are still there, 50 ms apart.
const LOOKS: usize = 40;

/// Runs this program again with `--folder`, in a new folder below `dir` that is the place of all its temporary files.
/// Afterwards nothing of it is left: no process, daemons included, no mount, no file. Its exit code, 130 after Ctrl-C.
pub fn run_in(dir: &Path) -> io::Result<u8> {
    fs::create_dir_all(dir)?;
    let name = format!("bench-{}", std::process::id());
    let folder = dir.canonicalize()?.join(name);
    fs::create_dir(&folder)?;
    // The web server's workers, ordinary users, must get through.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    // ext4 finds inodes slowly where many were deleted in the last minutes. With this flag, each folder made below gets a
    // place of its own; and nothing large is deleted before the end. Other filesystems do not know the flag.
    Command::new("chattr").arg("+T").arg(&folder).output().ok();
    // Daemons become our children when their parents end, and can be found.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--folder")
        .arg(&folder)
        .env("TMPDIR", &folder)
        .spawn()?;
    let pid = child.id() as i32;
    thread::spawn(move || {
        for _ in signals.forever() {
            support::kill(pid, libc::SIGKILL);
        }
    });
    let status = child.wait();
    clean(&folder);
    Ok(match status?.code() {
        Some(code) => code as u8,
        None => 130,
    })
}

fn clean(folder: &Path) {
    for _ in 0..LOOKS {
        let running = descendants();
        if running.is_empty() {
            break;
        }
        for pid in running {
            support::kill(pid, libc::SIGKILL);
        }
        thread::sleep(Duration::from_millis(50));
    }
    for (device, mount) in mounts_below(folder) {
        // The next disk on the device must not be as slow. Where nothing can be limited, nothing is.
        limited::limit(&device, 0).ok();
        if let Err(error) = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("'{}' stays mounted: {error}", mount.display());
        }
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("'{}' cannot be removed: {error}", folder.display());
    }
}

/// The numbers of their devices and their paths, innermost first.
fn mounts_below(folder: &Path) -> Vec<(String, PathBuf)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<(String, PathBuf)> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            Some((fields.get(2)?.to_string(), fields.get(4)?.into()))
        })
        .filter(|(_, path): &(String, PathBuf)| path.starts_with(folder))
        .collect();
    mounts.reverse();
    mounts
}

/// All processes below this one that run.
fn descendants() -> Vec<i32> {
    let mut family = vec![std::process::id() as i32];
    let all = processes();
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        family.extend(more);
    }
    family.split_off(1)
}

/// Process and parent ids, without zombies.
fn processes() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may have anything in it.
            let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            (state != "Z").then_some((pid, parent))
        })
        .collect()
}
