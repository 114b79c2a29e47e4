//! A deploy in the making: the scanned folder, laid over an existing deploy where one is given, checked and turned into trees.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::cores::on_all_cores;
use super::error::DeployError;
use super::ingest::{Before, put_bytes};
use super::mounted::Content;
use super::scan::{Problems, ScanDir, ScanEntry};
use super::sink::Sink;
use crate::model::chunking::TREE;
use crate::model::content::tree_content_id;
use crate::model::diff::{count, diff};
use crate::model::mtime::entry_mtime;
use crate::model::report::ChangeCounts;
use crate::model::tree::{MODE_MASK, SYMLINK_MODE};
use crate::model::{Blob, ChunkId, ContentId, DeployId, Entry, Name, Node, Tree};

/// Fewer trees than these are not worth a thread.
const TREES_MIN: usize = 16;
/// As many symlinks in a row as Linux follows.
const LINKS_MAX: usize = 40;

/// One directory of a deploy in the making.
pub struct DraftDir {
    mode: u16,
    /// The mtime that it keeps, if it does.
    mtime: Option<u64>,
    entries: BTreeMap<Name, Draft>,
}

/// A symlink: its directory, its name and its target.
type Link = (Vec<Name>, Name, Box<[u8]>);

enum Draft {
    File {
        mode: u16,
        blob: Blob,
    },
    Symlink {
        target: Box<[u8]>,
        fresh: bool,
    },
    Dir(DraftDir),
    /// From the deploy below, as it is.
    Kept(Entry),
}

/// A finished deploy that nothing points to yet.
pub struct Built {
    /// The content id of its root.
    pub content: ContentId,
    /// The encoded root tree and all below that is new, children first.
    pending: Vec<Pending>,
    /// What is in it.
    pub counts: TreeCounts,
}

/// An encoded tree, and the stored one that the base deploy has in its place.
struct Pending {
    bytes: Vec<u8>,
    before: Option<Blob>,
}

/// What a deploy holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeCounts {
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Logical size of all files.
    pub bytes: u64,
}

impl DraftDir {
    /// The scanned folder as it is; `blobs` as [`super::ingest::read_files`] gave them, all there.
    pub fn from_scan(scan: ScanDir, blobs: &mut [Option<Blob>], modes: &[u16]) -> Self {
        let entries = scan
            .entries
            .into_iter()
            .map(|(name, entry)| {
                let draft = match entry {
                    ScanEntry::File(number) => Draft::File {
                        mode: modes[number] & MODE_MASK,
                        blob: blobs[number].take().expect("every file was read once"),
                    },
                    ScanEntry::Symlink(target) => Draft::Symlink {
                        target,
                        fresh: true,
                    },
                    ScanEntry::Dir(dir) => Draft::Dir(Self::from_scan(dir, blobs, modes)),
                };
                (name, draft)
            })
            .collect();
        DraftDir {
            mode: scan.mode & MODE_MASK,
            mtime: None,
            entries,
        }
    }

