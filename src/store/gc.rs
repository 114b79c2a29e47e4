//! gc: keeps every chunk that is asked for and what that leans on, and gives back the space of the rest.
//!
//! A pack in which nothing is kept goes. One with much that is not kept goes once what is kept in it has been appended again
//! and synced, so that at any moment a crash leaves every kept chunk in at least one pack; twice does no harm. It works in
//! slices. While a slice runs no seal may, and between slices the caller marks what has been sealed meanwhile: so nothing goes
//! that a seal has found to be there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::catalog::{Catalog, Pack};
use super::pack::{Codec, Header, Place};
use super::packs::Lean;
use super::packs::sweep::{Copied, State};
use super::reach::{Reach, reach_blob, reach_tree};
use super::{PackList, Store, StoreError};
use crate::model::report::{GcReport, Suspect};
use crate::model::{Blob, ChunkId, ContentId};

/// A pack is rewritten where at least one byte in so many is not needed.
const DEAD_SHARE: u64 = 4;
/// Copied bytes after which a slice ends: they are synced at its end.
const SLICE_BYTES: u64 = 2 << 20;

/// What a pack needs beside the records that are moved to it: its footer, and what the filesystem writes for it.
const ROOM_BESIDES: u64 = 256 << 10;

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dead,
    Kept,
    /// Kept, and in another pack by now.
    Copied,
}

/// A gc of a store.
pub struct Gc<'a> {
    store: &'a Store,
    catalog: Catalog,
    /// Of each record of the catalog.
    fates: Vec<Fate>,
    /// Trees whose chunks are all marked.
    trees: HashSet<ContentId>,
    /// Marked chunks whose records are not in the catalog: younger than this gc.
    younger: HashSet<ChunkId>,
    /// Chunks that seals had appended by the time of the catalog.
    appended: u64,
    /// Packs that are gone.
    retired: HashSet<u32>,
    /// Packs of which the disk got back what nothing needs, and how many bytes.
    punched: HashMap<u32, u64>,
    /// How many packs were gone when the disk was found full last.
    retired_when_full: Option<usize>,
    /// Grows with each record that is marked.
    marks: u64,
    /// The packs that are to go; none: not chosen yet.
    jobs: Option<VecDeque<Job>>,
    report: GcReport,
}

/// A pack that is to go.
struct Job {
    pack: u32,
    /// The next record to look at, in the order of [`Catalog::nth_by_pack`].
    next: usize,
    /// [`Gc::marks`] when the first one was looked at.
    marks: u64,
    copied: u64,
}

impl Reach for Gc<'_> {
    fn enter(&mut self, tree: &Blob) -> bool {
        self.trees.insert(tree.id)
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        self.keep(id, Lean::Chunk)
    }
}

impl<'a> Gc<'a> {
    /// A gc over the packs as [`Store::list_packs`] found them.
    pub(super) fn new(store: &'a Store, packs: PackList) -> Result<Self, StoreError> {
        let appended = packs.appended;
        let catalog = store.catalog(packs)?;
        Ok(Gc {
            store,
            appended,
            fates: vec![Fate::Dead; catalog.len()],
            catalog,
            trees: HashSet::new(),
            younger: HashSet::new(),
            retired: HashSet::new(),
            punched: HashMap::new(),
            retired_when_full: None,
            marks: 0,
            jobs: None,
            report: GcReport::default(),
        })
    }

    /// Keeps a tree and all that is below it. After an error nothing may be swept.
    pub fn keep_tree(&mut self, tree: &Blob) -> Result<(), StoreError> {
        reach_tree(self.store, tree, self)
    }

    /// Keeps a file. After an error nothing may be swept.
    pub fn keep_file(&mut self, file: &Blob) -> Result<(), StoreError> {
        reach_blob(self.store, file, self)
    }

    /// True where [`Gc::keep_tree`] has kept this tree.
    pub fn keeps(&self, tree: &Blob) -> bool {
        self.trees.contains(&tree.id)
    }

    /// True where the chunk is kept.
    pub fn keeps_chunk(&self, id: &ChunkId) -> bool {
        let mut copies = self.catalog.copies(id);
        copies.any(|at| self.fates[at] != Fate::Dead) || self.younger.contains(id)
    }

