//! An ordinary user who holds the lock of a folder: a listing that is written into memory which never arrives.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, Request,
    Session, SessionACL,
};
use tempfile::TempDir;

use super::site::wait_for;
use super::users::{NOBODY, as_nobody};

const PAGE_BYTES: usize = 4096;
const FIRST_FILE: u64 = 10;

/// Tells blocked reads to fail.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

/// A filesystem of files `0`, `1`, … whose bytes never arrive before the gate opens.
struct Silent {
    gate: Arc<Gate>,
    reads: Arc<AtomicUsize>,
}

fn attr(ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: PAGE_BYTES as u64,
        blocks: 8,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: match ino {
            1 => FileType::Directory,
            _ => FileType::RegularFile,
        },
        perm: 0o755,
        nlink: 1,
        uid: NOBODY,
        gid: NOBODY,
        rdev: 0,
        blksize: PAGE_BYTES as u32,
        flags: 0,
    }
}

impl Filesystem for Silent {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number: u64 = name.to_str().unwrap().parse().unwrap();
        let entry = attr(FIRST_FILE + number);
        reply.entry(&Duration::from_secs(60), &entry, Generation(0));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(60), &attr(ino.0));
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if offset == 0 {
            let _ = reply.add(INodeNo(FIRST_FILE), 1, FileType::RegularFile, "0");
        }
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.clone();
        std::thread::spawn(move || {
            let mut is_open = gate.is_open.lock().unwrap();
            while !*is_open {
                is_open = gate.opened.wait(is_open).unwrap();
            }
            reply.error(Errno::EIO);
        });
    }
}

/// `nobody`, with a FUSE filesystem of his own whose files never arrive. Dropping it ends all that he does.
pub struct Stranger {
    gate: Arc<Gate>,
    reads: Arc<AtomicUsize>,
    processes: Vec<libc::pid_t>,
    session: Option<BackgroundSession>,
    folder: TempDir,
}

impl Stranger {
    /// Mounts his filesystem.
    pub fn new() -> Self {
        Self::mounted(&Config::default(), |mount| as_nobody(mount))
    }

    /// The same for all users, as one may where `/etc/fuse.conf` has `user_allow_other`.
    pub fn for_all() -> Self {
        let mut config = Config::default();
        config.acl = SessionACL::All;
        Self::mounted(&config, |mount| mount())
    }

    /// Where it is mounted: a folder with the file `0`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// True once a read hangs; false where none does in this time.
    pub fn has_read_within(&self, limit: Duration) -> bool {
        let began = std::time::Instant::now();
        while began.elapsed() < limit {
            if self.reads.load(Ordering::SeqCst) > 0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn mounted(
        config: &Config,
        run: impl FnOnce(&(dyn Fn() -> Session<Silent> + Sync)) -> Session<Silent>,
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("deployfs-stranger-")
            .tempdir()
            .unwrap();
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let (gate, reads) = (Arc::<Gate>::default(), Arc::<AtomicUsize>::default());
        let silent = Silent {
            gate: gate.clone(),
            reads: reads.clone(),
        };
        let silent = Mutex::new(Some(silent));
        let mount = || {
            let silent = silent.lock().unwrap().take().unwrap();
            Session::new(silent, folder.path(), config).unwrap()
        };
        let session = Some(run(&mount).spawn().unwrap());
        Stranger {
            gate,
            reads,
            processes: Vec::new(),
            session,
            folder,
        }
    }

    /// Lists this folder into memory that never arrives, in a process of its own: its number, once the kernel has the folder's
    /// lock for it.
    /// Errors: the errno of the call that refused him.
    pub fn hold(&mut self, folder: &Path) -> Result<libc::pid_t, i32> {
        let before = self.reads.load(Ordering::SeqCst);
        let path = |path: PathBuf| CString::new(path.as_os_str().as_bytes()).unwrap();
        let page = path(self.folder.path().join(self.processes.len().to_string()));
        let target = path(folder.to_owned());
        let process = as_nobody(|| fork(|| list_into(&page, &target)));
        let mut refused = None;
        wait_for("a listing that hangs", || {
            refused = ended(process);
            refused.is_some() || self.reads.load(Ordering::SeqCst) > before
        });
        match refused {
            Some(errno) => Err(errno),
            None => {
                self.processes.push(process);
                Ok(process)
            }
        }
    }

    /// Everything that hangs ends.
    pub fn release(&mut self) {
        *self.gate.is_open.lock().unwrap() = true;
        self.gate.opened.notify_all();
        for process in self.processes.drain(..) {
            wait_for("the end of a listing", || ended(process).is_some());
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.release();
        // The daemon may still have it open: then an ordinary unmount is refused.
        let path = CString::new(self.folder.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in a NUL and outlives the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        drop(self.session.take());
    }
}

/// The exit code of a child that has ended.
pub fn ended(process: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the status goes to a live integer.
    let answer = unsafe { libc::waitpid(process, &mut status, libc::WNOHANG) };
    (answer == process).then(|| libc::WEXITSTATUS(status))
}

/// Runs this in a child, which ends with what it returns. It may only make system calls.
pub fn fork(work: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child makes system calls only, allocates nothing, and ends without running anything of the parent's.
    match unsafe { libc::fork() } {
        0 => {
            let code = work();
            // SAFETY: integer argument only.
            unsafe { libc::_exit(code) }
        }
        child => child,
    }
}

/// 0, or the errno of the call that failed.
fn list_into(page: &CString, folder: &CString) -> i32 {
    // SAFETY: `__errno_location` is this thread's, and always there.
    let errno = || unsafe { *libc::__errno_location() };
    // SAFETY: both paths live, and the mapping is as long as is said.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
        let page = libc::open(page.as_ptr(), libc::O_RDONLY);
        let folder = libc::open(folder.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        if page < 0 || folder < 0 {
            return errno();
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let memory = libc::mmap(
            std::ptr::null_mut(),
            PAGE_BYTES,
            rights,
            libc::MAP_PRIVATE,
            page,
            0,
        );
        if memory == libc::MAP_FAILED {
            return errno();
        }
        match libc::syscall(libc::SYS_getdents64, folder, memory, PAGE_BYTES) {
            -1 => errno(),
            _ => 0,
        }
    }
}
