//! `export`: writes one deploy as a file that holds all of it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::Deployfs;
use super::error::DeployError;
use super::ingest::{Ticker, Watch};
use super::portable::{FrameWriter, Head};
use crate::model::report::{ExportReport, Progress};
use crate::model::{Blob, ChunkId, ContentId, Layout, Node};

/// As much as a pipe that can be written to takes without making its writer wait (pipe(7)).
const PIPE_WRITE: usize = 4096;
/// How often a writer that waits for a slow reader looks whether it is still wanted.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The stream as a pipe. Nothing else is written to, so that nobody can make a daemon write where only it may.
pub fn pipe(stream: Option<OwnedFd>) -> Result<File, DeployError> {
    only(stream, FileType::Fifo)?
        .map(File::from)
        .ok_or(DeployError::Stream(
            "an export is written to a pipe, and none was given",
        ))
}

/// The open file if it is of this kind. An error where the daemon may not know.
pub fn only(fd: Option<OwnedFd>, kind: FileType) -> Result<Option<OwnedFd>, DeployError> {
    let Some(fd) = fd else {
        return Ok(None);
    };
    match fstat(&fd) {
        Ok(stat) => Ok((FileType::from_raw_mode(stat.st_mode) == kind).then_some(fd)),
        // Permissions do not matter to an open file, but FUSE answers nobody but the one who mounted.
        Err(Errno::ACCESS) => {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let path = std::fs::read_link(&link).unwrap_or_else(|_| link.into());
            Err(match kind {
                FileType::Directory => DeployError::OwnersFolder(path),
                _ => DeployError::OwnersFile(path),
            })
        }
        Err(_) => Ok(None),
    }
}

impl Deployfs {
    /// `export ID`.
    pub(super) fn export(
        &self,
        target: &str,
        to: File,
        watch: &Watch<'_>,
    ) -> Result<ExportReport, DeployError> {
        let held = self.hold_for_export(target)?;
        let (id, file) = (held.id, &held.file);
        let ends = self.store.with_ledger(|ledger| {
            let seals = &ledger.deploys().get(&id)?.seals;
            Some((*seals.first()?, *seals.last()?))
        });
        let (first, latest) = match ends {
            Some((first, last)) => (self.store.seal_info(&first)?, self.store.seal_info(&last)?),
            None => Default::default(),
        };
        let out = BufWriter::with_capacity(1 << 17, Patient { to, watch });
        let mut walk = Walk {
            flow: self,
            out: FrameWriter::new(out)?,
            trees: HashSet::new(),
            chunks: HashSet::new(),
            report: ExportReport {
                deploy_id: id,
                content_id: file.content,
                files: file.files,
                bytes: file.bytes,
                chunks: 0,
                unique_bytes: 0,
            },
            ticker: Ticker::new(watch),
        };
        walk.out.head(&Head {
            store: self.store.uuid().to_owned(),
            content: file.content,
            root: file.root.id,
            root_mtime: file.root_mtime,
            sealed_at: first.time,
            sealed_by: first.actor,
            message: latest.message,
            meta: latest.meta,
        })?;
        let mut files = Vec::new();
        walk.tree(&file.root, &mut files)?;
        for blob in &files {
            walk.file(blob)?;
        }
        walk.out.end()?;
        Ok(walk.report)
    }
}

struct Walk<'a, W: Write> {
    flow: &'a Deployfs,
    out: FrameWriter<W>,
    trees: HashSet<ContentId>,
    chunks: HashSet<ChunkId>,
    report: ExportReport,
    ticker: Ticker<'a>,
}

impl<W: Write> Walk<'_, W> {
    /// Writes a tree after all below it, and collects the files.
    fn tree(&mut self, blob: &Blob, files: &mut Vec<Blob>) -> Result<(), DeployError> {
        self.tick()?;
        if !self.trees.insert(blob.id) {
            return Ok(());
        }
        let tree = self.flow.content_tree(blob)?;
        for entry in tree.entries() {
            match &entry.node {
                Node::Dir { tree, .. } => self.tree(tree, files)?,
                Node::File(blob) => files.push(blob.clone()),
                Node::Symlink(_) => {}
            }
        }
        Ok(self.out.tree(&tree.encode())?)
    }

    fn file(&mut self, blob: &Blob) -> Result<(), DeployError> {
        if let Layout::ListAt(list) = &blob.layout {
            self.chunk(list)?;
        }
        for chunk in self.flow.store.chunks(blob)? {
            self.chunk(&chunk.id)?;
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&self) -> Result<(), DeployError> {
        self.ticker.tick(|| Progress {
            files: self.report.chunks,
            bytes: self.report.unique_bytes,
            ..Progress::default()
        })
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<(), DeployError> {
        if !self.chunks.insert(*id) {
            return Ok(());
        }
        let raw = self.flow.store.read_chunk(id)?;
        self.report.chunks += 1;
        self.report.unique_bytes += raw.len() as u64;
        Ok(self.out.chunk(id, &raw)?)
    }
}

/// Writes to a pipe whose reader may be slow, without ever waiting for one that is not wanted any more.
struct Patient<'a> {
    to: File,
    watch: &'a Watch<'a>,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            if self.watch.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.to.write(&bytes[..bytes.len().min(PIPE_WRITE)]),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
