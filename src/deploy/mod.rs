//! The flow: how a folder becomes a deploy and a deploy becomes live. Knows the store, and nothing of FUSE, sockets or the
//! command line: what is mounted is told through [`mounted::Mounted`], and every edge calls [`Deployfs::run`].

mod activate;
mod backup;
mod channels;
mod cores;
#[cfg(test)]
mod crash_tests;
mod credentials;
mod draft;
mod error;
mod export;
mod exporting;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gc;
mod hook;
mod import;
#[cfg(test)]
mod import_tests;
mod incoming;
mod ingest;
mod judgement;
mod locking;
mod memory;
pub mod mounted;
mod portable;
mod read_folder;
mod reader;
mod removal;
#[cfg(test)]
mod removal_tests;
mod removing;
mod scan;
mod scrub;
mod seal;
mod sink;
mod spool;
mod staging;
pub mod superblock;
mod undo;
mod unreadable;
mod usage;
mod warnings;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::deploy_file::DeployFile;
use crate::model::diff::{Difference, count, diff};
use crate::model::history::{Record, Verb};
use crate::model::ledger::TargetError;
use crate::model::limits;
use crate::model::report::{
    Answer, Caller, CheckReport, DeployInfo, DiffEntry, DiffReport, Failure, LogEntry, LogRequest,
    Meta, Progress, RepairReport, Request, ScrubReport, SealInfo, SealReport, StatusReport,
};
use crate::model::{Blob, ChannelName, ChunkRef, DeployId, SealedTree, StagingName, Tree};
pub use crate::store::Holder;
use crate::store::{Store, StoreError};
use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, MutexGuard, thread};
pub use credentials::as_root;

use channels::Expiry;
use error::DeployError;
use exporting::Exporting;
use hook::Hooks;
use ingest::{Ticker, Watch};
use mounted::{Content, Mounted, MountedError, Shown};
use reader::Reader;
use staging::Staging;

/// An open store and all that can be asked of it.
pub struct Deployfs {
    store: Store,
    staging: Staging,
    reader: Reader,
    mounted: OnceLock<Arc<dyn Mounted>>,
    hooks: Hooks,
    expiry: Expiry,
    /// Held by a seal from the first chunk that it appends to its record: seals are stored one after the other. Nothing of a client's is
    /// read under it. Taken before `change`.
    sealing: Mutex<()>,
    /// How often chunks may have been removed: slices of a gc, seals that were taken back. Changes under `sealing` only.
    removals: AtomicU64,
    /// Seals that wait for their turn: gc lets them go first.
    seals_waiting: AtomicUsize,
    /// Held by a gc from its beginning to its end. Taken before `sealing`.
    gc: Mutex<()>,
    /// What has been removed since a gc began, if one has: somebody may have opened it before, and found chunks in it that this gc
    /// has counted among what nobody needs.
    removed: Mutex<Option<Vec<(DeployId, Blob)>>>,
    exporting: Exporting,
    /// Trees of the deploys that seals compare their folders with while they read them: a gc keeps them.
    compared: Mutex<Vec<(DeployId, Blob)>>,
    /// Held from the look at what is live to the last notice to the mount: what changes history comes one after the other.
    /// Never for long, so that a rollback does not wait for a seal that reads gigabytes.
    change: Mutex<()>,
    /// The scrub that runs, or the last one.
    scrub: Mutex<Option<ScrubReport>>,
}

impl Deployfs {
    /// Makes a new store in a folder that is not there or empty.
    pub fn init(store: &Path, caller: &Caller) -> Result<(), Failure> {
        Ok(Store::init(store, &caller.name, now())?)
    }

    /// Opens a store for reading and writing. Nobody else can meanwhile.
    pub fn open(store: &Path) -> Result<Self, Failure> {
        Self::recovered(Store::open(store)?)
    }

    /// The same; `None` while somebody else has it open for writing.
    pub fn open_if_free(store: &Path) -> Result<Option<Self>, Failure> {
        match Store::open(store) {
            Err(StoreError::InUse { .. }) => Ok(None),
            opened => Ok(Some(Self::recovered(opened?)?)),
        }
    }

    /// The flow over a store that has just been opened for writing.
    fn recovered(store: Store) -> Result<Self, Failure> {
        let flow = Self::over(store);
        if flow.store.check_writable().is_ok() {
            flow.staging.recover(|txn| flow.store.sealed_at(txn))?;
            flow.close_or_log();
        }
        Ok(flow)
    }

    /// Opens a store for reading, also while somebody else writes, or on a read-only disk.
    pub fn open_read_only(store: &Path) -> Result<Self, Failure> {
        Ok(Self::over(Store::open_read_only(store)?))
    }

