//! `import`: takes in a deploy that another store wrote.
//!
//! Nothing in the file is believed. Every chunk hashes to its id and is one that the trees name; every tree has the content id
//! that it is named by; every file of several chunks hashes as a whole. Only then is there a deploy, by one record, as with a
//! seal. Chunks of a file that broke off stay in the packs, where nothing names them, so that the next try need not store them
//! again; those of a file that is wrong are taken back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::draft::DraftDir;
use super::error::DeployError;
use super::export::only;
use super::incoming::{Incoming, Limits, TreeIn};
use super::ingest::{Ticker, Watch};
use super::portable::{Frame, FrameReader, Head, PortableError};
use super::seal::{Task, report};
use super::sink::{Sink, StoreSink};
use super::spool::nameless;
use super::undo::or_undo;
use super::warnings::warnings;
use super::{Deployfs, now};
use crate::model::deploy_file::DeployFile;
use crate::model::limits::{MESSAGE_BYTES_MAX, cut_message, cut_meta};
use crate::model::mtime::seal_second;
use crate::model::report::{Caller, ImportRequest, Progress, SealOptions, SealReport};
use crate::model::{Blob, ChunkId, ContentId, Node, Tree};

/// Chunks are held back until they are enough to make a dictionary from.
const SAMPLE_BYTES: usize = 4 << 20;
/// How much longer than its files an export may be, in bytes; what lies behind that is not read.
const BESIDES: u64 = 1 << 30;
/// Bytes that are copied between two looks whether the client is still there.
const COPY_STEP: u64 = 16 << 20;
/// A replica's mtimes may be so far ahead of this clock, in seconds.
const AHEAD: u64 = 86_400;

/// The stream as a file that lies there whole.
pub fn file(stream: Option<OwnedFd>) -> Result<File, DeployError> {
    only(stream, FileType::RegularFile)?
        .map(File::from)
        .ok_or(DeployError::Stream(
            "an import is read from a file, and none was given",
        ))
}

/// It is the store's disk that is full: nothing is written to the client's file.
fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A copy in a file of this process's own, on the disk of the store: nobody's filesystem is read while the store is held. Costs nothing
/// where files can share their blocks.
fn own_copy(
    mut from: File,
    near: &Path,
    most: u64,
    watch: &Watch<'_>,
) -> Result<File, DeployError> {
    let failed = |cause| DeployError::io("keep an import in", near)(cause);
    let mut copy = nameless(near).map_err(failed)?;
    if rustix::fs::ioctl_ficlone(&copy, &from).is_ok() {
        // From where the client has read to, as without a copy.
        let begin = from.stream_position().map_err(PortableError::Broken)?;
        copy.seek(SeekFrom::Start(begin)).map_err(failed)?;
        return Ok(copy);
    }
    let mut left = most;
    let ticker = Ticker::new(watch);
    loop {
        ticker.tick(Progress::default)?;
        let mut part = (&mut from).take(left.min(COPY_STEP));
        // io::copy has the kernel copy from file to file.
        match io::copy(&mut part, &mut copy) {
            Ok(0) => break,
            Ok(copied) => left -= copied,
            Err(cause) if is_no_room(&cause) => return Err(failed(cause)),
            Err(cause) => return Err(PortableError::Broken(cause).into()),
        }
    }
    copy.rewind().map_err(failed)?;
    Ok(copy)
}

