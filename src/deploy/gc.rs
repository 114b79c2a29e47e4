//! gc: gives back the space of what no deploy needs. What it must keep: every deploy that is there, whatever somebody may go on
//! reading through the mount, and what is sealed while it works.
//!
//! A seal trusts chunks that it finds. So no slice of the sweep runs while a seal is stored, before each slice all that has been
//! sealed by then is marked, and a seal that read its folder beside a slice looks up again what it found before it is stored.

use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::Deployfs;
use super::error::DeployError;
use super::ingest::{Ticker, Watch};
use super::memory::Memory;
use super::mounted::Held;
use crate::model::deploy_file::DeployFile;
use crate::model::report::{GcReport, Progress};
use crate::model::{Blob, DeployId, Layout};
use crate::store::{Gc, Hold, Mark, StoreError};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{MutexGuard, thread};

/// How long a slice takes, but for its sync. A seal that comes waits for it.
const SLICE: Duration = Duration::from_millis(30);

/// How long the packs are free for a backup after each slice.
const BETWEEN_SLICES: Duration = Duration::from_millis(1);
/// How often it is looked whether a backup has ended.
const BACKUP_WAIT: Duration = Duration::from_millis(200);

/// How far a sweep has come.
fn swept(report: &GcReport) -> Progress {
    Progress {
        files: report.packs_dropped + report.packs_rewritten,
        bytes: report.freed_bytes,
        ..Progress::default()
    }
}

/// See [`Deployfs::removal`].
struct Removal<'a>(&'a AtomicU64);

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// See [`Deployfs::compare_with_base`].
pub(super) struct Compared<'a> {
    flow: &'a Deployfs,
    /// The deploy and its tree.
    pub base: Option<(DeployId, Blob)>,
}

impl Drop for Compared<'_> {
    fn drop(&mut self) {
        let mut all = self.flow.compared();
        let at = all.iter().position(|one| Some(one) == self.base.as_ref());
        at.map(|at| all.swap_remove(at));
    }
}

