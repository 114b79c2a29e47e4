//! Reads the files of a scanned folder on all cores: hashes, cuts, compresses and appends what is new to the packs.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::credentials::Rights;
use super::error::DeployError;
use super::memory::Memory;
use super::mounted::Content;
use super::read_folder::{BaseDirs, Blobs, LastDir};
use super::scan::{CHANGED, FileJob, Folder, Problems, Scan, Stamp, cannot_read};
use super::sink::Sink;
use crate::model::blob::{INLINE_CHUNKS, encode_list};
use crate::model::chunking::{Chunking, FILE};
use crate::model::report::Progress;
use crate::model::{Blob, ChunkId, ChunkRef, ContentId, Layout};
use crate::store::StoreError;
use crate::sync::{Mutex, thread};

/// How often progress is told while files are read.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Files of which samples are taken, by their size in bytes: smaller ones have little to share, larger ones are cut.
pub const SAMPLE_FILE: RangeInclusive<u64> = 512..=FILE.whole as u64;
/// Roughly how many bytes of samples are taken.
const SAMPLE_BYTES: u64 = 2 << 20;

/// What a long operation listens and reports to.
pub struct Watch<'a> {
    /// Told now and then.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Set by the one who asked, to stop.
    pub cancel: &'a AtomicBool,
}

impl Watch<'_> {
    /// An error once the one who asked has gone.
    pub fn check(&self) -> Result<(), DeployError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(DeployError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// Tells progress now and then, and not more often.
pub struct Ticker<'a> {
    watch: &'a Watch<'a>,
    last: Cell<Option<Instant>>,
}

impl<'a> Ticker<'a> {
    /// Tells this watch.
    pub fn new(watch: &'a Watch<'a>) -> Self {
        Ticker {
            watch,
            last: Cell::new(None),
        }
    }

    /// Tells it if it is time; an error once the one who asked has gone.
    pub fn tick(&self, state: impl FnOnce() -> Progress) -> Result<(), DeployError> {
        if self
            .last
            .get()
            .is_none_or(|last| last.elapsed() >= TELL_EVERY)
        {
            self.last.set(Some(Instant::now()));
            (self.watch.progress)(state());
        }
        self.watch.check()
    }
}

/// Contents of small files, spread evenly over the folder: what a dictionary is made from. A file that cannot be read is
/// left out here and refused when it is its turn.
pub fn samples(folder: &Folder, scan: &Scan) -> Vec<Vec<u8>> {
    let is_small = |file: &usize| SAMPLE_FILE.contains(&scan.size(*file));
    let small = || (0..scan.files()).filter(is_small);
    let total: u64 = small().map(|file| scan.size(file)).sum();
    let every = (total / SAMPLE_BYTES + 1) as usize;
    let read = |file: usize| {
        let fd = folder.open_below(&scan.path(file), OFlags::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(fd)
            .take(*SAMPLE_FILE.end())
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    };
    small().step_by(every).filter_map(read).collect()
}

/// What an ingest reads, and where it puts it.
#[derive(Clone, Copy)]
pub struct Ingest<'a> {
    /// The folder.
    pub folder: &'a Folder,
    /// What is in it.
    pub scan: &'a Scan,
    /// Files that were read before.
    pub memory: &'a Memory,
    /// What the base deploy has at the same paths.
    pub before: &'a BaseDirs<'a>,
    /// Reads the base deploy.
    pub content: &'a dyn Content,
    /// Takes the chunks.
    pub sink: &'a dyn Sink,
    /// Takes what is wrong with files.
    pub problems: &'a Mutex<Problems>,
    /// Is told, and may stop it.
    pub watch: &'a Watch<'a>,
}

/// Reads all files of the scan. What files with problems hold is not known, and then there are problems.
pub fn read_files(ingest: &Ingest<'_>) -> Result<Blobs, DeployError> {
    let work = Work {
        ingest: *ingest,
        next: AtomicUsize::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        blobs: Mutex::new(Blobs::new(ingest.scan.files())),
    };
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get());
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
        work.tell_until(|| workers.iter().all(|worker| worker.is_finished()));
        workers
            .into_iter()
            .map(|worker| worker.join())
            .collect::<Vec<_>>()
    });
    for part in parts {
        part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(work.blobs.into_inner().expect("no panic under this lock"))
}

struct Work<'a> {
    ingest: Ingest<'a>,
    next: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    blobs: Mutex<Blobs>,
}

/// Why one file did not become a blob.
enum FileError {
    /// It is the file's fault: the others go on, so that all such files can be named.
    Problem(String),
    /// The whole ingest ends.
    Fatal(DeployError),
}

impl<E: Into<DeployError>> From<E> for FileError {
    fn from(error: E) -> Self {
        FileError::Fatal(error.into())
    }
}

