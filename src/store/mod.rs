//! Everything that is kept on disk: chunks in packs, deploy files, the history. Knows nothing of sealing, mounts or sockets.
//!
//! ```text
//! STORE/
//!   format               "deployfs 1", the store's uuid, a checksum (format.rs)
//!   packs/000001.pack    chunk records (pack.rs)
//!   deploys/<id>         one file a deploy (model/deploy_file.rs)
//!   history, head        what happened (model/history.rs), and up to where it is durable
//!   index/               sled: where chunks are (index.rs); may be deleted at any time
//!   cache/               what makes the next command faster; may be deleted at any time
//!   damaged/             what a repair has replaced (repair/)
//!   staging/<name>/      plain folders (deploy/staging.rs)
//!   retention.toml       which deploys are kept (model/retention.rs); people write it
//!   lock, control.sock   one writer; the daemon's control socket
//!   backup.incomplete    only in a backup that has no state yet (backup/)
//! ```
//!
//! *Invariant:* a history record is appended only after the deploy file it needs is durable, and that only after the packs.
//! So whatever a durable record names is whole, and what no record names may be dropped.

pub mod backup;
mod catalog;
mod check;
mod compress;
mod disk;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gc;
mod history;
mod hold;
mod index;
mod journal;
mod lock;
mod own_files;
mod pack;
mod packs;
mod reach;
mod recent;
mod records;
mod repair;
mod scan;
mod suspects;
mod synced;
mod usage;

#[cfg(test)]
mod failing_disk_tests;
#[cfg(test)]
pub(crate) mod sim_disk;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::blob::decode_list;
use crate::model::codec::DecodeError;
use crate::model::deploy_file::{DeployFile, DeployFileError};
use crate::model::history::{NO_RECORD, Record, Verb};
use crate::model::ledger::Ledger;
use crate::model::report::{CheckReport, Meta, Suspect};
use crate::model::{Blob, ChunkId, ChunkRef, DeployId, Layout, SealedTree, Tree};
use crate::sync::{Mutex, RwLock};

pub use check::Checker;
pub use disk::{Disk, HostDisk};
pub use error::{StoreError, remedy};
pub use gc::Gc;
pub use hold::Hold;
pub use pack::{Codec, Encoded, HEADER_LEN, Header};
pub use packs::{Held, Mark};
pub use repair::repair;
pub use usage::Usage;

use catalog::Catalog;
#[cfg(test)]
pub(crate) use index::Index;
#[cfg(test)]
pub(crate) use packs::Limits;

#[cfg(not(test))]
use index::Index;
use journal::Journal;
pub use lock::Holder;
use lock::Lock;
use own_files::Whose;
#[cfg(not(test))]
use packs::Limits;
use packs::Packs;
use packs::sweep::{Listed, State};
use rustix::fs::OFlags;
use scan::Unfinished;

const DEPLOYS: &str = "deploys";
/// Where the record of a store's making has its uuid.
const UUID: &str = "uuid";
const CACHE: &str = "cache";
/// The chunk that new small chunks are compressed with, in [`CACHE`].
const DICTIONARY: &str = "dictionary";
/// What `prune` keeps; written by people.
pub const RETENTION: &str = "retention.toml";
/// The folder of staging folders in a store.
pub const STAGING: &str = "staging";
/// Where staging folders are while they are sealed, in [`STAGING`].
pub const SEALING: &str = ".sealing";

/// The packs of a store at one moment.
pub struct PackList {
    packs: Vec<Listed>,
    /// How many chunks seals had appended by then.
    appended: u64,
}

/// An open store.
pub struct Store {
    root: PathBuf,
    uuid: String,
    disk: Arc<dyn Disk>,
    packs: Packs,
    journal: RwLock<Journal>,
    deploys: RwLock<HashMap<DeployId, DeployFile>>,
    /// None: opened for reading only. Dropped last.
    lock: Option<Mutex<Lock>>,
}