    /// Keeps a copy of a chunk that leans on no more than this.
    fn keep(&mut self, id: &ChunkId, most: Lean) -> Result<(), StoreError> {
        let is_there = |at: &usize| !self.retired.contains(&self.catalog.entry(*at).pack);
        let copies: Vec<usize> = self.catalog.copies(id).filter(is_there).collect();
        let is_kept = |at: &usize| {
            self.fates[*at] != Fate::Dead && (copies.len() == 1 || self.is_whole(*at, most))
        };
        if copies.iter().any(is_kept) {
            return Ok(());
        }
        if copies.is_empty() || self.has_come_again(id)? {
            return self.mark_younger(id);
        }
        for at in self.worth_keeping(copies, most) {
            self.mark(at)?;
        }
        Ok(())
    }

    /// True where a seal has stored the chunk once more: what the older record leaned on had gone.
    fn has_come_again(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let packs = &self.store.packs;
        if packs.appended() == self.appended {
            return Ok(false);
        }
        let is_known = |newest| {
            let mut copies = self.catalog.copies(id).map(|at| self.catalog.entry(at));
            copies.any(|entry| (entry.pack, entry.place) == newest)
        };
        Ok(packs.place_of(id)?.is_some_and(|newest| !is_known(newest)))
    }

    /// Keeps what a record needs to be read.
    fn keep_base(&mut self, header: &Header) -> Result<(), StoreError> {
        match header.codec {
            Codec::Raw | Codec::Zstd => Ok(()),
            Codec::ZstdWith(dictionary) => self.keep(&dictionary, Lean::Nothing),
            Codec::ZstdLike(other) => self.keep(&other, Lean::Dictionary),
        }
    }

    fn is_whole(&self, at: usize, most: Lean) -> bool {
        let entry = self.catalog.entry(at);
        let packs = &self.store.packs;
        packs.reads_whole(&entry.id, entry.pack, &entry.place, most)
    }

    fn mark(&mut self, at: usize) -> Result<(), StoreError> {
        self.fates[at] = Fate::Kept;
        self.marks += 1;
        let entry = self.catalog.entry(at);
        // Where it cannot be read, what it leans on is not known.
        let packs = &self.store.packs;
        let header = packs.header_of(&entry.id, entry.pack, &entry.place)?;
        self.keep_base(&header)
    }

    fn mark_younger(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        if self.younger.contains(id) {
            return Ok(());
        }
        let header = self.store.packs.any_header(id)?;
        let header = header.ok_or(StoreError::MissingChunk(*id))?;
        self.younger.insert(*id);
        self.keep_base(&header)
    }

    /// Which of several records of one chunk are to stay: one that reads whole, else all whose header does.
    fn worth_keeping(&self, copies: Vec<usize>, most: Lean) -> Vec<usize> {
        if copies.len() == 1 {
            return copies;
        }
        if let Some(&whole) = copies.iter().find(|at| self.is_whole(**at, most)) {
            return vec![whole];
        }
        let packs = &self.store.packs;
        let has_header = |at: &usize| {
            let entry = self.catalog.entry(*at);
            let header = packs.header_of(&entry.id, entry.pack, &entry.place);
            header.is_ok()
        };
        let readable: Vec<usize> = copies.iter().copied().filter(has_header).collect();
        if readable.is_empty() {
            copies
        } else {
            readable
        }
    }

    /// What would be done now, in figures.
    pub fn plan(&self) -> GcReport {
        let mut report = self.count();
        for (number, kept) in self.kept_by_pack() {
            let pack = &self.catalog.packs()[&number];
            if !is_worth_it(pack, kept) {
                continue;
            }
            match kept {
                0 => report.packs_dropped += 1,
                _ => report.packs_rewritten += 1,
            }
            report.copied_bytes += kept;
            report.freed_bytes += pack.len - kept;
        }
        report
    }

    /// How much is kept, and how much is not.
    fn count(&self) -> GcReport {
        let mut report = GcReport::default();
        for (at, fate) in self.fates.iter().enumerate() {
            if *fate == Fate::Dead {
                report.dropped_chunks += 1;
            } else {
                report.kept_chunks += 1;
                report.kept_bytes += self.catalog.entry(at).len();
            }
        }
        report
    }