    /// The part of the history that is wanted, of a store that is not open: nothing else of it is read. `None` if only opening it can
    /// tell.
    pub fn log_of(store: &Path, wanted: &LogRequest) -> Result<Option<Vec<LogEntry>>, Failure> {
        Ok(Store::log_of(store, wanted)?)
    }

    /// Mends a store that nobody has open, as far as it can be mended.
    pub fn repair(store: &Path) -> Result<RepairReport, Failure> {
        Ok(crate::store::repair(store)?)
    }

    /// The daemon's log in the store, to append to.
    pub fn open_log(store: &Path, name: &str) -> std::io::Result<std::fs::File> {
        Store::open_log(store, name)
    }

    /// True where some process has the store open for writing.
    pub fn is_in_use(store: &Path) -> bool {
        Store::is_in_use(store)
    }

    /// The process that has opened the store for writing last, and perhaps has it open still.
    pub fn last_writer(store: &Path) -> Option<Holder> {
        Store::last_writer(store)
    }

    fn over(store: Store) -> Self {
        Deployfs {
            staging: Staging::new(store.root()),
            store,
            reader: Reader::default(),
            mounted: OnceLock::new(),
            hooks: Hooks::default(),
            expiry: Expiry::default(),
            sealing: Mutex::new(()),
            removals: AtomicU64::new(0),
            compared: Mutex::default(),
            seals_waiting: AtomicUsize::new(0),
            gc: Mutex::new(()),
            removed: Mutex::default(),
            exporting: Exporting::default(),
            change: Mutex::new(()),
            scrub: Mutex::default(),
        }
    }

    /// From now on this view is told what becomes true. Once.
    pub fn attach(&self, mounted: Arc<dyn Mounted>) {
        if self.mounted.set(mounted).is_err() {
            log::error!("a second view was attached to one store, and is not told of changes");
        }
    }

    /// Writes down which device the mount of this store is.
    pub fn note_device(&self, device: u64) {
        self.store.note_device(device);
    }

    /// Lets the members of a group reach their staging folders.
    pub fn admit_to_staging(&self, group: Option<u32>) -> std::io::Result<()> {
        self.staging.admit(group)
    }

    /// The store's folder.
    pub fn path(&self) -> &Path {
        self.store.root()
    }

    /// Chunks that could not be read are to be known to whoever opens the store next.
    pub fn keep_suspects(&self) {
        self.store.keep_suspects();
    }

    /// Opens the index; takes a while where it must be filled. Everything works meanwhile.
    pub fn warm_up(&self) {
        self.store.fill_index();
    }

    /// Before the process ends.
    pub fn wind_down(&self) {
        self.store.close_index();
    }

    /// Hits, misses and bytes of the caches that reads go through.
    pub fn cache_counts(&self) -> BTreeMap<String, u64> {
        self.reader.counts()
    }

    /// All that a view of this store shows.
    pub fn shown(&self) -> Shown {
        let (live, channels, deploys) = self.store.with_ledger(|ledger| {
            let channels = ledger
                .channels()
                .values()
                .map(|shown| (shown.name.clone(), shown.deploy_id));
            let channels: Vec<(ChannelName, DeployId)> = channels.collect();
            let deploys: Vec<DeployId> = ledger.deploys().keys().copied().collect();
            (ledger.live(), channels, deploys)
        });
        let channel = |(name, id)| (name, self.root_or_error(id));
        Shown {
            live: live.map(|id| self.root_or_error(id)),
            channels: channels.into_iter().map(channel).collect(),
            deploys: deploys
                .into_iter()
                .map(|id| self.root_or_error(id))
                .collect(),
        }
    }