impl Deployfs {
    /// `gc`.
    pub(super) fn gc(&self, dry_run: bool, watch: &Watch<'_>) -> Result<GcReport, DeployError> {
        let _one = match self.gc.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(DeployError::GcRunning),
        };
        let done = self.gc_alone(dry_run, watch);
        *self.removed_meanwhile() = None;
        done
    }

    fn gc_alone(&self, dry_run: bool, watch: &Watch<'_>) -> Result<GcReport, DeployError> {
        let mut gc = self.begin_gc(watch)?;
        if dry_run {
            return Ok(GcReport {
                dry_run,
                deploys: self.kept_files()?.len() as u64,
                ..gc.plan()
            });
        }
        let ticker = Ticker::new(watch);
        while self.gc_slice(&mut gc, SLICE, watch)? {
            ticker.tick(|| swept(gc.so_far()))?;
        }
        self.end_gc(gc)
    }

    /// Marks what must stay as things are now.
    pub(super) fn begin_gc(&self, watch: &Watch<'_>) -> Result<Gc<'_>, DeployError> {
        self.store.check_writable()?;
        self.store.fill_index();
        *self.removed_meanwhile() = Some(Vec::new());
        let packs = {
            let _no_seal = self.no_seal();
            self.store.list_packs()
        };
        let mut gc = self.store.gc(packs)?;
        self.mark_deploys(&mut gc, watch)?;
        self.mark_held(&mut gc)?;
        Ok(gc)
    }

    /// Marks what has been sealed since, then sweeps for about so long; false: it is done.
    pub(super) fn gc_slice(
        &self,
        gc: &mut Gc<'_>,
        limit: Duration,
        watch: &Watch<'_>,
    ) -> Result<bool, DeployError> {
        let _alone = self.until_no_backup(gc, watch)?;
        self.mark_deploys(gc, watch)?;
        let _no_seal = self.no_seal();
        let roots = self.needed_roots()?;
        if !roots.iter().all(|(_, root)| gc.keeps(root)) {
            return Ok(true);
        }
        let _removal = self.removal();
        Ok(gc.sweep(limit)?)
    }

    /// The right to remove packs, once nobody copies them.
    fn until_no_backup(&self, gc: &Gc<'_>, watch: &Watch<'_>) -> Result<Hold, DeployError> {
        // A backup that waits gets its turn between two slices.
        thread::sleep(BETWEEN_SLICES);
        let mut is_logged = false;
        loop {
            if let Some(hold) = Hold::exclusive(self.store.root())? {
                return Ok(hold);
            }
            if !is_logged {
                is_logged = true;
                log::info!("gc waits for the end of a backup of this store");
            }
            (watch.progress)(Progress {
                waits_for_backup: true,
                ..swept(gc.so_far())
            });
            watch.check()?;
            thread::sleep(BACKUP_WAIT);
        }
    }

    /// Tidies up, and says what was done.
    pub(super) fn end_gc(&self, gc: Gc<'_>) -> Result<GcReport, DeployError> {
        self.store.drop_cached("read-", |bytes| {
            let memory = Memory::decode(bytes.to_vec());
            memory.blobs().any(|blob| match &blob.layout {
                Layout::Single => blob.single_chunk().is_some_and(|id| !gc.keeps_chunk(&id)),
                Layout::List(chunks) => chunks.iter().any(|chunk| !gc.keeps_chunk(&chunk.id)),
                Layout::ListAt(list) => !gc.keeps_chunk(list),
            })
        });
        Ok(GcReport {
            deploys: self.kept_files()?.len() as u64,
            ..gc.finish()
        })
    }

    fn mark_deploys(&self, gc: &mut Gc<'_>, watch: &Watch<'_>) -> Result<(), DeployError> {
        let ticker = Ticker::new(watch);
        for (id, root) in self.needed_roots()? {
            ticker.tick(|| swept(gc.so_far()))?;
            let stopped = |cause| DeployError::GcStopped { id, cause };
            gc.keep_tree(&root).map_err(stopped)?;
        }
        Ok(())
    }

    /// The trees of all deploys that are there, or were when this gc began or later.
    fn needed_roots(&self) -> Result<Vec<(DeployId, Blob)>, DeployError> {
        let files = self.kept_files()?.into_iter();
        let mut roots: Vec<_> = files.map(|(id, file)| (id, file.root)).collect();
        // After those that are there: what is removed is here before it goes there.
        roots.extend(self.removed_meanwhile().clone().unwrap_or_default());
        roots.extend(self.exporting.roots());
        roots.extend(self.compared().iter().cloned());
        Ok(roots)
    }

    /// Keeps the deploy that a seal compares its folder with, until the answer is dropped.
    pub(super) fn compare_with_base(&self) -> Compared<'_> {
        // At once: whoever misses the deploy in the ledger finds it here.
        let mut compared = self.compared();
        let base = self.base_root();
        compared.extend(base.clone());
        Compared { flow: self, base }
    }

    /// Held while chunks may go. Once that is over, seals that read beside it look up again what they found: it counts at its end, as
    /// one that counted at its beginning would pass by a seal that begins in between. The caller holds `sealing`.
    fn removal(&self) -> Removal<'_> {
        Removal(&self.removals)
    }

    /// How often chunks may have been removed. Who reads folders asks before it looks for the first chunk, and again under `sealing`.
    pub(super) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// Takes back what a seal has appended. The caller holds `sealing`.
    pub(super) fn take_back(&self, since: Mark) {
        let _removal = self.removal();
        self.store.discard(since);
    }

    fn compared(&self) -> MutexGuard<'_, Vec<(DeployId, Blob)>> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a gc that goes on: what this removal takes may be open.
    pub(super) fn note_removal(&self, id: DeployId) {
        if let Some(removed) = &mut *self.removed_meanwhile()
            && let Ok(file) = self.store.deploy_file(id)
        {
            removed.push((id, file.root));
        }
    }

    fn removed_meanwhile(&self) -> MutexGuard<'_, Option<Vec<(DeployId, Blob)>>> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files of all deploys that are there.
    pub(super) fn kept_files(&self) -> Result<Vec<(DeployId, DeployFile)>, DeployError> {
        let ids: Vec<DeployId> = self
            .store
            .with_ledger(|ledger| ledger.deploys().keys().copied().collect());
        let mut files = Vec::with_capacity(ids.len());
        for id in ids {
            match self.store.deploy_file(id) {
                Ok(file) => files.push((id, file)),
                Err(cause) => {
                    let is_there =
                        |ledger: &crate::model::ledger::Ledger| ledger.deploys().contains_key(&id);
                    if self.store.with_ledger(is_there) {
                        return Err(DeployError::GcStopped { id, cause });
                    }
                }
            }
        }
        Ok(files)
    }

    fn mark_held(&self, gc: &mut Gc<'_>) -> Result<(), DeployError> {
        // What was removed by now, the mount has been told of.
        drop(self.one_change());
        let Some(mounted) = self.mounted.get() else {
            return Ok(());
        };
        mounted.reclaim();
        let mut kept: Result<(), StoreError> = Ok(());
        mounted.held(&mut |held| {
            if kept.is_ok() {
                kept = match held {
                    Held::File(blob) => gc.keep_file(&blob),
                    Held::Dir(blob) => gc.keep_tree(&blob),
                };
            }
        });
        kept.map_err(DeployError::GcStoppedByMount)
    }
}