    /// The bytes of each pack that are kept.
    fn kept_by_pack(&self) -> Vec<(u32, u64)> {
        let kept = |number: &u32| {
            let in_pack = self.catalog.in_pack(*number);
            let kept = in_pack.filter(|&at| self.fates[at] != Fate::Dead);
            (*number, kept.map(|at| self.catalog.entry(at).len()).sum())
        };
        self.catalog.packs().keys().map(kept).collect()
    }

    /// Chooses the packs that go. From here on nobody may trust what is not kept.
    fn choose(&mut self) -> VecDeque<Job> {
        let mut chosen = self.kept_by_pack();
        chosen.retain(|(number, kept)| is_worth_it(&self.catalog.packs()[number], *kept));
        // Those that need no space to be let go of come first: the disk may be full.
        chosen.sort_by_key(|&(_, kept)| kept);
        chosen.retain(|&(number, _)| self.can_go(number));
        let ids = (0..self.catalog.len()).map(|at| self.catalog.entry(at).id);
        self.store
            .packs
            .forget_recent(ids.filter(|id| !self.keeps_chunk(id)));
        let job = |(pack, _)| Job {
            pack,
            next: 0,
            marks: 0,
            copied: 0,
        };
        chosen.into_iter().map(job).collect()
    }

    /// Nothing is appended to it any more, and all that is in it is known.
    fn can_go(&self, number: u32) -> bool {
        if self.catalog.packs()[&number].state != State::Current {
            return true;
        }
        let is_known = |(id, place): &(ChunkId, Place)| {
            let is_same = |at| {
                let entry = self.catalog.entry(at);
                (entry.pack, entry.place) == (number, *place)
            };
            self.catalog.copies(id).any(is_same)
        };
        let finished = self.store.packs.finish_current(number, is_known);
        finished.unwrap_or_else(|error| {
            log::warn!("a pack stays for now: {error}");
            false
        })
    }

    /// Works for about so long; false: it is done. Before, all that must stay is marked; and no seal runs.
    pub fn sweep(&mut self, limit: Duration) -> Result<bool, StoreError> {
        let until = Instant::now() + limit;
        if let Some(dictionary) = self.store.packs.active_dictionary() {
            self.chunk(&dictionary)?;
        }
        let mut jobs = match self.jobs.take() {
            Some(jobs) => jobs,
            None => self.choose(),
        };
        let done = self.work(&mut jobs, until);
        let done = match done {
            Err(error) if error.is_full() => self.make_room(&mut jobs, error),
            other => other,
        };
        let more = !jobs.is_empty();
        self.jobs = Some(jobs);
        done.map(|()| more)
    }

    fn work(&mut self, jobs: &mut VecDeque<Job>, until: Instant) -> Result<(), StoreError> {
        let mut copies = Vec::new();
        let mut bytes = 0;
        // At least one step each time, however short the limit.
        while let Some(job) = jobs.front_mut() {
            if let Some(at) = self.next_kept(job) {
                let entry = self.catalog.entry(at);
                let copied = self.store.packs.copy(&entry.id, entry.pack, &entry.place)?;
                copies.push((at, copied));
                job.next += 1;
                job.copied += entry.len();
                bytes += entry.len();
            } else {
                self.settle(std::mem::take(&mut copies))?;
                self.retire(job);
                jobs.pop_front();
            }
            if bytes >= SLICE_BYTES || Instant::now() >= until {
                break;
            }
        }
        self.settle(copies)
    }

