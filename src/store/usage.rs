//! What each deploy takes in the packs: all of it, what no other deploy has, and what its removal would free.

use std::collections::HashSet;

use super::catalog::Catalog;
use super::reach::{Reach, reach_tree};
use super::{PackList, Store, StoreError};
use crate::model::{Blob, ChunkId, ContentId};

/// What deploys take, counted one after the other.
pub struct Usage<'a> {
    store: &'a Store,
    catalog: Catalog,
    /// Of each record: which deploys have its chunk, and which need it, also because another chunk leans on it.
    has: Vec<Owners>,
    needs: Vec<Owners>,
    deploys: u32,
}

/// What one deploy takes, in bytes of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// All its chunks.
    pub stored: u64,
    /// Those that no other deploy has.
    pub unique: u64,
    /// Those that no other deploy needs, and what only they lean on.
    pub freed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    None,
    One(u32),
    Several,
}

impl Owners {
    fn add(&mut self, deploy: u32) {
        *self = match *self {
            Owners::None => Owners::One(deploy),
            Owners::One(other) if other == deploy => Owners::One(deploy),
            Owners::One(_) | Owners::Several => Owners::Several,
        };
    }
}

/// One deploy that is being looked at.
struct Walk<'a, 'b> {
    usage: &'b mut Usage<'a>,
    deploy: u32,
    trees: HashSet<ContentId>,
    seen: HashSet<usize>,
}

impl Reach for Walk<'_, '_> {
    fn enter(&mut self, tree: &Blob) -> bool {
        self.trees.insert(tree.id)
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        // One that has come since the packs were listed is not counted.
        if let Some(at) = self.usage.catalog.copies(id).next()
            && self.seen.insert(at)
        {
            self.usage.has[at].add(self.deploy);
            self.need(at)?;
        }
        Ok(())
    }
}

impl Walk<'_, '_> {
    fn need(&mut self, at: usize) -> Result<(), StoreError> {
        let usage = &mut *self.usage;
        usage.needs[at].add(self.deploy);
        let entry = usage.catalog.entry(at);
        let packs = &usage.store.packs;
        let header = packs.header_of(&entry.id, entry.pack, &entry.place)?;
        let other = header.dictionary();
        match other.and_then(|other| usage.catalog.copies(&other).next()) {
            Some(other) => self.need(other),
            None => Ok(()),
        }
    }
}

impl<'a> Usage<'a> {
    pub(super) fn new(store: &'a Store, packs: PackList) -> Result<Self, StoreError> {
        let catalog = store.catalog(packs)?;
        Ok(Usage {
            store,
            has: vec![Owners::None; catalog.len()],
            needs: vec![Owners::None; catalog.len()],
            catalog,
            deploys: 0,
        })
    }

    /// Counts a deploy; its number, from 0.
    pub fn add(&mut self, root: &Blob) -> Result<u32, StoreError> {
        let (store, deploy) = (self.store, self.deploys);
        self.deploys += 1;
        let mut walk = Walk {
            usage: self,
            deploy,
            trees: HashSet::new(),
            seen: HashSet::new(),
        };
        reach_tree(store, root, &mut walk)?;
        Ok(deploy)
    }

    /// What a deploy takes, once all are counted.
    pub fn taken(&mut self, deploy: u32, root: &Blob) -> Result<Taken, StoreError> {
        let store = self.store;
        let mut walk = Walk {
            usage: self,
            deploy,
            trees: HashSet::new(),
            seen: HashSet::new(),
        };
        reach_tree(store, root, &mut walk)?;
        let stored = std::mem::take(&mut walk.seen);
        let sum = |owners: &[Owners]| {
            let own = owners.iter().enumerate();
            let own = own.filter(|(_, owners)| **owners == Owners::One(deploy));
            own.map(|(at, _)| self.catalog.entry(at).len()).sum()
        };
        Ok(Taken {
            stored: stored.iter().map(|&at| self.catalog.entry(at).len()).sum(),
            unique: sum(&self.has),
            freed: sum(&self.needs),
        })
    }
}
