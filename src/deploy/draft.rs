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
use super::read_folder::ReadFolder;
use super::scan::{Item, Problems};
use super::sink::Sink;
use crate::model::chunking::TREE;
use crate::model::diff::{count_one, diff_each};
use crate::model::mtime::entry_mtime;
use crate::model::report::ChangeCounts;
use crate::model::sealed_tree::TreeWriter;
use crate::model::tree::{MODE_MASK, SYMLINK_MODE};
use crate::model::{Blob, ChunkId, ContentId, DeployId, Entry, Name, Node, SealedTree, Tree};

/// Fewer trees than these are not worth a thread.
const TREES_MIN: usize = 16;
/// As many symlinks in a row as Linux follows.
const LINKS_MAX: usize = 40;

/// One directory of a deploy in the making.
pub struct DraftDir {
    mode: u16,
    /// The mtime that it keeps, if it does.
    mtime: Option<u64>,
    entries: Entries,
}

/// What is in a directory.
enum Entries {
    /// What was read of a folder, all of it: the number of the directory in its scan.
    Read(Arc<ReadFolder>, usize),
    /// Each by itself.
    Open(BTreeMap<Name, Draft>),
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

/// A tree, and the stored one that the base deploy has in its place.
struct Pending {
    tree: Arc<SealedTree>,
    id: ContentId,
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
    /// Calls `take` for each file and folder that is new here, with its path, its mode, and whether it is a folder.
    pub fn each(&self, take: &mut dyn FnMut(&Path, u16, bool)) {
        self.each_below(&mut PathBuf::new(), take);
    }

    fn each_below(&self, path: &mut PathBuf, take: &mut dyn FnMut(&Path, u16, bool)) {
        match &self.entries {
            Entries::Read(read, dir) => each_read(read, *dir, path, take),
            Entries::Open(entries) => {
                for (name, draft) in entries {
                    path.push(OsStr::from_bytes(name.as_bytes()));
                    match draft {
                        Draft::File { mode, .. } => take(path, *mode, false),
                        Draft::Dir(dir) => {
                            take(path, dir.mode, true);
                            dir.each_below(path, take);
                        }
                        Draft::Symlink { .. } | Draft::Kept(_) => {}
                    }
                    path.pop();
                }
            }
        }
    }

    /// The folder as it was read.
    pub fn from_folder(read: Arc<ReadFolder>) -> Self {
        Self::from_dir(&read, 0)
    }

    fn from_dir(read: &Arc<ReadFolder>, dir: usize) -> Self {
        let stamp = read.scan.dir_stamp(dir);
        DraftDir {
            mode: stamp.map_or(0, |stamp| stamp.permissions()) & MODE_MASK,
            mtime: None,
            entries: Entries::Read(read.clone(), dir),
        }
    }

    /// What is in it, each by itself.
    fn open(&mut self) -> &mut BTreeMap<Name, Draft> {
        if let Entries::Read(read, dir) = &self.entries {
            let entry = |(name, item)| Some((Name::new(name).ok()?, Draft::of(read, item)));
            let entries = read.scan.entries(*dir).filter_map(entry).collect();
            self.entries = Entries::Open(entries);
        }
        match &mut self.entries {
            Entries::Open(entries) => entries,
            Entries::Read(..) => unreachable!("it has just been opened"),
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
            entries: Entries::Open(
                entries
                    .map(|entry| (entry.name.clone(), draft(entry)))
                    .collect(),
            ),
        }
    }

