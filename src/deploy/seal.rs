//! Sealing: a folder becomes an immutable deploy.
//!
//! The folder is read first, without any lock: it may be slow, or hang. Then, one seal after the other:
//!
//! *Commit order:* chunks → fsync packs → deploy file (tmp, fsync, rename, fsync folder) → history record, fsync → answer.
//! The number of fsyncs does not depend on the number of files. Before the history record nothing exists; after it the
//! deploy does, whatever happens to us. Only from the record on do other changes wait for us.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{FileType, fstat};

use super::credentials::Rights;
use super::draft::{Built, DraftDir};
use super::error::DeployError;
use super::export::only;
use super::ingest::{Ingest, Watch, read_files, samples};
use super::memory::{FileBlob, Memory, sum_of};
use super::mounted::{Content, Root};
use super::read_folder::{BaseDirs, ReadFolder};
use super::scan::{Folder, Problems, Scan};
use super::sink::{DrySink, Sink, StoreSink};
use super::spool::Spool;
use super::superblock::Superblock;
use super::undo::or_undo;
use super::warnings::warnings;
use super::{Deployfs, now};
use crate::model::deploy_file::DeployFile;
use crate::model::history::{Record, Verb};
use crate::model::mtime::seal_second;
use crate::model::report::{Caller, ChangeCounts, FolderRequest, SealOptions, SealReport};
use crate::model::{Blob, DeployId, Node, StagingName};
use crate::store::Mark;
use crate::sync::{Mutex, thread};

/// Of so many files the walk leaves much memory that is free, but still this process's.
const MANY: usize = 50_000;
/// How often a folder is read where chunks that its seal found are removed meanwhile.
const READS_MAX: u32 = 5;

/// Everything a seal is told.
pub(super) struct Task<'a> {
    pub folder: PathBuf,
    pub below: Option<DeployId>,
    pub delete: &'a [PathBuf],
    pub dry_run: bool,
    /// Every file is read, whatever is remembered of it.
    pub read_all: bool,
    pub options: &'a SealOptions,
    pub txn: Option<String>,
    pub caller: &'a Caller,
}

/// A folder whose files have not been read.
struct Walked {
    scan: Scan,
    problems: Problems,
    /// What to train a dictionary with, if there is none.
    samples: Vec<Vec<u8>>,
}

/// A folder that has been read.
struct Reading {
    read: Arc<ReadFolder>,
    remembered: Option<Remembered>,
}

/// What it takes to remember a folder for the next deploy.
struct Remembered {
    superblock: Superblock,
    began: SystemTime,
    /// The checksum of what was remembered of the last one.
    last: Vec<u8>,
}

/// A seal that lacks nothing but its record.
struct Prepared {
    done: Committed,
    /// None: the deploy is there already, whole.
    file: Option<DeployFile>,
    remembered: Option<Remembered>,
}

/// A committed seal and what is needed to look at its folder once more.
struct Committed {
    report: SealReport,
    read: Arc<ReadFolder>,
}

impl Task<'_> {
    /// Each user has a memory of their own: one must not learn through it what another was allowed to read.
    fn memory_name(&self) -> String {
        format!("read-{}", self.caller.uid)
    }
}

impl ReadFolder {
    /// What to keep of it for the next deploy; `None` if that is kept already.
    fn encode(&self, remembered: &Remembered) -> Option<Vec<u8>> {
        let file = |file| FileBlob {
            stamp: self.scan.stamp(file),
            blob: self.blob(file),
        };
        let files = || (0..self.scan.files()).map(file);
        let bytes = Memory::encode(files, &remembered.superblock, remembered.began);
        (sum_of(&bytes) != remembered.last).then_some(bytes)
    }
}