    /// A tree of another store, with all below it; of its mtimes only those that `keeps` says.
    pub fn from_tree<'a>(
        tree: &Tree,
        subtree: &impl Fn(&Blob) -> &'a Tree,
        keeps: &impl Fn(u64) -> bool,
    ) -> Self {
        let draft = |entry: &Entry| match &entry.node {
            Node::Dir { tree, .. } => Draft::Dir(DraftDir {
                mode: entry.mode,
                mtime: keeps(entry.mtime).then_some(entry.mtime),
                ..Self::from_tree(subtree(tree), subtree, keeps)
            }),
            Node::File(_) if keeps(entry.mtime) => Draft::Kept(entry.clone()),
            Node::File(blob) => Draft::File {
                mode: entry.mode,
                blob: blob.clone(),
            },
            Node::Symlink(target) => Draft::Symlink {
                target: target.clone(),
                fresh: true,
            },
        };
        let entries = tree.entries().iter();
        DraftDir {
            mode: MODE_MASK,
            mtime: None,
            entries: entries
                .map(|entry| (entry.name.clone(), draft(entry)))
                .collect(),
        }
    }

    /// Puts what `below` has and this does not under it; directories in both are merged.
    pub fn lay_over(&mut self, below: &Tree, content: &dyn Content) -> Result<(), DeployError> {
        for entry in below.entries() {
            match (self.entries.get_mut(&entry.name), &entry.node) {
                (None, _) => {
                    self.entries
                        .insert(entry.name.clone(), Draft::Kept(entry.clone()));
                }
                (Some(Draft::Dir(dir)), Node::Dir { tree, .. }) => {
                    dir.lay_over(&*content.tree(tree)?, content)?;
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    /// Leaves a path out; false: there is no such path.
    pub fn delete(&mut self, path: &Path, content: &dyn Content) -> Result<bool, DeployError> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name.as_bytes()),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => return Ok(false),
            }
        }
        let Some((last, parents)) = names.split_last() else {
            return Ok(false);
        };
        let mut dir = self;
        for name in parents {
            let Ok(name) = Name::new(name) else {
                return Ok(false);
            };
            match dir.entries.get_mut(&name) {
                Some(draft) => match draft.open(content)? {
                    Some(inner) => dir = inner,
                    None => return Ok(false),
                },
                None => return Ok(false),
            }
        }
        let Ok(last) = Name::new(last) else {
            return Ok(false);
        };
        Ok(dir.entries.remove(&last).is_some())
    }

    /// True where nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds every new symlink that is absolute or leads out of the deploy.
    pub fn check_links(
        &mut self,
        content: &dyn Content,
        problems: &mut Problems,
    ) -> Result<(), DeployError> {
        let mut links = Vec::new();
        self.collect_links(&mut Vec::new(), &mut links);
        for (dir, name, target) in links {
            let mut path: PathBuf = dir
                .iter()
                .map(|name| OsStr::from_bytes(name.as_bytes()))
                .collect();
            path.push(OsStr::from_bytes(name.as_bytes()));
            let shown = String::from_utf8_lossy(&target).into_owned();
            if target.starts_with(b"/") {
                problems.add(&path, format!("it is a symlink to the absolute path '{shown}': make it relative, or seal with --allow-external-symlinks"));
            } else if self.leads_out(dir, &target, content)? {
                problems.add(&path, format!("it is a symlink that leads out of the deploy ('{shown}'): make it stay inside, or seal with --allow-external-symlinks"));
            }
        }
        Ok(())
    }

    fn collect_links(&self, at: &mut Vec<Name>, links: &mut Vec<Link>) {
        for (name, draft) in &self.entries {
            match draft {
                Draft::Symlink {
                    target,
                    fresh: true,
                } => links.push((at.clone(), name.clone(), target.clone())),
                Draft::Dir(dir) => {
                    at.push(name.clone());
                    dir.collect_links(at, links);
                    at.pop();
                }
                Draft::Symlink { fresh: false, .. } | Draft::File { .. } | Draft::Kept(_) => {}
            }
        }
    }

    /// Follows the target as the kernel would, from the directory `at`, through other symlinks of the deploy.
    fn leads_out(
        &mut self,
        mut at: Vec<Name>,
        target: &[u8],
        content: &dyn Content,
    ) -> Result<bool, DeployError> {
        let mut todo: Vec<Vec<u8>> = elements(target);
        let mut followed = 0;
        while let Some(element) = todo.pop() {
            match element.as_slice() {
                b"" | b"." => {}
                b".." => {
                    if at.pop().is_none() {
                        return Ok(true);
                    }
                }
                name => {
                    let Ok(name) = Name::new(name) else {
                        return Ok(false);
                    };
                    match self.link_at(&at, &name, content)? {
                        Some(next) if next.starts_with(b"/") => return Ok(true),
                        Some(next) => {
                            followed += 1;
                            if followed > LINKS_MAX {
                                return Ok(false);
                            }
                            todo.extend(elements(&next));
                        }
                        None => at.push(name),
                    }
                }
            }
        }
        Ok(false)
    }

    fn link_at(
        &mut self,
        at: &[Name],
        name: &Name,
        content: &dyn Content,
    ) -> Result<Option<Box<[u8]>>, DeployError> {
        let mut dir = self;
        for step in at {
            match dir.entries.get_mut(step) {
                Some(draft) => match draft.open(content)? {
                    Some(inner) => dir = inner,
                    None => return Ok(None),
                },
                None => return Ok(None),
            }
        }
        Ok(match dir.entries.get(name) {
            Some(Draft::Symlink { target, .. }) => Some(target.clone()),
            Some(Draft::Kept(Entry {
                node: Node::Symlink(target),
                ..
            })) => Some(target.clone()),
            Some(Draft::File { .. } | Draft::Dir(_) | Draft::Kept(_)) | None => None,
        })
    }

    /// Makes the trees. `base` is the root of the deploy whose mtimes are inherited, `second` the seal's own.
    pub fn build(
        self,
        base: Option<&Blob>,
        second: u64,
        content: &dyn Content,
    ) -> Result<Built, DeployError> {
        let mut builder = Builder {
            content,
            second,
            pending: Vec::new(),
            counts: TreeCounts::default(),
        };
        let below = builder.base_tree(base);
        let (tree, id) = builder.dir(self, below.as_deref())?;
        builder.pending.push(Pending {
            bytes: tree.encode(),
            before: base.cloned(),
        });
        Ok(Built {
            content: id,
            pending: builder.pending,
            counts: builder.counts,
        })
    }
}

