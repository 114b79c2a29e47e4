//! Copies what a state needs from store to store, chunk by chunk, each verified.

use std::collections::HashSet;

use super::super::pack::Codec;
use super::super::reach::{Reach, reach_tree};
use super::super::{Store, StoreError};
use super::{BackupError, Snapshot, Target};
use crate::model::{Blob, ChunkId, ContentId};

/// Problems that are named; the others are most likely of the same kind.
const PROBLEMS_MAX: usize = 20;
/// Searches in the packs of the target after which its index is opened.
const SEARCHES: u64 = 1000;

/// How much has been copied so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Deploys that the target did not have.
    pub deploys: u64,
    /// Chunks appended.
    pub chunks: u64,
    /// Bytes by which the target's packs grew.
    pub bytes: u64,
    /// Chunks that were damaged in the target and are whole again.
    pub healed: u64,
}

/// A copy under way.
pub struct Copier<'a> {
    from: &'a Store,
    to: &'a Store,
    /// Told now and then; false ends the copy.
    goes_on: &'a dyn Fn(&Copied) -> bool,
    trees: HashSet<ContentId>,
    copied: Copied,
    /// What of the source cannot be read.
    problems: Vec<String>,
    /// The caller has ended it.
    is_over: bool,
    is_target_broken: bool,
}

impl Reach for Copier<'_> {
    fn enter(&mut self, tree: &Blob) -> bool {
        self.trees.insert(tree.id)
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        if !(self.goes_on)(&self.copied) {
            self.is_over = true;
            return Err(StoreError::MissingChunk(*id));
        }
        self.need(id)
    }
}

impl<'a> Copier<'a> {
    pub fn new(from: &'a Store, to: &'a Store, goes_on: &'a dyn Fn(&Copied) -> bool) -> Self {
        Copier {
            from,
            to,
            goes_on,
            trees: HashSet::new(),
            copied: Copied::default(),
            problems: Vec::new(),
            is_over: false,
            is_target_broken: false,
        }
    }

    /// Copies what the target lacks of this state, and makes it durable. What was copied before an error stays.
    pub fn run(mut self, snapshot: &Snapshot, target: &Target) -> Result<Copied, BackupError> {
        let mark = self.to.mark();
        let done = self.copy(snapshot, target);
        // Each chunk is verified, so it is kept, whatever ended the copy: the next one need not copy it again.
        let synced = self.to.sync_packs(mark);
        done?;
        synced?;
        match self.problems.is_empty() {
            true => Ok(self.copied),
            false => Err(BackupError::Damaged {
                dir: self.to.root().display().to_string(),
                problems: self.problems,
            }),
        }
    }

    fn copy(&mut self, snapshot: &Snapshot, target: &Target) -> Result<(), BackupError> {
        self.heal()?;
        let searches = self.to.searches();
        for (id, order, file) in &snapshot.files {
            if target.has(*id, *order) {
                continue;
            }
            self.copied.deploys += 1;
            if self.to.searches() - searches > SEARCHES {
                self.to.fill_index();
            }
            let from = self.from;
            if let Err(error) = reach_tree(from, &file.root, self) {
                self.sort_out(error, |error| format!("deploy {id}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Copies anew what the target is known not to be able to read.
    fn heal(&mut self) -> Result<(), BackupError> {
        for suspect in self.to.suspects() {
            let chunks = self.copied.chunks;
            match self.need(&suspect.chunk) {
                Ok(()) => self.copied.healed += u64::from(self.copied.chunks > chunks),
                Err(error) => {
                    let chunk = suspect.chunk;
                    self.sort_out(error, |error| {
                        format!("chunk {chunk}, damaged in the backup too: {error}")
                    })?;
                }
            }
        }
        Ok(())
    }

    /// A cancelled copy and a target that fails end it; what is wrong with the source is collected.
    fn sort_out(
        &mut self,
        error: StoreError,
        what: impl FnOnce(StoreError) -> String,
    ) -> Result<(), BackupError> {
        if self.is_over {
            return Err(BackupError::Cancelled);
        }
        if self.is_target_broken {
            return Err(error.into());
        }
        let what = what(error);
        log::error!("{what}");
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
        Ok(())
    }

    /// Copies a chunk that the target does not have, and first what it leans on.
    fn need(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        let is_there = self.to.contains(id);
        if self.target(is_there)? {
            return Ok(());
        }
        let (mut record, raw) = self.from.packs.verified_record(id)?;
        if let Codec::ZstdWith(other) | Codec::ZstdLike(other) = record.header.codec {
            self.need(&other)?;
            let can_lean = self.to.packs.can_lean(&record.header.codec);
            if !self.target(can_lean)? {
                record = self.to.encode(*id, &raw, None);
            }
        }
        let grown = self.to.append(&record);
        let grown = self.target(grown)?;
        self.copied.bytes += grown;
        self.copied.chunks += u64::from(grown > 0);
        Ok(())
    }

    /// An answer of the target, whose failure is not the source's.
    fn target<T>(&mut self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        self.is_target_broken |= answer.is_err();
        answer
    }
}