    /// On a full disk: frees in place what nothing needs in the packs that are to go, so that what is kept in them can be moved.
    /// Fails once that is done and it is still full.
    fn make_room(&mut self, jobs: &mut VecDeque<Job>, cause: StoreError) -> Result<(), StoreError> {
        let retired = self.retired.len();
        let mut goes_on = self.retired_when_full.replace(retired) != Some(retired);
        for job in jobs.iter() {
            if self.punched.contains_key(&job.pack) {
                continue;
            }
            let of_job = self.catalog.in_pack(job.pack);
            let dead = of_job.filter(|&at| self.fates[at] == Fate::Dead);
            let place = |at: usize| (self.catalog.entry(at).id, self.catalog.entry(at).place);
            let places: Vec<_> = dead.map(place).collect();
            let is_finished = self.store.packs.is_finished(job.pack);
            if places.is_empty() || !is_finished {
                continue;
            }
            match self.store.packs.punch(job.pack, &places) {
                Ok(bytes) => {
                    self.punched.insert(job.pack, bytes);
                    self.report.freed_bytes += bytes;
                    goes_on = true;
                }
                Err(error) => log::warn!("no space can be freed in place: {error}"),
            }
        }
        // What was copied and not synced has gone with the pack that it was copied to.
        for job in jobs.iter_mut() {
            let of_job = self.catalog.in_pack(job.pack);
            let copied = of_job.filter(|&at| self.fates[at] == Fate::Copied);
            job.copied = copied.map(|at| self.catalog.entry(at).len()).sum();
            job.next = 0;
        }
        if goes_on {
            return Ok(());
        }
        let kept = jobs.front().map_or(0, |job| {
            let of_job = self.catalog.in_pack(job.pack);
            let kept = of_job.filter(|&at| self.fates[at] == Fate::Kept);
            kept.map(|at| self.catalog.entry(at).len()).sum()
        });
        Err(StoreError::NoRoom {
            cause: Box::new(cause),
            freed: self.report.freed_bytes,
            needed: kept + ROOM_BESIDES,
        })
    }

    /// The next record of the pack that must be copied. What has been marked since its first one was looked at is looked for
    /// from the start.
    fn next_kept(&self, job: &mut Job) -> Option<usize> {
        let range = self.catalog.range_of(job.pack);
        if job.marks != self.marks {
            job.marks = self.marks;
            job.next = 0;
        }
        job.next = job.next.max(range.start);
        while job.next < range.end {
            let at = self.catalog.nth_by_pack(job.next);
            if self.fates[at] == Fate::Kept {
                return Some(at);
            }
            job.next += 1;
        }
        None
    }

    fn settle(&mut self, copies: Vec<(usize, Copied)>) -> Result<(), StoreError> {
        if copies.is_empty() {
            return Ok(());
        }
        let (at, copies): (Vec<usize>, Vec<Copied>) = copies.into_iter().unzip();
        self.store.packs.settle(copies)?;
        for at in at {
            self.fates[at] = Fate::Copied;
        }
        Ok(())
    }

    fn retire(&mut self, job: &Job) {
        self.store.packs.retire(job.pack);
        self.retired.insert(job.pack);
        let len = self.catalog.packs()[&job.pack].len;
        self.report.copied_bytes += job.copied;
        let punched = self.punched.get(&job.pack).copied().unwrap_or(0);
        self.report.freed_bytes += len.saturating_sub(job.copied + punched);
        match job.copied {
            0 => self.report.packs_dropped += 1,
            _ => self.report.packs_rewritten += 1,
        }
    }

    /// What has been done so far.
    pub fn so_far(&self) -> &GcReport {
        &self.report
    }

    /// Tidies the index, and says what was done.
    pub fn finish(self) -> GcReport {
        for &pack in &self.retired {
            let entry = |at: usize| {
                let entry = self.catalog.entry(at);
                (entry.id, entry.place)
            };
            let places = self.catalog.in_pack(pack).map(entry).collect();
            self.store.packs.forget_places(pack, &places);
        }
        let is_unneeded = |one: &Suspect| !self.keeps_chunk(&one.chunk);
        self.store.forget_lost_suspects(is_unneeded);
        let GcReport {
            kept_chunks,
            kept_bytes,
            dropped_chunks,
            ..
        } = self.count();
        GcReport {
            kept_chunks,
            kept_bytes,
            dropped_chunks,
            ..self.report
        }
    }
}

/// True where enough of a pack's bytes is not needed.
fn is_worth_it(pack: &Pack, kept: u64) -> bool {
    kept == 0 || pack.records.saturating_sub(kept) * DEAD_SHARE >= pack.records
}