impl Deployfs {
    /// `seal NAME`.
    pub(super) fn seal(
        &self,
        name: &StagingName,
        options: &SealOptions,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<SealReport, DeployError> {
        watch.check()?;
        self.store.check_writable()?;
        let (frozen, folder) = self.staging.freeze(name, caller)?;
        let folder = Folder::new(frozen.path.clone(), frozen.rights.clone(), folder);
        let task = Task {
            folder: frozen.path.clone(),
            below: None,
            delete: &[],
            dry_run: false,
            read_all: true,
            options,
            txn: Some(frozen.txn.clone()),
            caller,
        };
        let mut back = None;
        let sealed = or_undo(
            || self.run_seal(&task, &folder, watch),
            || back = self.give_back(&frozen),
        );
        match (sealed, back) {
            (Ok(done), _) => self.remove_staged(&frozen, &folder, done),
            (Err(error), None) => Err(error),
            (Err(error), Some(Ok(back))) => Err(under_its_own_name(error, &frozen.path, &back)),
            (Err(error), Some(Err(thaw))) => Err(DeployError::NotGivenBack {
                error: Box::new(error),
                folder: frozen.path,
                cause: Box::new(thaw),
            }),
        }
    }

    /// Where the folder of a seal is that came to nothing; `None` if it is recorded all the same, and the folder used up. No other seal
    /// may have run since.
    fn give_back(&self, frozen: &super::staging::Frozen) -> Option<Result<PathBuf, DeployError>> {
        let recorded = self
            .store
            .with_ledger(|ledger| ledger.is_last_seal(&frozen.txn));
        (!recorded).then(|| self.staging.thaw(frozen))
    }

    /// `deploy DIR`. The caller has opened the folder.
    pub(super) fn deploy_folder(
        &self,
        request: &FolderRequest,
        opened: Option<OwnedFd>,
        caller: &Caller,
        watch: &Watch<'_>,
    ) -> Result<SealReport, DeployError> {
        let opened = only(opened, FileType::Directory)?
            .ok_or_else(|| DeployError::NoDescriptor(request.dir.clone()))?;
        let owner = fstat(&opened).map_or(caller.uid, |stat| stat.st_uid);
        let rights = Rights::over(caller, owner);
        let folder = Folder::new(request.dir.clone(), rights, opened);
        watch.check()?;
        if !request.dry_run {
            self.store.check_writable()?;
        }
        let below = request
            .from
            .as_deref()
            .map(|target| self.find(target))
            .transpose()?;
        let task = Task {
            folder: request.dir.clone(),
            below,
            delete: &request.delete,
            dry_run: request.dry_run,
            read_all: request.no_cache,
            options: &request.options,
            txn: None,
            caller,
        };
        self.run_seal(&task, &folder, watch).map(|done| done.report)
    }

    fn run_seal(
        &self,
        task: &Task<'_>,
        folder: &Folder,
        watch: &Watch<'_>,
    ) -> Result<Committed, DeployError> {
        let mut attempts = 1..READS_MAX;
        loop {
            match self.try_seal(task, folder, watch) {
                Err(DeployError::ReadAgain) if attempts.next().is_some() => {}
                done => return done,
            }
        }
    }

    /// Reads the folder without any lock, then stores what is new under the lock of seals.
    fn try_seal(
        &self,
        task: &Task<'_>,
        folder: &Folder,
        watch: &Watch<'_>,
    ) -> Result<Committed, DeployError> {
        let removals = self.removals();
        let compared = self.compare_with_base();
        let base = compared.base.clone();
        if task.dry_run {
            let sink = DrySink::new(&self.store);
            let reading = self.read(task, folder, base, &sink, watch)?;
            let _one = self.one_seal();
            return Ok(self.prepare(task, reading, &sink)?.done);
        }
        let spool = Spool::new(&self.store, removals);
        let reading = self.read(task, folder, base.clone(), &spool, watch)?;
        let _one = self.one_seal();
        watch.check()?;
        self.store.check_writable()?;
        // Files that are as in the base deploy are not looked up in the spool.
        if removals != self.removals() && base.is_some_and(|(id, _)| !self.is_sealed(id)) {
            return Err(DeployError::ReadAgain);
        }
        let mark = self.store.mark();
        let sink = StoreSink::new(&self.store);
        let prepared = or_undo(
            || {
                spool.empty_into(&sink, self.removals())?;
                let prepared = self.prepare(task, reading, &sink)?;
                watch.check()?;
                self.make_durable(prepared.file.as_ref(), mark)?;
                Ok::<_, DeployError>(prepared)
            },
            || self.take_back(mark),
        )?;
        let new_second = prepared.file.as_ref().map(|file| file.root_mtime);
        self.record_seal(task, &prepared.done.report, new_second, watch)?;
        let remembered = prepared.remembered.as_ref();
        if let Some(bytes) = remembered.and_then(|last| prepared.done.read.encode(last)) {
            self.store.keep_cached(&task.memory_name(), &bytes);
        }
        Ok(prepared.done)
    }

    fn is_sealed(&self, id: DeployId) -> bool {
        self.store
            .with_ledger(|ledger| ledger.deploys().contains_key(&id))
    }

    /// Reads the folder, and looks at it once more: from then on it may change.
    fn read(
        &self,
        task: &Task<'_>,
        folder: &Folder,
        base: Option<(DeployId, Blob)>,
        sink: &dyn Sink,
        watch: &Watch<'_>,
    ) -> Result<Reading, DeployError> {
        let base = base.map(|(_, root)| root);
        let reading = self.read_folder(task, folder, base.as_ref(), sink, watch)?;
        let mut problems = Problems::default();
        find_changes(folder, &reading.read.scan, &mut problems)?;
        problems.refuse(&task.folder)?;
        watch.check()?;
        Ok(reading)
    }

    /// Checks what was read, and stores the trees that are new in it. Nothing counts yet.
    fn prepare(
        &self,
        task: &Task<'_>,
        reading: Reading,
        sink: &dyn Sink,
    ) -> Result<Prepared, DeployError> {
        let Reading { read, remembered } = reading;
        let (against, base) = self.base_root().unzip();
        let mut draft = DraftDir::from_folder(read.clone());
        self.lay_over(task, &mut draft)?;
        self.check_links(task, &mut draft)?;
        if draft.is_empty() && !task.options.allow_empty {
            return Err(DeployError::Empty(task.folder.clone()));
        }
        let warnings = warnings(&draft);
        let second = seal_second(now(), self.last_mtime());
        let built = draft.build(base.as_ref(), second, self)?;
        let (existed, file) = self.deploy_file(task, &built, second, sink)?;
        Ok(Prepared {
            done: Committed {
                report: SealReport {
                    changes: built.changes(against, base.as_ref(), self),
                    warnings,
                    ..report(task, &built, existed, sink)
                },
                read,
            },
            file,
            remembered,
        })
    }

    /// Makes a dictionary for new chunks where there is none. It stays, whatever becomes of the seal.
    fn train(&self, samples: &[Vec<u8>]) -> Result<(), DeployError> {
        if samples.is_empty() {
            return Ok(());
        }
        let _one = self.one_seal();
        if self.store.has_dictionary() {
            return Ok(());
        }
        let mark = self.store.mark();
        or_undo(
            || {
                self.store.train_dictionary(samples)?;
                Ok(self.store.sync_packs(mark)?)
            },
            || self.take_back(mark),
        )
    }

    pub(super) fn check_links(
        &self,
        task: &Task<'_>,
        draft: &mut DraftDir,
    ) -> Result<(), DeployError> {
        if task.options.allow_external_symlinks {
            return Ok(());
        }
        let mut problems = Problems::default();
        draft.check_links(self, &mut problems)?;
        problems.refuse(&task.folder)
    }

    /// Whether the deploy is there already, and its file, with this mtime of its root; none: that one is good.
    pub(super) fn deploy_file(
        &self,
        task: &Task<'_>,
        built: &Built,
        second: u64,
        sink: &dyn Sink,
    ) -> Result<(bool, Option<DeployFile>), DeployError> {
        let id = DeployId::of(&built.content);
        let known = self
            .store
            .with_ledger(|ledger| ledger.deploys().get(&id).map(|d| d.content));
        if known.is_some_and(|content| content != built.content) {
            return Err(DeployError::IdTaken(id));
        }
        // A deploy whose file is damaged is written anew: its content has just come again.
        // So is one whose trees cannot be read.
        if known.is_some()
            && let Ok(file) = self.store.deploy_file(id)
            && self.is_readable(&file.root)
        {
            return Ok((true, None));
        }
        let file = DeployFile {
            content: built.content,
            root: built.store(sink, self)?,
            root_mtime: second,
            files: built.counts.files,
            directories: built.counts.directories,
            symlinks: built.counts.symlinks,
            bytes: built.counts.bytes,
            sealed_at: now(),
            sealed_by: task.caller.name.clone(),
        };
        Ok((known.is_some(), Some(file)))
    }

    /// True where this tree and all below it can be read from the disk.
    fn is_readable(&self, tree: &Blob) -> bool {
        let Ok(tree) = self.store.read_sealed_tree(tree) else {
            return false;
        };
        tree.entries_from(0).all(|entry| match &entry.node {
            Node::Dir { tree, .. } => self.is_readable(tree),
            Node::File(_) | Node::Symlink(_) => true,
        })
    }

    /// All that the record of the seal will name survives a power cut from here on.
    pub(super) fn make_durable(
        &self,
        file: Option<&DeployFile>,
        mark: Mark,
    ) -> Result<(), DeployError> {
        self.store.sync_packs(mark)?;
        match file {
            Some(file) => Ok(self.store.write_deploy_file(file)?),
            None => Ok(()),
        }
    }

    /// Walks and reads the folder, all of it with the task's rights.
    fn read_folder(
        &self,
        task: &Task<'_>,
        folder: &Folder,
        base: Option<&Blob>,
        sink: &dyn Sink,
        watch: &Watch<'_>,
    ) -> Result<Reading, DeployError> {
        let began = SystemTime::now();
        // A staging folder goes once it is sealed: there is no next time.
        let may_remember = !self.staging.holds(&task.folder);
        let recollect = || {
            let last = match may_remember {
                true => self.store.cached(&task.memory_name()),
                false => Vec::new(),
            };
            let memory = Memory::decode(last);
            // They are looked up once the walk has ended.
            base.into_iter().for_each(|base| self.read_ahead(base));
            memory
        };
        let (walked, memory) = thread::scope(|scope| {
            let recollecting = scope.spawn(recollect);
            let walked = self.walk_folder(task, folder);
            let recollected = recollecting.join();
            (
                walked,
                recollected.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        });
        let Walked {
            scan,
            problems,
            samples,
        } = walked?;
        if scan.files() > MANY {
            release_free_memory();
        }
        self.train(&samples)?;
        let problems = Mutex::new(problems);
        let before = BaseDirs::new(self, &scan, base);
        let superblock = may_remember.then(|| folder.superblock()).flatten();
        let last = memory.sum();
        let memory = memory.on(superblock.as_ref().filter(|_| !task.read_all));
        let work = Ingest {
            folder,
            scan: &scan,
            memory: &memory,
            before: &before,
            content: self,
            sink,
            problems: &problems,
            watch,
        };
        let blobs = read_files(&work)?;
        problems
            .into_inner()
            .expect("no panic under this lock")
            .refuse(&task.folder)?;
        let remembered = superblock.map(|superblock| Remembered {
            superblock,
            began,
            last,
        });
        drop(before);
        let read = Arc::new(ReadFolder { scan, blobs });
        Ok(Reading { read, remembered })
    }

    fn walk_folder(&self, task: &Task<'_>, folder: &Folder) -> Result<Walked, DeployError> {
        let train = !task.dry_run && !self.store.has_dictionary();
        folder.rights.on_a_thread(|| {
            let mut problems = Problems::default();
            let scan = folder.scan(&mut problems)?;
            let samples = match train {
                true => samples(folder, &scan),
                false => Vec::new(),
            };
            Ok(Walked {
                scan,
                problems,
                samples,
            })
        })?
    }

    /// Has this tree and all below it in memory. What cannot be read is told by whoever needs it.
    fn read_ahead(&self, tree: &Blob) {
        let Ok(tree) = self.sealed_tree(tree) else {
            return;
        };
        for entry in tree.entries_from(0) {
            if let Node::Dir { tree, .. } = &entry.node {
                self.read_ahead(tree);
            }
        }
    }

    fn lay_over(&self, task: &Task<'_>, draft: &mut DraftDir) -> Result<(), DeployError> {
        let Some(base) = task.below else {
            return Ok(());
        };
        let tree = self.tree(&self.store.deploy_file(base)?.root)?;
        if task.delete.is_empty() {
            return draft.lay_over(&tree, self);
        }
        // From the deploy alone: what the folder has at the same path stays.
        let mut below = DraftDir::empty();
        below.lay_over(&tree, self)?;
        for (at, path) in task.delete.iter().enumerate() {
            let others = task.delete.iter().enumerate();
            let mut covered = others.filter(|&(other, above)| {
                other != at && path.starts_with(above) && (other < at || path != above)
            });
            if covered.next().is_none() && !below.delete(path, self)? {
                return Err(DeployError::NothingToDelete {
                    path: path.clone(),
                    base,
                });
            }
        }
        draft.lay_over_draft(below, self)
    }

    /// The root of the deploy whose mtimes are inherited: the live one, else the latest sealed. A damaged one is passed over:
    /// then everything is stamped as new, which is right, if slower for visitors.
    pub(super) fn base_root(&self) -> Option<(DeployId, Blob)> {
        let base = self
            .store
            .with_ledger(|ledger| ledger.live().or_else(|| ledger.latest()))?;
        self.store
            .deploy_file(base)
            .inspect_err(|error| log::warn!("nothing is inherited from deploy {base}: {error}"))
            .ok()
            .map(|file| (base, file.root))
    }

    /// From here on the deploy exists, and the mount shows it.
    /// `new_second`: the latest mtime second that is new with it; none: the deploy was there already.
    pub(super) fn record_seal(
        &self,
        task: &Task<'_>,
        report: &SealReport,
        new_second: Option<u64>,
        watch: &Watch<'_>,
    ) -> Result<(), DeployError> {
        let (id, content_id) = (report.deploy_id, report.content_id);
        let _one = self.one_change_for(watch)?;
        if !self.store.has_deploy_file(id) {
            return Err(DeployError::RemovedMeanwhile(id));
        }
        let draft = self.draft_record(Verb::Seal, id, &task.options.message, task.caller);
        self.store.record(Record {
            content: Some(content_id),
            txn: task.txn.clone(),
            meta: task.options.meta.clone(),
            last_mtime: new_second.unwrap_or(draft.last_mtime),
            ..draft
        })?;
        if new_second.is_none() {
            return Ok(());
        }
        let root = self.root_of(id)?;
        self.tell(&format!("seal of {id}"), |mounted| mounted.sealed(&root))
    }

    /// The deploy is made: its staged copy goes, unless somebody has written to it after it was read.
    fn remove_staged(
        &self,
        frozen: &super::staging::Frozen,
        folder: &Folder,
        done: Committed,
    ) -> Result<SealReport, DeployError> {
        let mut report = done.report;
        let mut changed = Problems::default();
        find_changes(folder, &done.read.scan, &mut changed)?;
        if changed.refuse(&frozen.path).is_ok() {
            if let Err(error) = self.staging.remove(frozen) {
                report.warnings.push(error.to_string());
            }
            return Ok(report);
        }
        let kept = self
            .staging
            .thaw(frozen)
            .unwrap_or_else(|_| frozen.path.clone());
        report.warnings.push(format!(
            "something wrote to the staging folder while it was being sealed; the deploy does not have it, the folder is kept in '{}'",
            kept.display()
        ));
        Ok(report)
    }

    /// What a mounted view shows of a deploy that exists.
    pub(super) fn root_of(&self, id: DeployId) -> Result<Root, DeployError> {
        let file = self.store.deploy_file(id)?;
        let order = self
            .store
            .with_ledger(|ledger| ledger.deploys().get(&id).map_or(0, |d| d.order));
        Ok(Root {
            id,
            tree: file.root,
            mtime: file.root_mtime,
            order,
        })
    }
}

pub(super) fn report(task: &Task<'_>, built: &Built, existed: bool, sink: &dyn Sink) -> SealReport {
    let counts = sink.counts();
    SealReport {
        deploy_id: DeployId::of(&built.content),
        content_id: built.content,
        existed,
        dry_run: task.dry_run,
        files: built.counts.files,
        directories: built.counts.directories,
        symlinks: built.counts.symlinks,
        bytes: built.counts.bytes,
        new_chunks: counts.new_chunks,
        new_bytes: counts.new_bytes,
        stored_bytes: counts.stored_bytes,
        changes: ChangeCounts::default(),
        deploy_path: None,
        live: false,
        warnings: Vec::new(),
    }
}

/// See [`Folder::find_changes`], with the folder's rights.
fn find_changes(folder: &Folder, scan: &Scan, problems: &mut Problems) -> Result<(), DeployError> {
    let find = || folder.find_changes(scan, problems);
    folder.rights.on_a_thread(find)
}

/// A refusal names the frozen folder; people know it by its own name.
fn under_its_own_name(error: DeployError, frozen: &Path, back: &Path) -> DeployError {
    match error {
        DeployError::Refused { problems, more, .. } => DeployError::Refused {
            folder: back.to_owned(),
            problems,
            more,
        },
        DeployError::Empty(_) => DeployError::Empty(back.to_owned()),
        DeployError::Io { doing, path, cause } if path == frozen => DeployError::Io {
            doing,
            path: back.to_owned(),
            cause,
        },
        other => other,
    }
}

/// Returns what is free to the kernel. The allocator keeps it otherwise, as several threads left it in pieces.
fn release_free_memory() {
    // SAFETY: no argument or result of it is a pointer, and what is in use stays.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