impl Store {
    /// Makes a new store in a folder that is not there or empty.
    pub fn init(root: &Path, actor: &str, now: u64) -> Result<(), StoreError> {
        let shown = root.display().to_string();
        fs::create_dir_all(root).map_err(StoreError::io("create", &shown))?;
        let mut files = fs::read_dir(root).map_err(StoreError::io("read", &shown))?;
        if files.next().is_some() {
            return Err(StoreError::NotEmpty(shown));
        }
        make_folders(root)?;
        Self::init_on(Arc::new(HostDisk::new(root.to_owned(), true)), actor, now)?;
        sync_name(root).map_err(StoreError::io("sync the folder of", &shown))
    }

    /// The files of a new store, in folders that are there.
    pub(crate) fn init_on(disk: Arc<dyn Disk>, actor: &str, now: u64) -> Result<(), StoreError> {
        let uuid = random_hex();
        let mut journal = Journal::create(disk.clone())?;
        journal.append(Record {
            seq: 0,
            time: now,
            actor: actor.to_owned(),
            verb: Verb::Init,
            channel: None,
            deploy: None,
            content: None,
            txn: None,
            until: None,
            overrides: None,
            message: String::new(),
            // A second copy, from which a damaged `format` file is written anew.
            meta: Meta::from([(UUID.to_owned(), uuid.clone())]),
            last_mtime: 0,
            prev: NO_RECORD.to_owned(),
        })?;
        // Last, and once all else is durable: a store is one as soon as it has its format file.
        disk.sync(".").map_err(StoreError::io("sync", "."))?;
        publish(&*disk, format::PATH, &format::encode(&uuid), ".")
    }

