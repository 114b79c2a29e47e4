//! A folder that was read: what it has, and what its files hold, in few bytes for each.

use std::collections::HashMap;
use std::sync::Arc;

use super::mounted::Content;
use super::scan::Scan;
use crate::model::{Blob, ContentId, Layout, Node, SealedTree};

/// A folder that was read.
#[derive(Debug)]
pub struct ReadFolder {
    /// Its names and stamps.
    pub scan: Scan,
    /// What its files hold.
    pub blobs: Blobs,
}

impl ReadFolder {
    /// What a file holds.
    pub fn blob(&self, file: usize) -> Blob {
        self.blobs.get(file, self.scan.size(file))
    }
}

/// What the files of a scan hold, by their numbers.
#[derive(Debug, Default)]
pub struct Blobs {
    ids: Vec<ContentId>,
    /// Of the files that are not one chunk.
    layouts: HashMap<usize, Layout>,
}

impl Blobs {
    /// Those of so many files, none of them known.
    pub fn new(files: usize) -> Self {
        Blobs {
            ids: vec![ContentId([0; 32]); files],
            layouts: HashMap::new(),
        }
    }

    /// Sets what a file holds.
    pub fn set(&mut self, file: usize, blob: Blob) {
        self.ids[file] = blob.id;
        if blob.layout != Layout::Single {
            self.layouts.insert(file, blob.layout);
        }
    }

    /// What a file of so many bytes holds.
    pub fn get(&self, file: usize, len: u64) -> Blob {
        let layout = self.layouts.get(&file).cloned();
        Blob {
            id: self.ids[file],
            len,
            layout: layout.unwrap_or(Layout::Single),
        }
    }
}

/// The directories of the base deploy that stand in the place of a scan's. What cannot be read there is passed over: what it says
/// only helps to compress.
pub struct BaseDirs<'a> {
    content: &'a dyn Content,
    scan: &'a Scan,
    /// The base deploy's tree for each directory of the scan.
    trees: Vec<Option<Blob>>,
}

/// The directory that was looked into last.
#[derive(Default)]
pub struct LastDir(Option<(usize, Option<Arc<SealedTree>>)>);

impl<'a> BaseDirs<'a> {
    /// Those of the base deploy with this root; none if there is no base.
    pub fn new(content: &'a dyn Content, scan: &'a Scan, base: Option<&Blob>) -> Self {
        let mut dirs = BaseDirs {
            content,
            scan,
            trees: Vec::new(),
        };
        if let Some(base) = base {
            let mut last = LastDir::default();
            dirs.trees.push(Some(base.clone()));
            for dir in 1..scan.dirs() {
                let place = scan.place_of(dir);
                let old = place.and_then(|(parent, name)| dirs.find(parent, name, &mut last));
                dirs.trees.push(match old {
                    Some(Node::Dir { tree, .. }) => Some(tree),
                    Some(Node::File(_) | Node::Symlink(_)) | None => None,
                });
            }
        }
        dirs
    }

    /// What the base deploy has at a file's path.
    pub fn file(&self, file: usize, last: &mut LastDir) -> Option<Blob> {
        match self.find(self.scan.dir_of(file), self.scan.name_of(file), last)? {
            Node::File(blob) => Some(blob),
            Node::Symlink(_) | Node::Dir { .. } => None,
        }
    }

    fn find(&self, dir: usize, name: &[u8], last: &mut LastDir) -> Option<Node> {
        if last.0.as_ref().is_none_or(|(known, _)| *known != dir) {
            let blob = self.trees.get(dir)?.as_ref();
            let tree = blob.and_then(|blob| self.content.sealed_tree(blob).ok());
            last.0 = Some((dir, tree));
        }
        let (_, tree) = last.0.as_ref()?;
        Some(tree.as_ref()?.get(name)?.node)
    }
}
