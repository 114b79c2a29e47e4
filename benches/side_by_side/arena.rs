//! The folder that everything happens in, and its clean-up: at the end, after a failure, and on Ctrl-C.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::support;

/// The exit code of a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;
/// How often clean-up looks for processes that are still there, 50 ms apart.
const LOOKS: usize = 40;

/// A folder below which all is made and mounted. Every process started ends with it, daemons included.
pub struct Arena {
    folder: PathBuf,
    /// Held for ever by a clean-up that a signal caused.
    cleaning: Arc<Mutex<()>>,
}

impl Arena {
    /// A new folder in `dir`, which becomes the place of all temporary files. Call it before any other thread exists.
    pub fn new(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let folder = dir
            .canonicalize()?
            .join(format!("bench-{}", std::process::id()));
        fs::create_dir(&folder)?;
        // The web server's workers, ordinary users, must get through.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("TMPDIR", &folder) };
        // Daemons become our children when their parents end, and can be found.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let arena = Arena {
            folder,
            cleaning: Arc::default(),
        };
        arena.clean_on_signals()?;
        Ok(arena)
    }

    /// The folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn clean_on_signals(&self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let (folder, cleaning) = (self.folder.clone(), self.cleaning.clone());
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                let _one = cleaning.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("interrupted: cleaning up");
                clean(&folder);
                std::process::exit(INTERRUPTED);
            }
        });
        Ok(())
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _one = self.cleaning.lock().unwrap_or_else(PoisonError::into_inner);
        clean(&self.folder);
    }
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
    for mount in mounts_below(folder) {
        if let Err(error) = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("'{}' stays mounted: {error}", mount.display());
        }
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("'{}' cannot be removed: {error}", folder.display());
    }
}

/// Innermost first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(folder))
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