    /// Opens a store for writing: takes the lock, brings it to a state that a power cut cannot take back.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        format::read(&HostDisk::new(root.to_owned(), false), root)?;
        let lock = Lock::take(root)?;
        Self::assemble(root, Some(lock))
    }

    /// Opens a store for reading: no lock, no recovery, nothing is written.
    pub fn open_read_only(root: &Path) -> Result<Self, StoreError> {
        Self::assemble(root, None)
    }

    /// The daemon's log, to append to.
    pub fn open_log(root: &Path, name: &str) -> io::Result<fs::File> {
        let flags = OFlags::WRONLY | OFlags::APPEND;
        own_files::open(root, name, flags, true, Whose::Owners)
    }

    /// True where some process has the store open for writing.
    pub fn is_in_use(root: &Path) -> bool {
        Lock::is_taken(root)
    }

    /// The process that has opened the store for writing last, and perhaps has it open still.
    pub fn last_writer(root: &Path) -> Option<Holder> {
        Lock::last_holder(root)
    }

    /// Writes down which device the mount of this store is.
    pub fn note_device(&self, device: u64) {
        if let Some(lock) = &self.lock {
            lock.lock()
                .expect("no panic under this lock")
                .note_device(device);
        }
    }

    fn assemble(root: &Path, lock: Option<Lock>) -> Result<Self, StoreError> {
        own_files::check_folders(root)
            .map_err(StoreError::io("use", root.display().to_string()))?;
        let disk = Arc::new(HostDisk::new(root.to_owned(), lock.is_some()));
        let index = Index::new(root.join("index"));
        Self::assemble_on(disk, root, lock, index, Limits::default())
    }

    /// Opens a store for writing whose files are on this disk; only its lock and its staging folders are below `root`.
    #[cfg(test)]
    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        index: Index,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let lock = Lock::take(root)?;
        Self::assemble_on(disk, root, Some(lock), index, limits)
    }

    /// The same for reading.
    #[cfg(test)]
    pub(crate) fn read_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        Self::assemble_on(disk, root, None, Index::none(), limits)
    }

    fn assemble_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        lock: Option<Lock>,
        index: Index,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let uuid = format::read(&*disk, root)?;
        Self::assemble_as(uuid, disk, root, lock, index, limits)
    }

    /// Opens a store with this uuid, whether it has a `format` file or not.
    fn assemble_as(
        uuid: String,
        disk: Arc<dyn Disk>,
        root: &Path,
        lock: Option<Lock>,
        index: Index,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let (packs, unfinished) = Packs::open(disk.clone(), index, limits)?;
        let (journal, tail) = Journal::open(disk.clone())?;
        let mut store = Store {
            root: root.to_owned(),
            uuid,
            disk,
            packs,
            journal: RwLock::new(journal),
            deploys: RwLock::new(HashMap::new()),
            lock: lock.map(Mutex::new),
        };
        if store.lock.is_some() {
            store.recover(unfinished, tail)?;
        }
        store.load_deploys()?;
        Ok(store)
    }

    /// What was read may sit in the page cache only, and the next seal would build on it: sync it first.
    fn recover(
        &mut self,
        mut unfinished: Vec<Unfinished>,
        tail: Option<journal::Tail>,
    ) -> Result<(), StoreError> {
        for pack in &mut unfinished {
            let path = packs::path_of(pack.number);
            self.disk
                .sync(&path)
                .map_err(StoreError::io("sync", path))?;
            self.packs.cut_footer(pack)?;
            self.packs.verify(pack);
        }
        for folder in [packs::FOLDER, DEPLOYS, "."] {
            self.disk
                .sync(folder)
                .map_err(StoreError::io("sync", folder))?;
        }
        let journal = self.journal.get_mut().expect("no panic under this lock");
        match &tail {
            Some(tail) => journal.cut(tail)?,
            None => journal.sync()?,
        }
        if let Some(last) = unfinished.into_iter().next_back() {
            self.packs.resume(last);
        }
        // It may have been deleted; where it cannot be made, nothing is cached.
        let _ = fs::DirBuilder::new()
            .mode(0o700)
            .create(self.root.join(CACHE));
        self.find_dictionary();
        Ok(())
    }

    /// Bytes kept by [`Store::keep_cached`] under this name; empty if there are none.
    pub fn cached(&self, name: &str) -> Vec<u8> {
        journal::read_whole(&*self.disk, &format!("{CACHE}/{name}")).unwrap_or_default()
    }

    /// Throws away what [`Store::keep_cached`] kept under names with this start, where `is_useless` says so of the bytes.
    pub fn drop_cached(&self, start: &str, is_useless: impl Fn(&[u8]) -> bool) {
        for (name, _) in self.disk.list(CACHE).unwrap_or_default() {
            if name.starts_with(start)
                && is_useless(&self.cached(&name))
                && let Err(error) = self.disk.remove(&format!("{CACHE}/{name}"))
            {
                log::debug!("'{CACHE}/{name}' cannot be removed: {error}");
            }
        }
    }

    /// Keeps bytes that may be lost.
    pub fn keep_cached(&self, name: &str, bytes: &[u8]) {
        if let Err(error) = replace(&*self.disk, &format!("{CACHE}/{name}"), bytes) {
            log::debug!("'{CACHE}/{name}' cannot be written: {error}");
        }
    }

    /// Without it new chunks are compressed alone, and the next large seal makes another one.
    fn find_dictionary(&self) {
        let text = self.cached(DICTIONARY);
        if text.is_empty() {
            return;
        }
        let Ok(id) = String::from_utf8_lossy(&text).trim_end().parse() else {
            return log::warn!("'{DICTIONARY}' does not name a chunk");
        };
        // Its seal may have come to nothing.
        if !self.packs.contains(&id).unwrap_or(true) {
            return;
        }
        match self.packs.use_dictionary(&id) {
            Ok(()) => {}
            Err(error) => log::warn!("'{DICTIONARY}' cannot be used: {error}"),
        }
    }

    /// Reads the deploy file of every deploy that the history knows; drops those it does not know.
    fn load_deploys(&mut self) -> Result<(), StoreError> {
        let journal = self.journal.get_mut().expect("no panic under this lock");
        let known = journal.ledger().deploys();
        let droppable = self.lock.is_some() && journal.check_writable().is_ok();
        let deploys = self.deploys.get_mut().expect("no panic under this lock");
        let files = self
            .disk
            .list(DEPLOYS)
            .map_err(StoreError::io("list", DEPLOYS))?;
        let mut newer = Vec::new();
        for (name, _) in files {
            let path = format!("{DEPLOYS}/{name}");
            let (stem, seal) = split_seal(&name);
            let id = stem.parse::<DeployId>().ok();
            match id.and_then(|id| Some((id, known.get(&id)?.order))) {
                Some((id, _)) if seal.is_none() => match read_deploy_file(&*self.disk, id) {
                    Ok(file) => {
                        deploys.insert(id, file);
                    }
                    Err(error) => log::error!("{error}"),
                },
                Some((id, order)) if seal == Some(order) => newer.push((id, path)),
                _ if droppable => {
                    log::info!("dropping '{path}': no seal of it is recorded");
                    self.disk
                        .remove(&path)
                        .map_err(StoreError::io("remove", path))?;
                }
                _ => {}
            }
        }
        take_newer(&*self.disk, newer, droppable, deploys)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store's own id, made at `init`.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Bytes of all packs.
    pub fn pack_bytes(&self) -> u64 {
        self.packs.bytes()
    }

    /// How many chunks the packs hold, and their bytes before compression.
    pub fn held(&self) -> Held {
        self.packs.held()
    }

    /// Files and their logical bytes in all deploys together, as if each were a copy.
    pub fn deploy_totals(&self) -> (u64, u64) {
        let known: Vec<DeployId> =
            self.with_ledger(|ledger| ledger.deploys().keys().copied().collect());
        let deploys = self.deploys.read().expect("no panic under this lock");
        known
            .iter()
            .filter_map(|id| deploys.get(id))
            .fold((0, 0), |(files, bytes), file| {
                (files + file.files, bytes + file.bytes)
            })
    }

    /// Bytes that are free on the store's disk for this process.
    pub fn disk_free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// `ready`, `closed` or `unavailable: …`.
    pub fn index_state(&self) -> String {
        self.packs.index_state()
    }

    /// Opens the index; takes a while where it must be filled. Reading works without it.
    pub fn fill_index(&self) {
        if self.lock.is_some() {
            self.packs.fill_index();
        }
    }

    /// How many searches have been made so far that the index would have saved: a thousand of them take as long as opening it.
    pub fn searches(&self) -> u64 {
        self.packs.searches()
    }

    /// How many chunks have been appended so far.
    pub fn appended(&self) -> u64 {
        self.packs.appended()
    }

    /// Closes the index, before the process ends.
    pub fn close_index(&self) {
        self.packs.close_index();
    }

    /// Calls `look` with what the history adds up to. Short: a change waits for it.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(
            self.journal
                .read()
                .expect("no panic under this lock")
                .ledger(),
        )
    }

    /// Fails where nothing can be written, saying why.
    pub fn check_writable(&self) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly(self.root.display().to_string()));
        }
        self.journal
            .read()
            .expect("no panic under this lock")
            .check_writable()
    }

    /// Appends a record to the history, durably. `seq` and `prev` are filled in.
    pub fn record(&self, record: Record) -> Result<(), StoreError> {
        self.check_writable()?;
        self.journal
            .write()
            .expect("no panic under this lock")
            .append(record)
    }

    /// The facts of a deploy that exists.
    pub fn deploy_file(&self, id: DeployId) -> Result<DeployFile, StoreError> {
        let known = self
            .deploys
            .read()
            .expect("no panic under this lock")
            .get(&id)
            .cloned();
        known.map_or_else(|| read_deploy_file(&*self.disk, id), Ok)
    }

    /// Those of these deploys whose file could not be read when the store was opened.
    pub fn without_file<'a>(&self, ids: impl Iterator<Item = &'a DeployId>) -> Vec<DeployId> {
        let known = self.deploys.read().expect("no panic under this lock");
        ids.filter(|id| !known.contains_key(id)).copied().collect()
    }

    /// True where the deploy's file is there: a removal may have taken one that had just been written. While this is asked, and
    /// until the seal is recorded, there must be no other.
    pub fn has_deploy_file(&self, id: DeployId) -> bool {
        let read = journal::read_whole(&*self.disk, &format!("{DEPLOYS}/{id}"));
        if read.is_err_and(|error| error.is_not_found()) {
            self.deploys
                .write()
                .expect("no panic under this lock")
                .remove(&id);
        }
        self.deploy_file(id).is_ok()
    }

    /// Writes a deploy file, durably. It counts once its seal is recorded.
    pub fn write_deploy_file(&self, file: &DeployFile) -> Result<(), StoreError> {
        self.check_writable()?;
        publish(
            &*self.disk,
            &format!("{DEPLOYS}/{}", file.id()),
            &file.encode(),
            DEPLOYS,
        )?;
        self.deploys
            .write()
            .expect("no panic under this lock")
            .insert(file.id(), file.clone());
        Ok(())
    }

    /// True where the chunk is there, as it was written.
    pub fn holds(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.packs.holds(id)
    }

    /// True where there are chunks that could not be read and have not come anew since.
    pub fn has_suspects(&self) -> bool {
        self.packs.suspects().has_any()
    }

    /// The chunks that could not be read and have not come anew since.
    pub fn suspects(&self) -> Vec<Suspect> {
        self.packs.suspects().list()
    }

    /// Takes those of them that are stored nowhere any more for none: nobody needs them, the caller vouches.
    pub fn forget_lost_suspects(&self, is_unneeded: impl Fn(&Suspect) -> bool) {
        for suspect in self.suspects().into_iter().filter(is_unneeded) {
            if let Ok(None) = self.packs.place_of(&suspect.chunk) {
                self.packs.suspects().remove(&suspect.chunk);
            }
        }
    }

    /// Remembers the suspects over a restart.
    pub fn keep_suspects(&self) {
        if self.check_writable().is_ok() {
            self.packs.suspects().keep();
        }
    }

    /// The text of the store's own `retention.toml`; none: there is no such file.
    pub fn retention_text(&self) -> Result<Option<String>, StoreError> {
        let path = self.root.join(RETENTION);
        let flags = OFlags::RDONLY;
        let opened = own_files::open(&self.root, RETENTION, flags, false, Whose::Peoples);
        match opened.and_then(io::read_to_string) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path.display().to_string())(error)),
        }
    }

    /// Drops the file of a deploy whose removal is recorded. One that stays is dropped when the store is opened again.
    pub fn drop_deploy_file(&self, id: DeployId) {
        let mut deploys = self.deploys.write().expect("no panic under this lock");
        deploys.remove(&id);
        if let Err(error) = self.disk.remove(&format!("{DEPLOYS}/{id}")) {
            log::warn!("'{DEPLOYS}/{id}' cannot be removed: {error}");
        }
    }

    /// True where the chunk is there.
    pub fn contains(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.packs.contains(id)
    }

    /// The moment before a seal's first chunk, for [`Store::sync_packs`].
    pub fn mark(&self) -> Mark {
        self.packs.mark()
    }

    /// The chunk as [`Store::append`] takes it, compressed where that pays. `like` may be a chunk that is much the same.
    pub fn encode(&self, id: ChunkId, raw: &[u8], like: Option<&ChunkId>) -> Encoded {
        self.packs.encode(id, raw, like)
    }

    /// Appends a chunk that is not there; returns the bytes by which the packs grow, 0 where another thread was faster.
    /// Durable after [`Store::sync_packs`].
    pub fn append(&self, chunk: &Encoded) -> Result<u64, StoreError> {
        self.packs.append(chunk)
    }

    /// Makes all chunks appended so far durable; fails where any appended since the mark was lost.
    pub fn sync_packs(&self, since: Mark) -> Result<(), StoreError> {
        self.packs.sync(since)
    }

    /// Takes back all chunks appended since the mark, by a seal that came to nothing.
    pub fn discard(&self, since: Mark) {
        self.packs.discard(since);
    }

    /// True where small chunks are compressed with a dictionary.
    pub fn has_dictionary(&self) -> bool {
        self.packs.has_dictionary()
    }

    /// Makes a dictionary from samples of small contents, if it would save enough, and uses it for what is appended from
    /// now on. It is a chunk like others, and durable with them.
    pub fn train_dictionary(&self, samples: &[Vec<u8>]) -> Result<(), StoreError> {
        let Some(bytes) = compress::train(samples) else {
            return Ok(());
        };
        let id = ChunkId::of(&bytes);
        if !self.packs.contains(&id)? {
            self.packs.append(&Encoded::new(id, &bytes, None))?;
        }
        self.packs.use_dictionary(&id)?;
        self.keep_cached(DICTIONARY, format!("{id}\n").as_bytes());
        Ok(())
    }

    /// A chunk's raw bytes, verified against its id.
    pub fn read_chunk(&self, id: &ChunkId) -> Result<Vec<u8>, StoreError> {
        self.packs.read(id)
    }

    /// The same, appended to `out`.
    pub fn read_chunk_into(&self, id: &ChunkId, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.packs.read_into(id, out)
    }

    /// The chunks of a blob, in order.
    pub fn chunks(&self, blob: &Blob) -> Result<Vec<ChunkRef>, StoreError> {
        match &blob.layout {
            Layout::Single if blob.len == 0 => Ok(Vec::new()),
            Layout::Single => {
                let len = u32::try_from(blob.len).map_err(|_| {
                    object(blob, DecodeError::Invalid("one chunk cannot be so long"))
                })?;
                Ok(vec![ChunkRef {
                    id: ChunkId(blob.id.0),
                    len,
                }])
            }
            Layout::List(chunks) => Ok(chunks.to_vec()),
            Layout::ListAt(id) => {
                decode_list(&self.read_chunk(id)?, blob.len).map_err(|cause| object(blob, cause))
            }
        }
    }

    /// A blob's bytes. Each chunk is verified.
    pub fn read_blob(&self, blob: &Blob) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        for chunk in self.chunks(blob)? {
            self.read_chunk_into(&chunk.id, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// A stored tree, as it is stored.
    pub fn read_sealed_tree(&self, blob: &Blob) -> Result<SealedTree, StoreError> {
        SealedTree::new(self.read_blob(blob)?).map_err(|cause| object(blob, cause))
    }

    /// A stored tree.
    pub fn read_tree(&self, blob: &Blob) -> Result<Tree, StoreError> {
        Tree::decode(&self.read_blob(blob)?).map_err(|cause| object(blob, cause))
    }

    /// Reads every record of every pack. After each, `tell` gets its stored length and what is wrong with it, if anything, and
    /// says whether to go on.
    pub fn scrub(
        &self,
        tell: &mut dyn FnMut(u64, Option<String>) -> bool,
    ) -> Result<(), StoreError> {
        for (number, survey) in self.packs.surveys()? {
            let survey = survey?;
            // A record may go meanwhile.
            let is_there = |id: &ChunkId, place: &pack::Place| match survey.is_finished {
                true => self.packs.is_finished(number),
                false => self.packs.is_recent(id, number, place),
            };
            for error in &survey.problems {
                if !tell(0, Some(error.to_string())) {
                    return Ok(());
                }
            }
            for (id, place) in &survey.places {
                if !is_there(id, place) {
                    continue;
                }
                let checked = self.packs.check_stored(id, number, place);
                if checked.is_err() && !is_there(id, place) {
                    continue;
                }
                // A reader takes the copy that is whole; where there is none, the chunk becomes a suspect.
                let problem = checked.err().map(|error| match self.read_chunk(id) {
                    Ok(_) => format!("{error}; another copy is whole"),
                    Err(_) => error.to_string(),
                });
                if !tell(u64::from(place.stored_len), problem) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The packs as they are, for [`Store::gc`]. No seal may run meanwhile.
    pub fn list_packs(&self) -> PackList {
        PackList {
            packs: self.packs.list(),
            appended: self.packs.appended(),
        }
    }

    /// Begins a gc of these packs. What seals store from then on is left alone.
    pub fn gc(&self, packs: PackList) -> Result<Gc<'_>, StoreError> {
        Gc::new(self, packs)
    }

    /// Begins to count what deploys take in these packs.
    pub fn usage(&self, packs: PackList) -> Result<Usage<'_>, StoreError> {
        Usage::new(self, packs)
    }

    fn catalog(&self, PackList { mut packs, .. }: PackList) -> Result<Catalog, StoreError> {
        for pack in packs
            .iter_mut()
            .filter(|pack| pack.state == State::Finished)
        {
            pack.places = self.packs.footer(pack.number)?;
        }
        Ok(Catalog::new(packs))
    }

    /// A checker over this store. `goes_on` is told what has been looked at so far, and may end it.
    pub fn checker<'a>(&'a self, goes_on: &'a dyn Fn(&CheckReport) -> bool) -> Checker<'a> {
        Checker::new(self, goes_on)
    }
}

fn object(blob: &Blob, cause: DecodeError) -> StoreError {
    StoreError::Object {
        id: blob.id.to_string(),
        cause,
    }
}

/// The folders of a store and their modes. They do not depend on the umask of whoever makes them.
fn make_folders(root: &Path) -> Result<(), StoreError> {
    for (folder, mode) in [
        (".", 0o711),
        (packs::FOLDER, 0o700),
        (DEPLOYS, 0o700),
        (STAGING, 0o700),
        ("staging/.sealing", 0o700),
        ("index", 0o700),
        (CACHE, 0o700),
    ] {
        let path = root.join(folder);
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", folder)(error));
            }
            Ok(()) | Err(_) => {}
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(StoreError::io("set the mode of", folder))?;
    }
    Ok(())
}

/// A deploy file's name without the number of a seal behind it, and that number.
fn split_seal(name: &str) -> (&str, Option<u64>) {
    let split = name.split_once('.');
    let split = split.and_then(|(stem, seal)| Some((stem, Some(seal.parse().ok()?))));
    split.unwrap_or((name, None))
}

/// Deploy files that a backup has written for the seal that the history has now take the place of older ones.
fn take_newer(
    disk: &dyn Disk,
    newer: Vec<(DeployId, String)>,
    is_writable: bool,
    deploys: &mut HashMap<DeployId, DeployFile>,
) -> Result<(), StoreError> {
    let any = !newer.is_empty();
    for (id, path) in newer {
        match read_deploy_file_at(disk, id, &path) {
            Ok(file) => deploys.insert(id, file),
            Err(error) => {
                log::error!("{error}");
                continue;
            }
        };
        if is_writable {
            disk.rename(&path, &format!("{DEPLOYS}/{id}"))
                .map_err(StoreError::io("rename", path))?;
        }
    }
    match any && is_writable {
        true => disk.sync(DEPLOYS).map_err(StoreError::io("sync", DEPLOYS)),
        false => Ok(()),
    }
}

/// Makes a folder's own name durable. Who may not read the folder it is in leaves that to the filesystem.
fn sync_name(folder: &Path) -> io::Result<()> {
    let folder = fs::canonicalize(folder)?;
    match folder.parent().map(fs::File::open) {
        Some(Ok(parent)) => parent.sync_all(),
        Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        Some(Err(_)) | None => Ok(()),
    }
}

/// Replaces a file that may be lost, in one step.
fn replace(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let tmp = format!("{path}.tmp");
    let _ = disk.remove(&tmp);
    disk.append(&tmp, bytes)?;
    disk.rename(&tmp, path)
}

/// Writes a new file so that it is there whole and durable, or not at all.
fn publish(disk: &dyn Disk, path: &str, bytes: &[u8], folder: &str) -> Result<(), StoreError> {
    let tmp = format!("{path}.tmp");
    let _ = disk.remove(&tmp);
    disk.append(&tmp, bytes)
        .map_err(StoreError::io("write", &tmp))?;
    disk.sync(&tmp).map_err(StoreError::io("sync", &tmp))?;
    disk.rename(&tmp, path)
        .map_err(StoreError::io("rename", &tmp))?;
    disk.sync(folder).map_err(StoreError::io("sync", folder))
}

fn read_deploy_file(disk: &dyn Disk, id: DeployId) -> Result<DeployFile, StoreError> {
    read_deploy_file_at(disk, id, &format!("{DEPLOYS}/{id}"))
}

fn read_deploy_file_at(
    disk: &dyn Disk,
    id: DeployId,
    path: &str,
) -> Result<DeployFile, StoreError> {
    let wrong = |what: String| StoreError::DeployFile { id, what };
    let bytes = journal::read_whole(disk, path).map_err(|error| wrong(error.to_string()))?;
    let file =
        DeployFile::decode(&bytes).map_err(|error: DeployFileError| wrong(error.to_string()))?;
    if file.id() == id {
        Ok(file)
    } else {
        Err(wrong("it is another deploy's".into()))
    }
}

/// 32 random hex digits.
pub fn random_hex() -> String {
    let mut bytes = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(
        filled,
        Ok(bytes.len()),
        "the kernel gives small amounts of random bytes whole"
    );
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