impl Draft {
    /// The directory, opened for changes; none: it is no directory.
    fn open(&mut self, content: &dyn Content) -> Result<Option<&mut DraftDir>, DeployError> {
        if let Draft::Kept(Entry {
            node: Node::Dir { tree, .. },
            mode,
            ..
        }) = self
        {
            let mut dir = DraftDir {
                mode: *mode,
                mtime: None,
                entries: BTreeMap::new(),
            };
            dir.lay_over(&*content.tree(tree)?, content)?;
            *self = Draft::Dir(dir);
        }
        Ok(match self {
            Draft::Dir(dir) => Some(dir),
            Draft::File { .. } | Draft::Symlink { .. } | Draft::Kept(_) => None,
        })
    }
}

impl Built {
    /// How much it differs from the deploy `against`, whose root is `base`. A tree that cannot be read there is passed over:
    /// then all is new.
    pub fn changes(
        &self,
        against: Option<DeployId>,
        base: Option<&Blob>,
        content: &dyn Content,
    ) -> ChangeCounts {
        let own: HashMap<ContentId, &[u8]> = self
            .pending
            .iter()
            .map(|tree| (ContentId::of(&tree.bytes), tree.bytes.as_slice()))
            .collect();
        let mut fetch = |blob: &Blob| match own.get(&blob.id).map(|bytes| Tree::decode(bytes)) {
            Some(Ok(tree)) => Ok(Arc::new(tree)),
            Some(Err(_)) | None => content.tree(blob),
        };
        let root = self
            .pending
            .last()
            .and_then(|root| Tree::decode(&root.bytes).ok());
        let root = Arc::new(root.unwrap_or_default());
        let from_base =
            base.and_then(|base| diff(&content.tree(base).ok()?, &root, &mut fetch).ok());
        let (against, found) = match from_base {
            Some(found) => (against, Ok(found)),
            None => (None, diff(&Arc::default(), &root, &mut fetch)),
        };
        count(against, &found.unwrap_or_default())
    }

    /// Stores the new trees; returns the root's.
    pub fn store(&self, sink: &dyn Sink, content: &dyn Content) -> Result<Blob, DeployError> {
        let store = |tree: &Pending| {
            let before = Before::of(tree.before.as_ref(), content);
            put_bytes(sink, &tree.bytes, TREE, &before)
        };
        let stored: Result<Vec<Blob>, _> = on_all_cores(&self.pending, TREES_MIN, store)
            .into_iter()
            .collect();
        Ok(stored?.pop().expect("a deploy has a root tree"))
    }
}

struct Builder<'a> {
    content: &'a dyn Content,
    second: u64,
    pending: Vec<Pending>,
    counts: TreeCounts,
}

