//! What each deploy takes in the packs: all of it, what no other deploy has, and what its removal would free.

use std::collections::HashMap;
use std::rc::Rc;

use super::catalog::Catalog;
use super::reach::{Reach, reach_blob};
use super::{PackList, Store, StoreError};
use crate::model::{Blob, ChunkId, ContentId, Node};

/// So many records of shared trees are remembered, four bytes each. The trees of more are read for each deploy that has them.
const LISTED_MAX: usize = 16 << 20;

/// The disk space of deploys, counted one after the other. Each tree is read twice at most, however many deploys have it.
pub struct Usage<'a> {
    store: &'a Store,
    catalog: Catalog,
    /// Of each record of the catalog.
    records: Vec<Counted>,
    trees: HashMap<ContentId, CountedTree>,
    /// Records that [`CountedTree::listed`] names, over all trees.
    listed: usize,
    /// Of each deploy: bytes of all its records.
    stored: Vec<u64>,
}

/// The disk space of one deploy, in bytes of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// All its chunks.
    pub stored: u64,
    /// Those that no other deploy has.
    pub unique: u64,
    /// Those that no other deploy needs, and what only they lean on.
    pub freed: u64,
}

/// A record, and who needs it.
#[derive(Clone, Copy)]
struct Counted {
    /// The deploys that have its chunk.
    has: Owners,
    /// The deploys that need it, also because another chunk leans on it.
    needs: Owners,
    /// The last deploy that it was counted for.
    last: Option<u32>,
    /// The record that it leans on.
    base: Base,
}

#[derive(Clone, Copy)]
enum Base {
    /// Its header has not been read.
    Unread,
    None,
    Record(u32),
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

struct CountedTree {
    /// The last deploy that it was counted for.
    last: u32,
    /// `None` before it is counted for a second deploy: most trees are of one deploy.
    listed: Option<Rc<Listed>>,
}

/// A tree's records, by their numbers in the catalog, and the trees in it.
#[derive(Default)]
struct Listed {
    records: Vec<u32>,
    trees: Vec<Blob>,
}

/// Collects the records of one tree.
struct Listing<'a> {
    catalog: &'a Catalog,
    records: Vec<u32>,
}

impl Reach for Listing<'_> {
    fn enter(&mut self, _: &Blob) -> bool {
        false
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<(), StoreError> {
        // One that has come since the packs were listed is not counted.
        let at = self.catalog.copies(id).next();
        self.records.extend(at.map(|at| at as u32));
        Ok(())
    }
}

impl<'a> Usage<'a> {
    pub(super) fn new(store: &'a Store, packs: PackList) -> Result<Self, StoreError> {
        let catalog = store.catalog(packs)?;
        let uncounted = Counted {
            has: Owners::None,
            needs: Owners::None,
            last: None,
            base: Base::Unread,
        };
        Ok(Usage {
            store,
            records: vec![uncounted; catalog.len()],
            catalog,
            trees: HashMap::new(),
            listed: 0,
            stored: Vec::new(),
        })
    }

    /// Counts a deploy; its number, from 0.
    pub fn add(&mut self, root: &Blob) -> Result<u32, StoreError> {
        let deploy = self.stored.len() as u32;
        self.stored.push(0);
        let mut todo = vec![root.clone()];
        while let Some(tree) = todo.pop() {
            let Some(listed) = self.enter(&tree, deploy)? else {
                continue;
            };
            for &at in &listed.records {
                self.count(at as usize, deploy)?;
            }
            todo.extend_from_slice(&listed.trees);
        }
        Ok(deploy)
    }

    /// The records and trees of this tree; `None` if it is counted for the deploy already.
    fn enter(&mut self, tree: &Blob, deploy: u32) -> Result<Option<Rc<Listed>>, StoreError> {
        let known = self.trees.get_mut(&tree.id);
        if known.as_ref().is_some_and(|known| known.last == deploy) {
            return Ok(None);
        }
        let is_shared = known.is_some();
        if let Some(known) = known {
            known.last = deploy;
            if let Some(listed) = &known.listed {
                return Ok(Some(listed.clone()));
            }
        }
        let listed = Rc::new(self.list(tree)?);
        let kept = is_shared && self.listed + listed.records.len() <= LISTED_MAX;
        self.listed += if kept { listed.records.len() } else { 0 };
        let counted = CountedTree {
            last: deploy,
            listed: kept.then(|| listed.clone()),
        };
        self.trees.insert(tree.id, counted);
        Ok(Some(listed))
    }

    fn list(&self, tree: &Blob) -> Result<Listed, StoreError> {
        let mut listing = Listing {
            catalog: &self.catalog,
            records: Vec::new(),
        };
        let mut trees = Vec::new();
        reach_blob(self.store, tree, &mut listing)?;
        for entry in self.store.read_tree(tree)?.entries() {
            match &entry.node {
                Node::File(file) => reach_blob(self.store, file, &mut listing)?,
                Node::Symlink(_) => {}
                Node::Dir { tree, .. } => trees.push(tree.clone()),
            }
        }
        Ok(Listed {
            records: listing.records,
            trees,
        })
    }

    fn count(&mut self, at: usize, deploy: u32) -> Result<(), StoreError> {
        let record = &mut self.records[at];
        if record.last == Some(deploy) {
            return Ok(());
        }
        record.last = Some(deploy);
        record.has.add(deploy);
        self.stored[deploy as usize] += self.catalog.entry(at).len();
        let mut needed = Some(at);
        while let Some(at) = needed {
            self.records[at].needs.add(deploy);
            needed = self.base_of(at)?;
        }
        Ok(())
    }

    fn base_of(&mut self, at: usize) -> Result<Option<usize>, StoreError> {
        if let Base::Unread = self.records[at].base {
            let entry = self.catalog.entry(at);
            let packs = &self.store.packs;
            let header = packs.header_of(&entry.id, entry.pack, &entry.place)?;
            let other = header.dictionary();
            let other = other.and_then(|other| self.catalog.copies(&other).next());
            self.records[at].base = other.map_or(Base::None, |other| Base::Record(other as u32));
        }
        Ok(match self.records[at].base {
            Base::Record(other) => Some(other as usize),
            Base::Unread | Base::None => None,
        })
    }

    /// The disk space of all deploys that were counted, by their numbers.
    pub fn taken(&self) -> Vec<Taken> {
        let new = |&stored: &u64| Taken {
            stored,
            ..Taken::default()
        };
        let mut taken: Vec<Taken> = self.stored.iter().map(new).collect();
        for (at, record) in self.records.iter().enumerate() {
            let len = self.catalog.entry(at).len();
            if let Owners::One(deploy) = record.has {
                taken[deploy as usize].unique += len;
            }
            if let Owners::One(deploy) = record.needs {
                taken[deploy as usize].freed += len;
            }
        }
        taken
    }
}