impl Deployfs {
    /// `import FILE`.
    pub(super) fn import(
        &self,
        request: &ImportRequest,
        from: File,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<SealReport, DeployError> {
        self.store.check_writable()?;
        let most = request.max_bytes.saturating_add(BESIDES);
        let from = own_copy(from, self.store.root(), most, watch)?;
        let _one = self.one_seal();
        watch.check()?;
        let mark = self.store.mark();
        let sink = StoreSink::new(&self.store);
        let mut reader = FrameReader::new(from)?;
        let taken = self.take_in(&mut reader, request, &sink, watch);
        let (head, site) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                let broke_off = matches!(
                    error,
                    DeployError::Cancelled | DeployError::Portable(PortableError::Broken(_))
                );
                if !broke_off || self.store.sync_packs(mark).is_err() {
                    self.take_back(mark);
                }
                return Err(error);
            }
        };
        let (said, cut) = described(&head, &request.options);
        let options = SealOptions {
            allow_empty: true,
            allow_external_symlinks: request.options.allow_external_symlinks,
            ..said
        };
        let task = Task {
            folder: PathBuf::from("the export"),
            below: None,
            delete: &[],
            dry_run: false,
            read_all: true,
            options: &options,
            txn: None,
            caller,
        };
        let (mut report, new_second) = or_undo(
            || {
                let (report, file, second) = self.put_together(&head, &site, &task, &sink)?;
                self.make_durable(file.as_ref(), mark)?;
                Ok::<_, DeployError>((report, file.map(|_| second)))
            },
            || self.take_back(mark),
        )?;
        self.record_seal(&task, &report, new_second, watch)?;
        report.warnings.extend(cut);
        Ok(report)
    }

    /// Reads the file to its end and stores its chunks.
    fn take_in<R: std::io::Read>(
        &self,
        reader: &mut FrameReader<R>,
        request: &ImportRequest,
        sink: &dyn Sink,
        watch: &Watch<'_>,
    ) -> Result<(Head, Incoming), DeployError> {
        let Frame::Head(head) = reader.next()? else {
            return Err(PortableError::wrong("it does not begin with a head").into());
        };
        let limits = Limits {
            entries: request.max_entries,
            bytes: request.max_bytes,
        };
        let mut trees = HashMap::new();
        let mut tree_bytes = 0;
        let mut frame = reader.next()?;
        while let Frame::Tree(bytes) = frame {
            watch.check()?;
            tree_bytes += bytes.len() as u64;
            limits.check_trees(tree_bytes)?;
            trees.insert(ContentId::of(&bytes), TreeIn::decode(&bytes)?);
            frame = reader.next()?;
        }
        let mut site = Incoming::new(trees, &head, limits)?;
        let like = self.find_like(&site);
        let mut store = Held {
            flow: self,
            sink,
            like: &like,
            held: Vec::new(),
            bytes: 0,
            samples: !self.store.has_dictionary(),
        };
        let ticker = Ticker::new(watch);
        loop {
            match frame {
                Frame::Chunk(id, raw) => {
                    site.take(&id, &raw)?;
                    store.put(id, raw)?;
                }
                Frame::End => break,
                Frame::Head(_) | Frame::Tree(_) => {
                    return Err(PortableError::wrong("its parts are out of order").into());
                }
            }
            ticker.tick(|| Progress {
                files: site.taken(),
                bytes: site.bytes_taken(),
                bytes_total: site.bytes_total(),
                new_bytes: sink.counts().stored_bytes,
                ..Progress::default()
            })?;
            frame = reader.next()?;
        }
        store.flush()?;
        site.is_complete()?;
        for blob in site.large_files() {
            watch.check()?;
            self.check_whole(blob)?;
        }
        Ok((*head, site))
    }

    /// A file of several chunks: their bytes hash to its id.
    fn check_whole(&self, blob: &Blob) -> Result<(), DeployError> {
        let mut hasher = blake3::Hasher::new();
        for chunk in self.store.chunks(blob)? {
            hasher.update(&self.store.read_chunk(&chunk.id)?);
        }
        if *hasher.finalize().as_bytes() == blob.id.0 {
            Ok(())
        } else {
            Err(PortableError::wrong(format!(
                "the file with content id {} does not hash to it",
                blob.id
            ))
            .into())
        }
    }

    /// Chunks of small files, and the one that this store's base deploy has in the same place.
    fn find_like(&self, site: &Incoming) -> HashMap<ChunkId, ChunkId> {
        let mut like = HashMap::new();
        if let Some((_, base)) = self.base_root() {
            self.find_like_below(site, site.root(), &base, &mut like);
        }
        like
    }

    fn find_like_below(
        &self,
        site: &Incoming,
        tree: &Tree,
        base: &Blob,
        like: &mut HashMap<ChunkId, ChunkId>,
    ) {
        // It only helps to compress: a damaged base helps nothing.
        let Ok(base) = self.content_tree(base) else {
            return;
        };
        for entry in tree.entries() {
            let old = base.get(entry.name.as_bytes()).map(|old| &old.node);
            match (&entry.node, old) {
                (new, Some(old)) if new.same_content(old) => {}
                (Node::File(new), Some(Node::File(old))) => {
                    if let (Some(new), Some(old)) = (new.single_chunk(), old.single_chunk()) {
                        like.insert(new, old);
                    }
                }
                (Node::Dir { tree, .. }, Some(Node::Dir { tree: old, .. })) => {
                    self.find_like_below(site, site.tree(tree), old, like);
                }
                (Node::File(_) | Node::Dir { .. } | Node::Symlink(_), _) => {}
            }
        }
    }

    /// The deploy with this store's mtimes, all but its record: its file, if it is new, and the latest second in it.
    fn put_together(
        &self,
        head: &Head,
        site: &Incoming,
        task: &Task<'_>,
        sink: &dyn Sink,
    ) -> Result<(SealReport, Option<DeployFile>, u64), DeployError> {
        let last = self.last_mtime();
        // A second that this store never used belongs to the same content in every copy of the store.
        let is_replica = head.store == self.store.uuid();
        let keeps = |mtime: u64| is_replica && mtime > last && mtime <= now() + AHEAD;
        let newest_kept = site.newest_mtime(head.root_mtime, &keeps).unwrap_or(0);
        let second = seal_second(now(), last.max(newest_kept));
        let mut draft = DraftDir::from_tree(site.root(), &|blob| site.tree(blob), &keeps);
        self.check_links(task, &mut draft)?;
        let (against, base) = self.base_root().unzip();
        let warnings = warnings(&draft);
        let built = draft.build(base.as_ref(), second, self)?;
        if built.content != head.content {
            return Err(PortableError::wrong("its content id is another one").into());
        }
        let root_second = if keeps(head.root_mtime) {
            head.root_mtime
        } else {
            second
        };
        let (existed, file) = self.deploy_file(task, &built, root_second, sink)?;
        let report = SealReport {
            changes: built.changes(against, base.as_ref(), self),
            warnings,
            ..report(task, &built, existed, sink)
        };
        Ok((report, file, second))
    }
}

