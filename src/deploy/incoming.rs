//! A deploy that is on its way in: its trees, checked, and which of the chunks that they name have come.

use std::collections::HashMap;

use super::portable::{Head, PortableError};
use crate::model::blob::decode_list;
use crate::model::chunking::FILE;
use crate::model::content::tree_content_id;
use crate::model::tree::DEPTH_MAX;
use crate::model::{Blob, ChunkId, ChunkRef, ContentId, Layout, Node, Tree};

/// The longest path that one system call can name.
const PATH_MAX: u64 = 4095;
/// Bytes of encoded trees that are kept in memory for each entry that is allowed, and at least.
const TREE_ENTRY: u64 = 400;
const TREES_MIN: u64 = 1 << 20;

/// What a deploy may hold at the most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Files, folders and symlinks.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Limits {
    /// Refuses trees that take more memory than so many entries should.
    pub fn check_trees(&self, bytes: u64) -> Result<(), PortableError> {
        if bytes > self.entries.saturating_mul(TREE_ENTRY).max(TREES_MIN) {
            return Err(self.too_many());
        }
        Ok(())
    }

    fn too_many(&self) -> PortableError {
        PortableError::TooLarge(format!(
            "it has more than {} files, folders and symlinks: --max-entries allows more",
            self.entries
        ))
    }
}

/// A tree that has come.
pub struct TreeIn {
    /// Its encoded length.
    len: u64,
    content: ContentId,
    tree: Tree,
}

impl TreeIn {
    /// Reads an encoded tree.
    pub fn decode(bytes: &[u8]) -> Result<Self, PortableError> {
        let tree = Tree::decode(bytes)
            .map_err(|error| PortableError::wrong(format!("a folder cannot be read: {error}")))?;
        Ok(TreeIn {
            len: bytes.len() as u64,
            content: tree_content_id(&tree),
            tree,
        })
    }
}

/// Trees by the BLAKE3 of their encoding.
pub type Trees = HashMap<ContentId, TreeIn>;

/// The deploy.
pub struct Incoming {
    trees: Trees,
    root: ContentId,
    needed: HashMap<ChunkId, Need>,
    /// Files of several chunks.
    large: Vec<Blob>,
    taken: u64,
    bytes_taken: u64,
    bytes_total: u64,
}

/// A chunk that some file needs.
struct Need {
    /// Its length; none: it is a list, of any length.
    len: Option<u32>,
    /// The lengths of the files whose list it is.
    list_of: Vec<u64>,
    came: bool,
}

/// What is below a tree.
#[derive(Clone, Copy, Default)]
struct Extent {
    entries: u64,
    bytes: u64,
    longest_path: u64,
    /// How many folders lie within each other.
    height: usize,
}

impl Incoming {
    /// Checks that the trees are one whole site under the head's content id, and within the limits.
    pub fn new(trees: Trees, head: &Head, limits: Limits) -> Result<Self, PortableError> {
        let Some(root) = trees.get(&head.root) else {
            return Err(PortableError::wrong("its root folder is not in it"));
        };
        if root.content != head.content {
            return Err(PortableError::wrong(
                "its root folder has another content id",
            ));
        }
        let mut survey = Survey {
            trees: &trees,
            limits,
            extents: HashMap::new(),
        };
        survey.tree(&head.root, 0)?;
        if survey.extents.len() != trees.len() {
            return Err(PortableError::wrong(
                "it has folders that are not part of its site",
            ));
        }
        let mut site = Incoming {
            root: head.root,
            needed: HashMap::new(),
            large: Vec::new(),
            taken: 0,
            bytes_taken: 0,
            bytes_total: 0,
            trees: HashMap::new(),
        };
        for known in trees.values() {
            for entry in known.tree.entries() {
                if let Node::File(blob) = &entry.node {
                    site.need_file(blob)?;
                }
            }
        }
        site.trees = trees;
        Ok(site)
    }

    fn need_file(&mut self, blob: &Blob) -> Result<(), PortableError> {
        match &blob.layout {
            Layout::Single if blob.len == 0 && blob.id == ContentId::of(b"") => Ok(()),
            Layout::Single if blob.len == 0 || blob.len > FILE.max as u64 => Err(
                PortableError::wrong(format!("file {} has an impossible length", blob.id)),
            ),
            Layout::Single => self.need(ChunkId(blob.id.0), Some(blob.len as u32)),
            Layout::List(chunks) => {
                self.large.push(blob.clone());
                self.need_all(chunks)
            }
            Layout::ListAt(list) => {
                self.large.push(blob.clone());
                self.need(*list, None)?;
                let need = self.needed.get_mut(list).expect("just put there");
                if !need.list_of.contains(&blob.len) {
                    need.list_of.push(blob.len);
                }
                Ok(())
            }
        }
    }

    fn need_all(&mut self, chunks: &[ChunkRef]) -> Result<(), PortableError> {
        let Some((last, all)) = chunks.split_last() else {
            return Ok(());
        };
        // As files are cut: bounds how many chunks so many bytes can have.
        let fits = |chunk: &ChunkRef| (FILE.min..=FILE.max).contains(&(chunk.len as usize));
        if !all.iter().all(fits) || last.len as usize > FILE.max {
            return Err(PortableError::wrong("a file is cut in an impossible way"));
        }
        chunks
            .iter()
            .try_for_each(|chunk| self.need(chunk.id, Some(chunk.len)))
    }