impl Builder<'_> {
    /// A damaged tree passes nothing on, so that its content can be sealed again.
    fn base_tree(&self, stored: Option<&Blob>) -> Option<Arc<Tree>> {
        self.content
            .tree(stored?)
            .inspect_err(|error| log::warn!("nothing is inherited: {error}"))
            .ok()
    }

    fn dir(
        &mut self,
        dir: DraftDir,
        base: Option<&Tree>,
    ) -> Result<(Tree, ContentId), DeployError> {
        self.counts.directories += 1;
        let mut entries = Vec::with_capacity(dir.entries.len());
        for (name, draft) in dir.entries {
            entries.push(self.entry(name, draft, base)?);
        }
        let tree = Tree::new(entries);
        let id = tree_content_id(&tree);
        Ok((tree, id))
    }

    fn entry(
        &mut self,
        name: Name,
        draft: Draft,
        base: Option<&Tree>,
    ) -> Result<Entry, DeployError> {
        let (mode, node) = match draft {
            Draft::File { mode, blob } => {
                self.counts.files += 1;
                self.counts.bytes += blob.len;
                (mode, Node::File(blob))
            }
            Draft::Symlink { target, .. } => {
                self.counts.symlinks += 1;
                (SYMLINK_MODE, Node::Symlink(target))
            }
            Draft::Dir(dir) => return self.subdir(name, dir, base),
            Draft::Kept(entry) => return self.kept(entry, base),
        };
        let mtime = entry_mtime(base, name.as_bytes(), mode, &node, self.second);
        Ok(Entry {
            name,
            mode,
            mtime,
            node,
        })
    }

    fn subdir(
        &mut self,
        name: Name,
        dir: DraftDir,
        base: Option<&Tree>,
    ) -> Result<Entry, DeployError> {
        let old = base.and_then(|tree| tree.get(name.as_bytes()));
        let before = match old.map(|entry| &entry.node) {
            Some(Node::Dir { tree, .. }) => Some(tree),
            Some(Node::File(_) | Node::Symlink(_)) | None => None,
        };
        let below = self.base_tree(before);
        let mode = dir.mode;
        let second = dir.mtime.unwrap_or(self.second);
        let (tree, content) = self.dir(dir, below.as_deref())?;
        let bytes = tree.encode();
        let stored = blob_of(&bytes);
        let node = Node::Dir {
            content,
            tree: stored,
        };
        let mtime = entry_mtime(base, name.as_bytes(), mode, &node, second);
        self.pending.push(Pending {
            bytes,
            before: before.cloned(),
        });
        Ok(Entry {
            name,
            mode,
            mtime,
            node,
        })
    }

    /// What the base deploy has with the same content stands there with its mtimes, for all below too.
    fn kept(&mut self, entry: Entry, base: Option<&Tree>) -> Result<Entry, DeployError> {
        self.count_kept(&entry.node)?;
        let old = base.and_then(|tree| tree.get(entry.name.as_bytes()));
        Ok(match old {
            Some(old) if old.mode == entry.mode && old.node.same_content(&entry.node) => {
                old.clone()
            }
            Some(_) | None => entry,
        })
    }

    fn count_kept(&mut self, node: &Node) -> Result<(), DeployError> {
        match node {
            Node::File(blob) => {
                self.counts.files += 1;
                self.counts.bytes += blob.len;
            }
            Node::Symlink(_) => self.counts.symlinks += 1,
            Node::Dir { tree, .. } => {
                self.counts.directories += 1;
                for entry in self.content.tree(tree)?.entries() {
                    self.count_kept(&entry.node)?;
                }
            }
        }
        Ok(())
    }
}

/// The blob that storing these bytes will give.
fn blob_of(bytes: &[u8]) -> Blob {
    struct Nowhere;
    impl Sink for Nowhere {
        fn put(
            &self,
            _: ChunkId,
            _: &[u8],
            _: Option<&ChunkId>,
        ) -> Result<(), crate::store::StoreError> {
            Ok(())
        }
        fn contains(&self, _: &ChunkId) -> Result<bool, crate::store::StoreError> {
            Ok(false)
        }
        fn is_trusted(&self) -> bool {
            false
        }
        fn counts(&self) -> super::sink::Counts {
            super::sink::Counts::default()
        }
    }
    put_bytes(&Nowhere, bytes, TREE, &Before::default())
        .expect("a sink that takes nothing does not fail")
}

/// The elements of a path, last first.
fn elements(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}
