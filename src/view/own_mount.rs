//! Looking names up in our own mount, as any other process would.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, open, statat};

/// The first descriptor that is not standard input, output or error.
const FIRST_OWN: libc::c_uint = 3;

/// What is asked of the thread, and who waits for the answer.
enum Question {
    LookUp {
        folder: String,
        name: String,
        answer: Sender<io::Result<u64>>,
    },
    Sync(Sender<io::Result<()>>),
}

/// A thread that looks up. It has a descriptor table of its own with nothing of the daemon's in it: killed while it waits for the
/// daemon's answer, it would keep /dev/fuse open and so keep the kernel from ending the mount, and with that its own wait.
pub(super) struct OwnMount {
    questions: Sender<Question>,
}

impl OwnMount {
    /// Starts the thread; it ends when this is dropped.
    pub fn start(mountpoint: PathBuf, device: u64) -> io::Result<Self> {
        let (questions, asked) = unbounded();
        thread::Builder::new()
            .name("look-up".into())
            .spawn(move || run(&asked, &mountpoint, device))?;
        Ok(OwnMount { questions })
    }

    /// The inode of `name` in this folder of the mount, or in its root where that is empty.
    pub fn look_up(&self, folder: &str, name: &str) -> io::Result<u64> {
        let (folder, name) = (folder.to_owned(), name.to_owned());
        self.ask(|answer| Question::LookUp {
            folder,
            name,
            answer,
        })
    }

    /// Syncs a folder once. The kernel learns from the answer that this needs no call; until it has, each fsync(2) of a folder by
    /// anybody takes that folder's lock for itself alone.
    pub fn sync(&self) -> io::Result<()> {
        self.ask(Question::Sync)
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<io::Result<T>>) -> Question) -> io::Result<T> {
        let gone = || io::Error::other("the thread that looks up has ended");
        let (answer, answered) = bounded(1);
        self.questions.send(question(answer)).map_err(|_| gone())?;
        answered.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn run(asked: &Receiver<Question>, mountpoint: &Path, device: u64) {
    if let Err(error) = leave_descriptors() {
        log::warn!("a killed daemon may not end by itself: {error}");
    }
    for question in asked {
        // Whoever asked may have panicked.
        match question {
            Question::LookUp {
                folder,
                name,
                answer,
            } => answer
                .send(look_up(&mountpoint.join(folder), &name, device))
                .ok(),
            Question::Sync(answer) => answer.send(sync(&mountpoint.join("live"), device)).ok(),
        };
    }
}

/// Gives this thread a table of its own without the others' descriptors.
fn leave_descriptors() -> io::Result<()> {
    // SAFETY: the descriptors are closed in this thread's new table only; nothing that runs on this thread uses one of them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST_OWN,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn sync(folder: &Path, device: u64) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    if fstat(&folder)?.st_dev != device {
        return Err(io::Error::other("another mount covers it"));
    }
    Ok(rustix::fs::fsync(&folder)?)
}

/// The handle lives for this call only: a kept one would make every plain umount fail with EBUSY.
fn look_up(folder: &Path, name: &str, device: u64) -> io::Result<u64> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    if fstat(&folder)?.st_dev != device {
        return Err(io::Error::other("another mount covers it"));
    }
    Ok(statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino)
}