    fn need(&mut self, id: ChunkId, len: Option<u32>) -> Result<(), PortableError> {
        let need = self.needed.entry(id).or_insert_with(|| {
            self.bytes_total += u64::from(len.unwrap_or(0));
            Need {
                len,
                list_of: Vec::new(),
                came: false,
            }
        });
        if need.len == len {
            Ok(())
        } else {
            Err(PortableError::wrong(format!("chunk {id} has two lengths")))
        }
    }

    /// Takes a chunk whose bytes hash to its id.
    pub fn take(&mut self, id: &ChunkId, raw: &[u8]) -> Result<(), PortableError> {
        let Some(need) = self.needed.get_mut(id) else {
            return Err(PortableError::wrong(format!(
                "no file in it has a chunk {id}"
            )));
        };
        if std::mem::replace(&mut need.came, true) {
            return Err(PortableError::wrong(format!("chunk {id} comes twice")));
        }
        if need.len.is_some_and(|len| len as usize != raw.len()) {
            return Err(PortableError::wrong(format!(
                "chunk {id} has another length than its file says"
            )));
        }
        self.taken += 1;
        self.bytes_taken += need.len.map_or(0, u64::from);
        for len in std::mem::take(&mut need.list_of) {
            let chunks = decode_list(raw, len)
                .map_err(|error| PortableError::wrong(format!("chunk list {id}: {error}")))?;
            self.need_all(&chunks)?;
        }
        Ok(())
    }

    /// Fails where a chunk has not come.
    pub fn is_complete(&self) -> Result<(), PortableError> {
        match self.needed.iter().find(|(_, need)| !need.came) {
            Some((id, _)) => Err(PortableError::wrong(format!("chunk {id} is not in it"))),
            None => Ok(()),
        }
    }

    /// The root directory.
    pub fn root(&self) -> &Tree {
        &self.trees[&self.root].tree
    }

    /// A directory that another one names.
    pub fn tree(&self, blob: &Blob) -> &Tree {
        &self.trees[&blob.id].tree
    }

    /// Files whose bytes have to be hashed as a whole.
    pub fn large_files(&self) -> &[Blob] {
        &self.large
    }

    /// The latest mtime in it that is kept, if any is.
    pub fn newest_mtime(&self, root: u64, keeps: &impl Fn(u64) -> bool) -> Option<u64> {
        let entries = self.trees.values().flat_map(|known| known.tree.entries());
        let mtimes = entries.map(|entry| entry.mtime).chain([root]);
        mtimes.filter(|&mtime| keeps(mtime)).max()
    }

    /// Chunks that have come.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of files that have come.
    pub fn bytes_taken(&self) -> u64 {
        self.bytes_taken
    }

    /// Bytes of files that are to come or have, as far as is known.
    pub fn bytes_total(&self) -> u64 {
        self.bytes_total
    }
}

/// Walks trees that name each other; each is looked at once, however often it is named.
struct Survey<'a> {
    trees: &'a Trees,
    limits: Limits,
    extents: HashMap<ContentId, Extent>,
}

impl Survey<'_> {
    fn tree(&mut self, id: &ContentId, depth: usize) -> Result<Extent, PortableError> {
        if let Some(extent) = self.extents.get(id) {
            return Ok(*extent);
        }
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        let mut all = Extent::default();
        for entry in self.trees[id].tree.entries() {
            let below = match &entry.node {
                Node::File(blob) => Extent {
                    bytes: blob.len,
                    ..Extent::default()
                },
                Node::Symlink(_) => Extent::default(),
                Node::Dir { content, tree } => {
                    let known = self.trees.get(&tree.id);
                    if known.is_none_or(|known| known.len != tree.len || known.content != *content)
                    {
                        return Err(PortableError::wrong(format!(
                            "folder '{}' is not in it, or has another content id",
                            entry.name
                        )));
                    }
                    self.tree(&tree.id, depth + 1)?
                }
            };
            all.entries = all.entries.saturating_add(below.entries).saturating_add(1);
            all.bytes = all.bytes.saturating_add(below.bytes);
            let path = entry.name.as_bytes().len() as u64 + below.longest_path;
            if matches!(entry.node, Node::Dir { .. }) {
                all.height = all.height.max(below.height + 1);
            }
            let slash = u64::from(below.longest_path > 0);
            all.longest_path = all.longest_path.max(path + slash);
        }
        if all.height > DEPTH_MAX {
            return Err(too_deep());
        }
        if all.longest_path > PATH_MAX {
            return Err(path_too_long());
        }
        if all.entries > self.limits.entries {
            return Err(self.limits.too_many());
        }
        if all.bytes > self.limits.bytes {
            return Err(PortableError::TooLarge(format!(
                "its files have more than {} bytes: --max-bytes allows more",
                self.limits.bytes
            )));
        }
        self.extents.insert(*id, all);
        Ok(all)
    }
}

fn too_deep() -> PortableError {
    PortableError::wrong(format!(
        "more than {DEPTH_MAX} folders in it lie within each other"
    ))
}

fn path_too_long() -> PortableError {
    PortableError::wrong("a path in it is longer than the 4095 bytes that a program can open")
}