    /// Carries out a request that needs no stream.
    pub fn run(
        &self,
        request: &Request,
        caller: &Caller,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Answer, Failure> {
        self.run_with(request, None, caller, progress, cancel)
    }

    /// Carries out a request. `stream`: the folder that is deployed, the pipe that an export is written to, the file that an
    /// import is read from.
    pub fn run_with(
        &self,
        request: &Request,
        stream: Option<OwnedFd>,
        caller: &Caller,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &AtomicBool,
    ) -> Result<Answer, Failure> {
        let watch = Watch { progress, cancel };
        limits::check(request).map_err(DeployError::from)?;
        let answer = match request {
            Request::Create { name } => Answer::Staging(self.create(name.as_ref(), caller)?),
            Request::Seal { name, options } => {
                self.sealed(self.seal(name, options, caller, &watch)?)
            }
            Request::Abort { name } => {
                self.staging.abort(name, caller)?;
                Answer::Done
            }
            Request::Deploy(request) => {
                self.sealed(self.deploy_folder(request, stream, caller, &watch)?)
            }
            Request::Activate(request) => {
                Answer::Activated(self.make_live(Verb::Activate, request, caller, &watch)?)
            }
            Request::Rollback(request) => {
                Answer::Activated(self.make_live(Verb::Rollback, request, caller, &watch)?)
            }
            Request::SetChannel {
                name,
                target,
                until,
                message,
            } => Answer::Channel(self.set_channel(name, target, *until, message, caller, &watch)?),
            Request::CloseChannel { name, message } => {
                Answer::Channel(self.close_channel(name, message, caller, &watch)?)
            }
            Request::Channels => Answer::Channels(self.channels()),
            Request::Lock { reason, until } => {
                Answer::Lock(self.lock(reason, *until, caller, &watch)?)
            }
            Request::Unlock { message } => Answer::Lock(self.unlock(message, caller, &watch)?),
            Request::Pin { target, message } => {
                Answer::Pinned(self.pin(target, message, caller, &watch)?)
            }
            Request::Unpin { target, message } => {
                Answer::Pinned(self.unpin(target, message, caller, &watch)?)
            }
            Request::Remove {
                targets,
                message,
                now,
            } => Answer::Removed(self.remove(targets, message, *now, caller, &watch)?),
            Request::Prune(request) => Answer::Pruned(self.prune(request, caller, &watch)?),
            Request::Usage { targets } => Answer::Usage(self.usage(targets, &watch)?),
            Request::Gc { dry_run } => Answer::Gc(self.gc(*dry_run, &watch)?),
            Request::List => Answer::Deploys(self.list()),
            Request::Show { target } => Answer::Deploy(self.show(target)?),
            Request::Diff { a, b } => Answer::Diff(self.diff(a, b)?),
            Request::Log(request) => Answer::Log(self.store.log(request)?),
            Request::Status => Answer::Status(Box::new(self.status())),
            Request::Export { target } => {
                Answer::Exported(self.export(target, export::pipe(stream)?, &watch)?)
            }
            Request::Import(request) => {
                self.sealed(self.import(request, import::file(stream)?, caller, &watch)?)
            }
            Request::Verify { target } => Answer::Check(self.verify(target.as_deref(), &watch)?),
            Request::Fsck { read_data } => Answer::Check(self.fsck(*read_data, &watch)?),
            Request::Scrub { rate } => Answer::Scrubbed(self.scrub(*rate, &watch)?),
            Request::Shutdown => Answer::Done,
        };
        Ok(answer)
    }

    fn sealed(&self, mut report: SealReport) -> Answer {
        report.live = self.store.with_ledger(|ledger| ledger.live()) == Some(report.deploy_id);
        Answer::Sealed(report)
    }

    fn create(
        &self,
        name: Option<&StagingName>,
        caller: &Caller,
    ) -> Result<std::path::PathBuf, DeployError> {
        if let Some(name) = name {
            return self.staging.create(name, caller);
        }
        // A name nobody asked for: the second it was made, and a number where that is taken.
        let stem = format!("site-{}", now());
        let names =
            std::iter::once(stem.clone()).chain((2..).map(|number| format!("{stem}-{number}")));
        for name in names {
            let name: StagingName = name.parse().expect("letters, digits and dashes");
            match self.staging.create(&name, caller) {
                Err(DeployError::StagingExists(_)) => {}
                made => return made,
            }
        }
        unreachable!("some number is free")
    }

    fn find(&self, target: &str) -> Result<DeployId, DeployError> {
        Ok(self.store.with_ledger(|ledger| ledger.find(target))?)
    }

    /// All deploys, newest first.
    fn list(&self) -> Vec<DeployInfo> {
        let mut ids: Vec<(u64, DeployId)> = self.store.with_ledger(|ledger| {
            ledger
                .deploys()
                .iter()
                .map(|(&id, deploy)| (deploy.order, id))
                .collect()
        });
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter()
            .filter_map(|(_, id)| self.info(id))
            .collect()
    }

    /// None: it has been removed meanwhile.
    fn info(&self, id: DeployId) -> Option<DeployInfo> {
        let (deploy, live, channels) = self.store.with_ledger(|ledger| {
            let deploy = ledger.deploys().get(&id).cloned();
            let channels = ledger.shown_by(id).cloned().collect();
            deploy.map(|deploy| (deploy, ledger.live() == Some(id), channels))
        })?;
        let (file, problem) = match self.store.deploy_file(id) {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let count = |of: fn(&DeployFile) -> u64| file.as_ref().map_or(0, of);
        let seals: Result<Vec<SealInfo>, _> = deploy
            .seals
            .iter()
            .map(|seal| self.store.seal_info(seal))
            .collect();
        let (seals, problem) = match seals {
            Ok(seals) => (seals, problem),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let first = seals.first().cloned().unwrap_or_default();
        let message = said(&seals, |seal| !seal.message.is_empty()).message;
        let meta = said(&seals, |seal| !seal.meta.is_empty()).meta;
        Some(DeployInfo {
            deploy_id: id,
            content_id: deploy.content,
            live,
            channels,
            sealed_at: first.time,
            sealed_by: first.actor,
            message,
            meta,
            files: count(|file| file.files),
            directories: count(|file| file.directories),
            symlinks: count(|file| file.symlinks),
            bytes: count(|file| file.bytes),
            problem,
            seals,
            activated_at: deploy.activated_at,
            changes: None,
            pinned: deploy.pinned,
        })
    }

    fn show(&self, target: &str) -> Result<DeployInfo, DeployError> {
        let id = self.find(target)?;
        let unknown = || TargetError::Unknown(target.to_owned());
        let mut info = self.info(id).ok_or_else(unknown)?;
        let base = self.store.with_ledger(|ledger| {
            let base = ledger.deploys().get(&id)?.base;
            base.filter(|base| ledger.deploys().contains_key(base))
        });
        // A damaged deploy is shown as well, with its problem.
        let changed = self.differences(base, id).ok();
        info.changes = changed.map(|differences| count(base, &differences));
        Ok(info)
    }

    fn diff(&self, a: &str, b: &str) -> Result<DiffReport, DeployError> {
        let a = match a {
            "none" => None,
            target => Some(self.find(target)?),
        };
        let differences = self.differences(a, self.find(b)?)?;
        Ok(DiffReport {
            changes: count(a, &differences),
            entries: differences.into_iter().map(DiffEntry::from).collect(),
        })
    }

    /// What changed from one deploy, or from nothing, to another.
    fn differences(
        &self,
        a: Option<DeployId>,
        b: DeployId,
    ) -> Result<Vec<Difference>, DeployError> {
        let root = |id| Ok::<_, DeployError>(self.tree(&self.store.deploy_file(id)?.root)?);
        let a = match a {
            Some(id) => root(id)?,
            None => Arc::new(Tree::new(Vec::new())),
        };
        Ok(diff(&a, &root(b)?, &mut |blob| self.tree(blob))?)
    }

    /// The store's half of `status`; the daemon adds the mount's.
    pub fn status(&self) -> StatusReport {
        // Before the ledger is looked at: this may wait for a seal's sync, and no activation may wait with it.
        let (staging, pack_bytes, index) = (
            self.staging.names(),
            self.store.pack_bytes(),
            self.store.index_state(),
        );
        let held = self.store.held();
        let (files, logical_bytes) = self.store.deploy_totals();
        let live = self.store.with_ledger(|ledger| ledger.live());
        let live = live.and_then(|id| self.store.deploy_file(id).ok());
        let disk_free_bytes = self.store.disk_free();
        let unreadable = self.unreadable();
        self.store.with_ledger(|ledger| {
            let since = ledger.live_since();
            StatusReport {
                live_files: live.as_ref().map(|file| file.files),
                live_bytes: live.as_ref().map(|file| file.bytes),
                files,
                logical_bytes,
                chunks: held.chunks,
                unique_bytes: held.raw_bytes,
                disk_free_bytes,
                records: ledger.count_by_verb(),
                unreadable,
                store: self.store.root().to_owned(),
                uuid: self.store.uuid().to_owned(),
                live: ledger.live(),
                live_since: since.map(|since| since.time),
                live_by: since.map(|since| since.actor.clone()),
                previous: ledger.previous(),
                channels: ledger.channels_at(now()).cloned().collect(),
                lock: ledger.lock_at(now()).cloned(),
                hook: self.hooks.last_run(),
                deploys: ledger.deploys().len() as u64,
                pinned: ledger.pinned().collect(),
                staging,
                pack_bytes,
                index,
                suspects: self.store.suspects(),
                scrub: self.last_scrub(),
                last_mtime: ledger.last_mtime(),
                ..StatusReport::default()
            }
        })
    }

    fn verify(&self, target: Option<&str>, watch: &Watch<'_>) -> Result<CheckReport, DeployError> {
        let ids = match target {
            Some(target) => vec![self.find(target)?],
            None => self
                .store
                .with_ledger(|ledger| ledger.deploys().keys().copied().collect()),
        };
        self.check(ids, true, false, watch)
    }

    fn fsck(&self, read_data: bool, watch: &Watch<'_>) -> Result<CheckReport, DeployError> {
        let ids = self
            .store
            .with_ledger(|ledger| ledger.deploys().keys().copied().collect());
        self.check(ids, read_data, true, watch)
    }

    fn check(
        &self,
        ids: Vec<DeployId>,
        read_data: bool,
        store_too: bool,
        watch: &Watch<'_>,
    ) -> Result<CheckReport, DeployError> {
        let total = self.bytes_to_check(&ids, read_data);
        let ticker = Ticker::new(watch);
        let goes_on = |report: &CheckReport| {
            let state = || Progress {
                files: report.chunks,
                bytes: report.bytes_read.min(total),
                bytes_total: total,
                ..Progress::default()
            };
            ticker.tick(state).is_ok()
        };
        let mut checker = self.store.checker(&goes_on);
        if store_too {
            checker.check_store();
        }
        for id in ids {
            checker.check_deploy(id, read_data);
            watch.check()?;
        }
        if store_too && read_data {
            checker.check_all_data(&|| watch.check().is_ok());
            watch.check()?;
        }
        let report = checker.finish();
        if store_too && report.problems.is_empty() {
            self.forget_unneeded_suspects();
        }
        Ok(report)
    }

    /// Roughly: what several deploys share is read once.
    fn bytes_to_check(&self, ids: &[DeployId], read_data: bool) -> u64 {
        if !read_data {
            return 0;
        }
        let files = ids.iter().filter_map(|&id| self.store.deploy_file(id).ok());
        let logical = files.map(|file| file.bytes).sum::<u64>();
        logical.min(self.store.held().raw_bytes)
    }

    fn one_seal(&self) -> MutexGuard<'_, ()> {
        self.seals_waiting.fetch_add(1, Ordering::AcqRel);
        let one = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        self.seals_waiting.fetch_sub(1, Ordering::AcqRel);
        one
    }

    /// No seal is stored while this is held. Not for long: one may come.
    fn no_seal(&self) -> MutexGuard<'_, ()> {
        while self.seals_waiting.load(Ordering::Acquire) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        self.sealing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a request, given up if the one who asked has gone by the time of its turn.
    fn one_change_for(&self, watch: &Watch<'_>) -> Result<MutexGuard<'_, ()>, DeployError> {
        let one = self.one_change();
        watch.check()?;
        Ok(one)
    }

    fn last_mtime(&self) -> u64 {
        self.store.with_ledger(|ledger| ledger.last_mtime())
    }

    fn draft_record(
        &self,
        verb: Verb,
        deploy: impl Into<Option<DeployId>>,
        message: &str,
        caller: &Caller,
    ) -> Record {
        Record {
            seq: 0,
            time: now(),
            actor: caller.name.clone(),
            verb,
            channel: None,
            deploy: deploy.into(),
            content: None,
            txn: None,
            until: None,
            overrides: None,
            message: message.to_owned(),
            meta: Meta::new(),
            last_mtime: self.last_mtime(),
            prev: String::new(),
        }
    }

    /// Tells the mounted view, if there is one, of something that is recorded.
    fn tell(
        &self,
        what: &str,
        notice: impl FnOnce(&dyn Mounted) -> Result<(), MountedError>,
    ) -> Result<(), DeployError> {
        let Some(mounted) = self.mounted.get() else {
            return Ok(());
        };
        notice(mounted.as_ref()).map_err(|cause| {
            log::error!("{what}: the mount could not be told: {cause}");
            DeployError::NotFlipped {
                what: what.to_owned(),
                cause,
            }
        })
    }

    fn content_tree(&self, blob: &Blob) -> Result<Arc<Tree>, StoreError> {
        self.tree(blob)
    }
}

impl Content for Deployfs {
    fn sealed_tree(&self, blob: &Blob) -> Result<Arc<SealedTree>, StoreError> {
        self.reader.tree(&self.store, blob)
    }

    fn chunks(&self, blob: &Blob) -> Result<Vec<ChunkRef>, StoreError> {
        self.store.chunks(blob)
    }

    fn read(&self, blob: &Blob, offset: u64, len: u32) -> Result<Vec<u8>, StoreError> {
        self.reader.read(&self.store, blob, offset, len)
    }
}

/// The last seal that says something: sealing the same content again without a word takes no word back.
fn said(seals: &[SealInfo], says_it: impl Fn(&&SealInfo) -> bool) -> SealInfo {
    seals
        .iter()
        .rev()
        .find(says_it)
        .cloned()
        .unwrap_or_default()
}

/// The clock, in whole seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