    /// Puts what `below` has and this does not under it; directories in both are merged.
    pub fn lay_over(&mut self, below: &Tree, content: &dyn Content) -> Result<(), DeployError> {
        let entries = self.open();
        for entry in below.entries() {
            match (entries.get_mut(&entry.name), &entry.node) {
                (None, _) => {
                    entries.insert(entry.name.clone(), Draft::Kept(entry.clone()));
                }
                (Some(Draft::Dir(dir)), Node::Dir { tree, .. }) => {
                    dir.lay_over(&*content.tree(tree)?, content)?;
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    /// Puts another draft under this one, as [`Self::lay_over`] does a tree.
    pub fn lay_over_draft(
        &mut self,
        below: DraftDir,
        content: &dyn Content,
    ) -> Result<(), DeployError> {
        let Entries::Open(below) = below.entries else {
            unreachable!("a deploy is not read from a folder");
        };
        let entries = self.open();
        for (name, draft) in below {
            match (entries.get_mut(&name), draft) {
                (None, draft) => {
                    entries.insert(name, draft);
                }
                (Some(Draft::Dir(dir)), Draft::Dir(below)) => dir.lay_over_draft(below, content)?,
                (Some(Draft::Dir(dir)), Draft::Kept(entry)) => {
                    if let Node::Dir { tree, .. } = &entry.node {
                        dir.lay_over(&*content.tree(tree)?, content)?;
                    }
                }
                (Some(_), _) => {}
            }
        }
        Ok(())
    }

    /// A directory without entries.
    pub fn empty() -> Self {
        DraftDir {
            mode: MODE_MASK,
            mtime: None,
            entries: Entries::Open(BTreeMap::new()),
        }
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
            match dir.open().get_mut(&name) {
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
        Ok(dir.open().remove(&last).is_some())
    }

    /// True where nothing is in it.
    pub fn is_empty(&self) -> bool {
        match &self.entries {
            Entries::Read(read, dir) => read.scan.len(*dir) == 0,
            Entries::Open(entries) => entries.is_empty(),
        }
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
        let entries = match &self.entries {
            Entries::Read(read, dir) => return read.collect_links(*dir, at, links),
            Entries::Open(entries) => entries,
        };
        for (name, draft) in entries {
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
        let mut steps = at.iter();
        let entries = loop {
            let entries = match &mut dir.entries {
                Entries::Read(read, dir) => {
                    return Ok(read.link_at(*dir, steps.as_slice(), name));
                }
                Entries::Open(entries) => entries,
            };
            let Some(step) = steps.next() else {
                break entries;
            };
            match entries.get_mut(step) {
                Some(draft) => match draft.open(content)? {
                    Some(inner) => dir = inner,
                    None => return Ok(None),
                },
                None => return Ok(None),
            }
        };
        Ok(match entries.get(name) {
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
        let (tree, content_id) = builder.dir(self, below.as_deref())?;
        builder.pending.push(Pending {
            id: ContentId::of(tree.bytes()),
            tree: Arc::new(tree),
            before: base.cloned(),
        });
        Ok(Built {
            content: content_id,
            pending: builder.pending,
            counts: builder.counts,
        })
    }
}

impl ReadFolder {
    fn collect_links(&self, dir: usize, at: &mut Vec<Name>, links: &mut Vec<Link>) {
        for (name, target) in self.scan.links(dir) {
            if let Ok(name) = Name::new(name) {
                links.push((at.clone(), name, target.into()));
            }
        }
        for (name, below) in self.scan.dirs_in(dir) {
            if let Ok(name) = Name::new(name) {
                at.push(name);
                self.collect_links(below, at, links);
                at.pop();
            }
        }
    }

    fn link_at(&self, mut dir: usize, at: &[Name], name: &Name) -> Option<Box<[u8]>> {
        for step in at {
            match self.scan.get(dir, step.as_bytes())? {
                Item::Dir(below) => dir = below,
                Item::File(_) | Item::Symlink(_) => return None,
            }
        }
        match self.scan.get(dir, name.as_bytes())? {
            Item::Symlink(target) => Some(target.into()),
            Item::File(_) | Item::Dir(_) => None,
        }
    }
}

fn each_read(
    read: &ReadFolder,
    dir: usize,
    path: &mut PathBuf,
    take: &mut dyn FnMut(&Path, u16, bool),
) {
    for (name, item) in read.scan.entries(dir) {
        path.push(OsStr::from_bytes(name));
        match item {
            Item::File(file) => take(path, read.scan.stamp(file).permissions(), false),
            Item::Dir(below) => {
                let stamp = read.scan.dir_stamp(below);
                take(path, stamp.map_or(0, |stamp| stamp.permissions()), true);
                each_read(read, below, path, take);
            }
            Item::Symlink(_) => {}
        }
        path.pop();
    }
}

impl Draft {
    fn of(read: &Arc<ReadFolder>, item: Item<'_>) -> Self {
        match item {
            Item::File(file) => Draft::File {
                mode: read.scan.stamp(file).permissions() & MODE_MASK,
                blob: read.blob(file),
            },
            Item::Symlink(target) => Draft::Symlink {
                target: target.into(),
                fresh: true,
            },
            Item::Dir(dir) => Draft::Dir(DraftDir::from_dir(read, dir)),
        }
    }

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
                entries: Entries::Open(BTreeMap::new()),
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
        let own: HashMap<ContentId, &Arc<SealedTree>> =
            self.pending.iter().map(|one| (one.id, &one.tree)).collect();
        let mut fetch = |blob: &Blob| match own.get(&blob.id) {
            Some(&tree) => Ok(tree.clone()),
            None => content.sealed_tree(blob),
        };
        let root = self.pending.last().map(|root| root.tree.clone());
        let root = root.unwrap_or_default();
        let mut count = |against, base: &Arc<SealedTree>| {
            let mut counts = ChangeCounts {
                against,
                ..ChangeCounts::default()
            };
            let mut add = |one| count_one(&mut counts, &one);
            let counted = diff_each(base, &root, &mut fetch, &mut add);
            counted.map(|()| counts)
        };
        let base = base.and_then(|base| content.sealed_tree(base).ok());
        base.and_then(|base| count(against, &base).ok())
            .or_else(|| count(None, &Arc::default()).ok())
            .unwrap_or_default()
    }

    /// Stores the new trees; returns the root's.
    pub fn store(&self, sink: &dyn Sink, content: &dyn Content) -> Result<Blob, DeployError> {
        let store = |tree: &Pending| {
            let before = Before::of(tree.before.as_ref(), content);
            put_bytes(sink, tree.tree.bytes(), TREE, &before)
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
    fn base_tree(&self, stored: Option<&Blob>) -> Option<Arc<SealedTree>> {
        self.content
            .sealed_tree(stored?)
            .inspect_err(|error| log::warn!("nothing is inherited: {error}"))
            .ok()
    }

    fn dir(
        &mut self,
        dir: DraftDir,
        base: Option<&SealedTree>,
    ) -> Result<(SealedTree, ContentId), DeployError> {
        self.counts.directories += 1;
        let finish = |writer: TreeWriter| writer.finish().map_err(DeployError::TooLong);
        match dir.entries {
            Entries::Read(read, dir) => {
                let mut writer = TreeWriter::new(read.scan.len(dir));
                for (name, item) in read.scan.entries(dir) {
                    let name = Name::new(name).expect("the walk has checked all names");
                    writer.add(&self.entry(name, Draft::of(&read, item), base)?);
                }
                finish(writer)
            }
            Entries::Open(entries) => {
                let mut writer = TreeWriter::new(entries.len());
                for (name, draft) in entries {
                    writer.add(&self.entry(name, draft, base)?);
                }
                finish(writer)
            }
        }
    }

    fn entry(
        &mut self,
        name: Name,
        draft: Draft,
        base: Option<&SealedTree>,
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
        let old = base.and_then(|tree| tree.get(name.as_bytes()));
        let mtime = entry_mtime(old.as_ref(), mode, &node, self.second);
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
        base: Option<&SealedTree>,
    ) -> Result<Entry, DeployError> {
        let old = base.and_then(|tree| tree.get(name.as_bytes()));
        let before = match old.as_ref().map(|entry| &entry.node) {
            Some(Node::Dir { tree, .. }) => Some(tree),
            Some(Node::File(_) | Node::Symlink(_)) | None => None,
        };
        let below = self.base_tree(before);
        let mode = dir.mode;
        let second = dir.mtime.unwrap_or(self.second);
        let (tree, content) = self.dir(dir, below.as_deref())?;
        let stored = blob_of(tree.bytes());
        let pending = Pending {
            id: stored.id,
            tree: Arc::new(tree),
            before: before.cloned(),
        };
        let node = Node::Dir {
            content,
            tree: stored,
        };
        let mtime = entry_mtime(old.as_ref(), mode, &node, second);
        self.pending.push(pending);
        Ok(Entry {
            name,
            mode,
            mtime,
            node,
        })
    }

    /// What the base deploy has with the same content stands there with its mtimes, for all below too.
    fn kept(&mut self, entry: Entry, base: Option<&SealedTree>) -> Result<Entry, DeployError> {
        self.count_kept(&entry.node)?;
        let old = base.and_then(|tree| tree.get(entry.name.as_bytes()));
        Ok(match old {
            Some(old) if old.mode == entry.mode && old.node.same_content(&entry.node) => old,
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
                for entry in self.content.sealed_tree(tree)?.entries_from(0) {
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
