//! All access of the store to its disk (but sled's), as one small trait, so that a test can lose, tear and fail every step.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use rustix::fs::{AtFlags, FallocateFlags, OFlags, renameat, unlinkat};

use super::own_files::{self, Whose};

/// Files kept open for the next read. A store has any number of packs, a process 1024 descriptors.
const OPEN_MAX: usize = 128;
/// Appends of at least so many bytes go on their way to the disk at once: the sync that follows finds less to do.
const WRITE_OUT: usize = 1 << 20;

/// A folder of files. Paths are relative to it, with `/` between their elements.
pub trait Disk: Send + Sync {
    /// Appends all the bytes; makes the file if it is not there. After an error the file's end is unknown.
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Up to `len` bytes from `offset`, fewer only where the file ends.
    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// The same, appended to `out`.
    fn read_into(&self, path: &str, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.append(&mut self.read_at(path, offset, len)?);
        Ok(())
    }
    /// These bytes will not be asked for again soon: they need not be cached.
    fn drop_cached(&self, _path: &str, _offset: u64, _len: u64) {}
    /// Makes a file's bytes, or a directory's names, survive a power cut. Never to be retried after an error.
    fn sync(&self, path: &str) -> io::Result<()>;
    /// Renames a file over another or a free name, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// The files of a directory and their lengths, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Cuts a file off.
    fn truncate(&self, path: &str, len: u64) -> io::Result<()>;
    /// Frees the space of these bytes, which are zero then. The file keeps its length.
    fn punch(&self, path: &str, offset: u64, len: u64) -> io::Result<()>;
    /// Sets space aside for `bytes` more at the end of a file, without changing its length.
    fn reserve(&self, path: &str, bytes: u64) -> io::Result<()>;
}

/// The host's filesystem.
pub struct HostDisk {
    root: PathBuf,
    writable: bool,
    open: Cache<String, Arc<File>>,
    /// Written and not synced: the descriptor must be the same for both, else the kernel may have told a write error to nobody.
    unsynced: Mutex<HashMap<String, Arc<File>>>,
}

impl HostDisk {
    /// The files below `root`; `writable` false opens none for writing.
    pub fn new(root: PathBuf, writable: bool) -> Self {
        HostDisk {
            root,
            writable,
            open: Cache::new(OPEN_MAX),
            unsynced: Mutex::default(),
        }
    }

    fn file(&self, path: &str, create: bool) -> io::Result<Arc<File>> {
        if let Some(file) = self.unsynced().get(path) {
            return Ok(file.clone());
        }
        self.open.get_or_insert_with(path, || {
            let flags = match self.writable {
                true => OFlags::RDWR | OFlags::APPEND,
                false => OFlags::RDONLY,
            };
            let create = create && self.writable;
            own_files::open(&self.root, path, flags, create, Whose::Owners).map(Arc::new)
        })
    }

    /// What is there can be read also when the disk has turned read-only. Such a file is not kept: nothing can be appended to it.
    fn file_to_read(&self, path: &str) -> io::Result<Arc<File>> {
        match self.file(path, false) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                own_files::open(&self.root, path, OFlags::RDONLY, false, Whose::Owners)
                    .map(Arc::new)
            }
            other => other,
        }
    }

    /// The folder that a file is in, and its name there.
    fn place<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((own_files::folder(&self.root, folder)?, name))
    }

    fn forget(&self, path: &str) {
        self.unsynced().remove(path);
        self.open.remove(path);
    }

    fn unsynced(&self) -> MutexGuard<'_, HashMap<String, Arc<File>>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does not wait. A write that fails is told by the sync.
fn start_write_out(file: &File) {
    // SAFETY: a call on an open descriptor with integer arguments only; offset and length 0 mean the whole file.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

impl Disk for HostDisk {
    fn append(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(path, true)?;
        self.unsynced().insert(path.to_owned(), file.clone());
        file.as_ref().write_all(bytes)?;
        if bytes.len() >= WRITE_OUT {
            start_write_out(&file);
        }
        Ok(())
    }

    fn read_at(&self, path: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_into(path, offset, len, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, path: &str, offset: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let file = self.file_to_read(path)?;
        out.reserve_exact(len);
        let mut filled = 0;
        while filled < len {
            let free = &mut out.spare_capacity_mut()[..len - filled];
            match rustix::io::pread(&file, free, offset + filled as u64) {
                Ok(([], _)) => break,
                Ok((read, _)) => {
                    let count = read.len();
                    // SAFETY: the call has filled so many bytes after the end.
                    unsafe { out.set_len(out.len() + count) };
                    filled += count;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn drop_cached(&self, path: &str, offset: u64, len: u64) {
        if let Ok(file) = self.file(path, false) {
            let advice = rustix::fs::Advice::DontNeed;
            // Nothing depends on it.
            let _ = rustix::fs::fadvise(&file, offset, NonZeroU64::new(len), advice);
        }
    }

    fn sync(&self, path: &str) -> io::Result<()> {
        let full = self.root.join(path);
        if full.is_dir() {
            File::open(full)?.sync_all()
        } else {
            let synced = self.file(path, false)?.sync_data();
            self.unsynced().remove(path);
            synced
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        renameat(from_folder, from_name, to_folder, to_name)?;
        self.forget(from);
        self.forget(to);
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        own_files::folder(&self.root, dir)?;
        for entry in fs::read_dir(self.root.join(dir))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.forget(path);
        let removed = self.place(path).and_then(|(folder, name)| {
            unlinkat(folder, name, AtFlags::empty()).map_err(io::Error::from)
        });
        // A reader may have opened it again meanwhile; its space must not wait for that.
        self.forget(path);
        removed
    }

    fn truncate(&self, path: &str, len: u64) -> io::Result<()> {
        self.file(path, false)?.set_len(len)
    }

    fn punch(&self, path: &str, offset: u64, len: u64) -> io::Result<()> {
        let file = self.file(path, false)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(file, flags, offset, len)?)
    }

    fn reserve(&self, path: &str, bytes: u64) -> io::Result<()> {
        let file = self.file(path, true)?;
        let len = file.metadata()?.len();
        let flags = FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(file, flags, len, bytes) {
            // A filesystem that cannot set space aside: no reserve, as on any other full disk.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