impl Work<'_> {
    fn run(&self) -> Result<(), DeployError> {
        self.rights().prepare()?;
        let mut buffer = Vec::new();
        let mut last = LastDir::default();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = self.ingest.scan.job(number) else {
                break;
            };
            let before = self.ingest.before.file(number, &mut last);
            match self.file(&job, before.as_ref(), &mut buffer) {
                Ok(blob) => {
                    let mut blobs = self.blobs.lock().expect("no panic under this lock");
                    blobs.set(number, blob);
                }
                Err(FileError::Problem(what)) => {
                    self.ingest
                        .problems
                        .lock()
                        .expect("no panic under this lock")
                        .add(&job.path, what);
                }
                Err(FileError::Fatal(error)) => {
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            self.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn tell_until(&self, finished: impl Fn() -> bool) {
        let mut last = Instant::now();
        while !finished() {
            thread::sleep(Duration::from_millis(2));
            if last.elapsed() >= TELL_EVERY {
                self.tell();
                last = Instant::now();
            }
        }
        self.tell();
    }

    fn tell(&self) {
        (self.ingest.watch.progress)(Progress {
            files: self.files.load(Ordering::Relaxed),
            files_total: self.ingest.scan.files() as u64,
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.ingest.scan.bytes(),
            new_bytes: self.ingest.sink.counts().stored_bytes,
            ..Progress::default()
        });
    }

    fn file(
        &self,
        job: &FileJob,
        before: Option<&Blob>,
        buffer: &mut Vec<u8>,
    ) -> Result<Blob, FileError> {
        self.ingest.watch.check()?;
        if let Some(blob) = self.ingest.memory.recall(&job.stamp)
            && (self.is_kept(&blob, before) || self.is_stored(&blob)?)
        {
            self.bytes.fetch_add(blob.len, Ordering::Relaxed);
            return Ok(blob);
        }
        // All that touches the file is done with the folder's rights, all that touches the store without them.
        let rights = self.rights();
        let mut file = rights.within(|| self.open(job, buffer))??;
        let blob = match &mut file {
            None => self.put_small(before, buffer)?,
            Some(file) => {
                let blob = self.put_large(&mut file.file, before, buffer)?;
                rights.within(|| file.check(job))??;
                blob
            }
        };
        match blob.len == job.stamp.size() {
            true => Ok(blob),
            false => Err(changed()),
        }
    }

    fn rights(&self) -> &Rights {
        &self.ingest.folder.rights
    }

    /// Opens a file. A small one is read whole, and closed again: `None`.
    fn open(&self, job: &FileJob, buffer: &mut Vec<u8>) -> Result<Option<Opened>, FileError> {
        let fd = self
            .ingest
            .folder
            .open_below(&job.path, OFlags::empty())
            .map_err(|errno| FileError::Problem(cannot_read(errno)))?;
        if Stamp::of_open(&fd).ok() != Some(job.stamp) {
            return Err(changed());
        }
        let lease = Lease::take(&fd)?;
        let mut opened = Opened {
            file: File::from(fd),
            lease,
        };
        buffer.clear();
        if job.stamp.size() > FILE.whole as u64 {
            return Ok(Some(opened));
        }
        self.read_to(&mut opened.file, buffer, FILE.whole + 1)?;
        opened.check(job)?;
        Ok(None)
    }

    /// True for what the base deploy has at the same path: its chunks are kept, and were there when it was sealed. Whether they
    /// are still is for fsck and scrub to find, and for any read; from then on each is looked at.
    fn is_kept(&self, blob: &Blob, before: Option<&Blob>) -> bool {
        before == Some(blob) && self.ingest.sink.is_trusted()
    }

    fn is_stored(&self, blob: &Blob) -> Result<bool, StoreError> {
        if let Layout::ListAt(list) = &blob.layout
            && !self.ingest.sink.contains(list)?
        {
            return Ok(false);
        }
        // A chunk list that cannot be read is made anew.
        let chunks = self.ingest.content.chunks(blob).unwrap_or_default();
        for chunk in &chunks {
            if !self.ingest.sink.contains(&chunk.id)? {
                return Ok(false);
            }
        }
        Ok(blob.len == 0 || !chunks.is_empty())
    }

    fn put_small(&self, before: Option<&Blob>, bytes: &[u8]) -> Result<Blob, FileError> {
        let before = Before::of(before, self.ingest.content);
        let blob = Blob::single(bytes);
        if let Some(id) = blob.single_chunk() {
            self.ingest
                .sink
                .put(id, bytes, before.like(0, bytes.len()))?;
        }
        Ok(blob)
    }

    fn put_large(
        &self,
        file: &mut File,
        before: Option<&Blob>,
        buffer: &mut Vec<u8>,
    ) -> Result<Blob, FileError> {
        let before = Before::of(before, self.ingest.content);
        let mut whole = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let mut start = 0;
        loop {
            self.ingest.watch.check()?;
            self.rights()
                .within(|| self.read_to(file, buffer, 2 * FILE.max))??;
            if buffer.is_empty() {
                break;
            }
            let at_end = buffer.len() < 2 * FILE.max;
            let mut at = 0;
            // Only a window of the longest chunk's length, or the rest of the file, cuts as the whole file would.
            while at < buffer.len() && (at_end || buffer.len() - at >= FILE.max) {
                let window = &buffer[at..buffer.len().min(at + FILE.max)];
                let chunk = &window[..FILE.first(window)];
                let id = ChunkId::of(chunk);
                self.ingest
                    .sink
                    .put(id, chunk, before.like(start, chunk.len()))?;
                chunks.push(ChunkRef {
                    id,
                    len: chunk.len() as u32,
                });
                at += chunk.len();
                start += chunk.len() as u64;
            }
            whole.update(&buffer[..at]);
            buffer.drain(..at);
        }
        let len = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let id = ContentId(*whole.finalize().as_bytes());
        Ok(Blob {
            id,
            len,
            layout: put_layout(self.ingest.sink, chunks)?,
        })
    }

    /// Fills the buffer up to `len` bytes, fewer only at the end of the file.
    fn read_to(&self, file: &mut File, buffer: &mut Vec<u8>, len: usize) -> Result<(), FileError> {
        let want = (len - buffer.len()) as u64;
        let count = file
            .take(want)
            .read_to_end(buffer)
            .map_err(|error| FileError::Problem(format!("it cannot be read: {error}")))?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The layout of these chunks; a long list is stored as an object.
fn put_layout(sink: &dyn Sink, chunks: Vec<ChunkRef>) -> Result<Layout, DeployError> {
    match chunks.len() {
        0 | 1 => Ok(Layout::Single),
        2..=INLINE_CHUNKS => Ok(Layout::List(chunks.into())),
        _ => {
            let list = encode_list(&chunks);
            let id = ChunkId::of(&list);
            sink.put(id, &list, None)?;
            Ok(Layout::ListAt(id))
        }
    }
}

/// The chunks of what stood in a blob's place before.
#[derive(Default)]
pub struct Before(Vec<ChunkRef>);

impl Before {
    /// Those of this blob. It is a help only: where they cannot be had there are none.
    pub fn of(blob: Option<&Blob>, content: &dyn Content) -> Self {
        Before(
            blob.and_then(|blob| content.chunks(blob).ok())
                .unwrap_or_default(),
        )
    }

    /// The chunk in the middle of these bytes: the likeliest to be much the same.
    fn like(&self, start: u64, len: usize) -> Option<&ChunkId> {
        let middle = start + len as u64 / 2;
        let mut end = 0;
        let here = self.0.iter().find(|chunk| {
            end += u64::from(chunk.len);
            middle < end
        });
        here.or(self.0.last()).map(|chunk| &chunk.id)
    }
}

/// Stores bytes that are in memory, such as an encoded tree.
pub fn put_bytes(
    sink: &dyn Sink,
    bytes: &[u8],
    chunking: Chunking,
    before: &Before,
) -> Result<Blob, DeployError> {
    let mut chunks = Vec::new();
    for range in chunking.cut(bytes) {
        let start = range.start as u64;
        let chunk = &bytes[range];
        let id = ChunkId::of(chunk);
        sink.put(id, chunk, before.like(start, chunk.len()))?;
        chunks.push(ChunkRef {
            id,
            len: chunk.len() as u32,
        });
    }
    let id = ContentId::of(bytes);
    Ok(Blob {
        id,
        len: bytes.len() as u64,
        layout: put_layout(sink, chunks)?,
    })
}

/// An open file while it is read.
struct Opened {
    file: File,
    lease: Lease,
}

impl Opened {
    /// Tells whether it was written to meanwhile.
    fn check(&mut self, job: &FileJob) -> Result<(), FileError> {
        self.lease.check(&self.file)?;
        match Stamp::of_open(&self.file).ok() == Some(job.stamp) {
            true => Ok(()),
            false => Err(changed()),
        }
    }
}

fn changed() -> FileError {
    FileError::Problem(CHANGED.to_owned())
}

/// A read lease: the kernel grants it only while nobody has the file open for writing, and breaks it when somebody tries.
/// Held only while the file is read, since it holds up such a writer: the kernel grants it on the caller's own files only, as no
/// one else's writers may be held up. It ends when the file is closed. Some filesystems have none.
struct Lease {
    held: bool,
}

impl Lease {
    fn take(fd: &OwnedFd) -> Result<Self, FileError> {
        // SAFETY: fcntl on an open descriptor with an integer argument.
        let answer = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
        if answer == 0 {
            return Ok(Lease { held: true });
        }
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN) {
            return Err(FileError::Problem(
                "it is open for writing: wait until its writer has closed it, then seal again"
                    .into(),
            ));
        }
        Ok(Lease { held: false })
    }

    /// Tells whether a writer has come meanwhile.
    fn check(&self, file: &File) -> Result<(), FileError> {
        if !self.held {
            return Ok(());
        }
        // SAFETY: fcntl on an open descriptor without pointers.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) } == libc::F_RDLCK {
            true => Ok(()),
            false => Err(changed()),
        }
    }
}