/// What the deploy says of itself, and what is said of it now; and one warning for each text that was too long for this store.
fn described(head: &Head, given: &SealOptions) -> (SealOptions, Vec<String>) {
    let mut meta = head.meta.clone();
    meta.insert("origin_sealed_at".into(), head.sealed_at.to_string());
    meta.insert("origin_sealed_by".into(), head.sealed_by.clone());
    meta.extend(given.meta.clone());
    let mut warnings = Vec::new();
    let dropped = cut_meta(&mut meta, &given.meta);
    if !dropped.is_empty() {
        warnings.push(format!(
            "the export has more or longer facts than a store takes; not kept: {}",
            dropped.join(", ")
        ));
    }
    let mut message = given.message.clone();
    if message.is_empty() {
        message.clone_from(&head.message);
        if cut_message(&mut message) {
            warnings.push(format!(
                "the export's message is longer than the {MESSAGE_BYTES_MAX} bytes that a store takes, and was cut"
            ));
        }
    }
    let options = SealOptions {
        message,
        meta,
        ..given.clone()
    };
    (options, warnings)
}

/// Stores chunks; the first of them only once a dictionary has been made from them, where the store has none.
struct Held<'a> {
    flow: &'a Deployfs,
    sink: &'a dyn Sink,
    like: &'a HashMap<ChunkId, ChunkId>,
    held: Vec<(ChunkId, Vec<u8>)>,
    bytes: usize,
    samples: bool,
}

impl Held<'_> {
    fn put(&mut self, id: ChunkId, raw: Vec<u8>) -> Result<(), DeployError> {
        if !self.samples {
            return Ok(self.sink.put(id, &raw, self.like.get(&id))?);
        }
        self.bytes += raw.len();
        self.held.push((id, raw));
        if self.bytes > SAMPLE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DeployError> {
        let held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.samples) {
            let samples: Vec<Vec<u8>> = held
                .iter()
                .map(|(_, raw)| raw)
                .filter(|raw| super::ingest::SAMPLE_FILE.contains(&(raw.len() as u64)))
                .cloned()
                .collect();
            self.flow.store.train_dictionary(&samples)?;
        }
        for (id, raw) in held {
            self.sink.put(id, &raw, self.like.get(&id))?;
        }
        Ok(())
    }
}
