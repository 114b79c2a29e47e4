//! Mending deploy files: a flipped bit is set right; a lost file is made again from the history and the stored trees.

use std::collections::BTreeMap;

use super::Repair;
use crate::model::chunking::TREE;
use crate::model::content::tree_content_id;
use crate::model::deploy_file::DeployFile;
use crate::model::history::{Record, Verb};
use crate::model::mending::mend_bit;
use crate::model::{Blob, ContentId, DeployId, Node, Tree};
use crate::store::error::StoreError;
use crate::store::journal::read_whole;
use crate::store::{DEPLOYS, Store, read_deploy_file};

/// A seal whose deploy file is lost.
struct Lost {
    seal: Record,
    root_mtime: u64,
}

impl Repair {
    /// Mends every deploy file that needs it.
    pub(super) fn deploy_files(&mut self, store: &Store) -> Result<(), StoreError> {
        let ids: Vec<DeployId> =
            store.with_ledger(|ledger| ledger.deploys().keys().copied().collect());
        let mut lost = BTreeMap::new();
        for id in ids {
            if read_deploy_file(&*self.disk, id).is_ok() {
                continue;
            }
            let bytes = read_whole(&*self.disk, &path_of(id)).unwrap_or_default();
            let fits = |tried: &[u8]| DeployFile::decode(tried).is_ok_and(|file| file.id() == id);
            match mend_bit(&bytes, fits) {
                Some((at, mended)) => {
                    let file = DeployFile::decode(&mended).expect("it has just been decoded");
                    self.replace(store, &file, !bytes.is_empty())?;
                    self.mended(format!(
                        "'{}' at byte {at}: one bit was flipped",
                        path_of(id)
                    ));
                }
                None => {
                    if let Some((content, one)) = last_seal(store, id) {
                        lost.insert(content, (one, !bytes.is_empty()));
                    }
                }
            }
        }
        self.make_again(store, lost)
    }

    /// Looks for the root trees among all chunks.
    fn make_again(
        &mut self,
        store: &Store,
        mut lost: BTreeMap<ContentId, (Lost, bool)>,
    ) -> Result<(), StoreError> {
        if lost.is_empty() {
            return Ok(());
        }
        for (_, survey) in store.packs.surveys()? {
            for (id, place) in survey?.places {
                if place.raw_len as usize > TREE.whole {
                    continue;
                }
                let Ok(bytes) = store.read_chunk(&id) else {
                    continue;
                };
                let Ok(tree) = Tree::decode(&bytes) else {
                    continue;
                };
                let Some((one, is_there)) = lost.remove(&tree_content_id(&tree)) else {
                    continue;
                };
                let file = match made_again(store, &one, Blob::single(&bytes), &tree) {
                    Ok(file) => file,
                    // It stays damaged, and is among what is left.
                    Err(error) => {
                        log::warn!("a deploy file cannot be made again: {error}");
                        continue;
                    }
                };
                self.replace(store, &file, is_there)?;
                self.mended(format!(
                    "'{}': it is made again from the history and its tree",
                    path_of(file.id())
                ));
            }
        }
        Ok(())
    }

    fn replace(&self, store: &Store, file: &DeployFile, is_there: bool) -> Result<(), StoreError> {
        if is_there {
            self.set_aside(&path_of(file.id()))?;
        }
        store.write_deploy_file(file)
    }
}

fn path_of(id: DeployId) -> String {
    format!("{DEPLOYS}/{id}")
}

/// The content of a deploy, and the seal that gave it the mtimes it has.
fn last_seal(store: &Store, id: DeployId) -> Option<(ContentId, Lost)> {
    let content = store.with_ledger(|ledger| Some(ledger.deploys().get(&id)?.content))?;
    let mut found: Option<Lost> = None;
    let mut last_mtime = 0;
    let read = store.each_record(|record| {
        let is_seal = record.verb == Verb::Seal && record.deploy == Some(id);
        let root_mtime = record.last_mtime;
        if is_seal && (found.is_none() || root_mtime > last_mtime) {
            found = Some(Lost {
                seal: record,
                root_mtime,
            });
        }
        last_mtime = root_mtime;
    });
    if let Err(error) = read {
        log::warn!("{error}");
    }
    Some((content, found?))
}

fn made_again(
    store: &Store,
    lost: &Lost,
    root: Blob,
    tree: &Tree,
) -> Result<DeployFile, StoreError> {
    let mut file = DeployFile {
        content: tree_content_id(tree),
        root,
        root_mtime: lost.root_mtime,
        files: 0,
        directories: 0,
        symlinks: 0,
        bytes: 0,
        sealed_at: lost.seal.time,
        sealed_by: lost.seal.actor.clone(),
    };
    count(store, tree, &mut file)?;
    Ok(file)
}

fn count(store: &Store, tree: &Tree, file: &mut DeployFile) -> Result<(), StoreError> {
    file.directories += 1;
    for entry in tree.entries() {
        match &entry.node {
            Node::File(blob) => {
                file.files += 1;
                file.bytes += blob.len;
            }
            Node::Symlink(_) => file.symlinks += 1,
            Node::Dir { tree, .. } => count(store, &store.read_tree(tree)?, file)?,
        }
    }
    Ok(())
}
