//! The filesystem as plain functions over sealed content: lookup, getattr, readdir, read, readlink.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::discard::Secrets;
use super::nodes::{
    ALIVE, CHANNELS, DEPLOYS, DISCARDED, Dir, DirKey, EMPTY_LIVE, File, Nodes, ROOT, STAGING,
    Symlink, ViewNode,
};
use crate::deploy::mounted::{Content, Root, Shown};
use crate::model::name::{NAME_MAX, RETIRED_PREFIX};
use crate::model::{Blob, ChannelName, DeployId, Entry, Node, SealedTree};
use crate::store::StoreError;

const DIR_MODE: u16 = 0o555;
/// Walked through by whoever goes up from a working directory in it, and listed by nobody.
const DISCARDED_MODE: u16 = 0o111;
/// How many failed reads are remembered.
const ERRORS_KEPT: usize = 16;

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// No such name now; it may come later.
    #[error("no such name")]
    NotFound,
    /// No name is as long as that.
    #[error("the name is too long")]
    NameTooLong,
    /// The kernel does not hold that node.
    #[error("no such node")]
    Stale,
    /// A name was asked for in something that is no directory.
    #[error("not a directory")]
    NotDir,
    /// Bytes were asked of a directory.
    #[error("a directory")]
    IsDir,
    /// The target was asked of something that is no symlink, or bytes of a symlink.
    #[error("the wrong kind of node")]
    WrongKind,
    /// The store could not give the content; see [`TreeFs::read_errors`].
    #[error("the content cannot be read")]
    Content,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
}

/// What stat shows of a node. It never changes while the kernel holds the node (but for `deploys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The node's number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// Whole seconds since 1970.
    pub mtime: u64,
}

/// The answer to a lookup, which the kernel may keep for ever. (What may change is [`FsError::NotFound`].)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The name stands for this node, which the kernel holds once more now.
    Node(Attr),
    /// The same, but the kernel asks again at the next use: a mount whose daemon has died does not have the name.
    Uncached(Attr),
    /// The sealed directory has no such name and never will.
    Never,
}

/// One line of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The node's number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'a [u8],
    /// Where a listing goes on after this line.
    pub next: u64,
}

/// A read that failed for want of good bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadError {
    /// Seconds since 1970.
    pub at: u64,
    /// Which chunk, and what is wrong.
    pub what: String,
}

/// The root of a view. While it exists its number is held, so that answering a lookup of it needs no I/O.
pub struct ViewRoot {
    nodes: Arc<Nodes>,
    attr: Attr,
    /// None for the empty `live`.
    sealed: Option<SealedRoot>,
}

struct SealedRoot {
    id: DeployId,
    dir: Arc<Dir>,
}

impl ViewRoot {
    /// Its node number.
    pub fn ino(&self) -> u64 {
        self.attr.ino
    }

    /// The deploy it shows; none before the first activation.
    pub fn deploy(&self) -> Option<DeployId> {
        self.sealed.as_ref().map(|sealed| sealed.id)
    }

    /// The directory it is; none before the first activation.
    pub fn dir(&self) -> Option<&Arc<Dir>> {
        self.sealed.as_ref().map(|sealed| &sealed.dir)
    }

    fn looked_up(&self) -> Found {
        self.nodes.hold(self.attr.ino);
        Found::Node(self.attr)
    }
}

impl Drop for ViewRoot {
    fn drop(&mut self) {
        self.nodes.forget(self.attr.ino, 1);
    }
}

/// The entries of a directory of views, in an order that a listing can go on in.
struct Views<K> {
    by_name: HashMap<K, (u64, Arc<ViewRoot>)>,
    by_order: BTreeMap<u64, K>,
}

impl<K> Default for Views<K> {
    fn default() -> Self {
        Views {
            by_name: HashMap::new(),
            by_order: BTreeMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Views<K> {
    /// What stood there before is returned.
    fn insert(&mut self, name: K, order: u64, root: Arc<ViewRoot>) -> Option<Arc<ViewRoot>> {
        let old = self.remove(&name);
        self.by_order.insert(order, name.clone());
        self.by_name.insert(name, (order, root));
        old
    }

    fn remove(&mut self, name: &K) -> Option<Arc<ViewRoot>> {
        let (order, root) = self.by_name.remove(name)?;
        self.by_order.remove(&order);
        Some(root)
    }

    fn after(&self, offset: u64) -> Option<(u64, &K, &ViewRoot)> {
        let from = match offset.checked_sub(FIRST_ENTRY) {
            None => Bound::Unbounded,
            Some(order) => Bound::Excluded(order),
        };
        let (order, name) = self.by_order.range((from, Bound::Unbounded)).next()?;
        Some((*order, name, &self.by_name.get(name)?.1))
    }
}

/// The channels but `live`. A channel keeps its place in the listing as long as it is there; no place is used twice.
#[derive(Default)]
struct Channels {
    views: Views<ChannelName>,
    last_order: u64,
}

/// Offsets 1 and 2 follow `.` and `..`; the entry with index or order n is followed by `FIRST_ENTRY + n`.
const FIRST_ENTRY: u64 = 3;

/// The view of all deploys. Its locks are held for memory accesses only: never for I/O, never while the kernel is notified.
pub struct TreeFs {
    content: Arc<dyn Content>,
    nodes: Arc<Nodes>,
    mounted_at: u64,
    staging: Box<[u8]>,
    live: RwLock<Arc<ViewRoot>>,
    channels: RwLock<Channels>,
    deploys: RwLock<Views<DeployId>>,
    secrets: Secrets,
    errors: Mutex<VecDeque<ReadError>>,
    /// How many there have been.
    errors_seen: AtomicU64,
}

impl TreeFs {
    /// The view of what is `shown`, over the store folder `store`.
    pub fn new(content: Arc<dyn Content>, store: &Path, shown: &Shown) -> Self {
        let nodes = Arc::new(Nodes::default());
        let mounted_at = now();
        let fs = TreeFs {
            content,
            live: RwLock::new(Arc::new(empty_live(&nodes, mounted_at))),
            nodes,
            mounted_at,
            staging: store.join("staging").as_os_str().as_bytes().into(),
            channels: RwLock::default(),
            deploys: RwLock::default(),
            secrets: Secrets::default(),
            errors: Mutex::default(),
            errors_seen: AtomicU64::new(0),
        };
        if let Some(root) = &shown.live {
            fs.publish(&ChannelName::live(), root);
        }
        for (name, root) in &shown.channels {
            fs.publish(name, root);
        }
        for root in &shown.deploys {
            fs.publish_deploy(root);
        }
        fs
    }

    /// The node a name stands for in a directory.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Found, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        match parent {
            ROOT => self.lookup_in_root(name),
            DEPLOYS => self.lookup_deploy(name),
            CHANNELS => self.lookup_channel(name),
            EMPTY_LIVE => Ok(Found::Never),
            DISCARDED => self.lookup_discarded(name),
            STAGING | ALIVE => Err(FsError::NotDir),
            _ => self.lookup_sealed(parent, name),
        }
    }

    fn lookup_in_root(&self, name: &[u8]) -> Result<Found, FsError> {
        match name {
            b"live" => Ok(self.live().looked_up()),
            b"channels" => Ok(Found::Node(self.channels_attr())),
            b"deploys" => Ok(Found::Node(self.deploys_attr())),
            b"staging" => Ok(Found::Node(self.staging_attr())),
            b".alive" => Ok(Found::Uncached(self.alive_attr())),
            _ if name.starts_with(RETIRED_PREFIX.as_bytes()) => self.lookup_retired(ROOT, name),
            _ => Err(FsError::NotFound),
        }
    }

    fn lookup_channel(&self, name: &[u8]) -> Result<Found, FsError> {
        if name.starts_with(RETIRED_PREFIX.as_bytes()) {
            return self.lookup_retired(CHANNELS, name);
        }
        let name = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let (_, root) = channels.views.by_name.get(name).ok_or(FsError::NotFound)?;
        Ok(root.looked_up())
    }

    fn lookup_retired(&self, parent: u64, name: &[u8]) -> Result<Found, FsError> {
        if parent == ROOT && name == self.secrets.folder().as_bytes() {
            return Ok(Found::Node(self.discarded_attr()));
        }
        let expected = self.secrets.find(parent, name).ok_or(FsError::NotFound)?;
        Ok(expected.looked_up())
    }

    /// A working directory may be in there: for whoever goes up from it, the mount's root has the same names as before.
    fn lookup_discarded(&self, name: &[u8]) -> Result<Found, FsError> {
        if !matches!(name, b"live" | b"channels" | b"deploys" | b"staging") {
            return self.lookup_retired(DISCARDED, name);
        }
        let node = ViewNode::Symlink(Arc::new(Symlink {
            target: [b"../", name].concat().into(),
            mtime: self.mounted_at,
        }));
        let mut attr = attr_of(&node);
        attr.ino = self.nodes.intern(node);
        Ok(Found::Node(attr))
    }

    fn lookup_deploy(&self, name: &[u8]) -> Result<Found, FsError> {
        if name.starts_with(RETIRED_PREFIX.as_bytes()) {
            return self.lookup_retired(DEPLOYS, name);
        }
        let id = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        let id = id.parse().map_err(|_| FsError::NotFound)?;
        let deploys = self.deploys.read().unwrap_or_else(PoisonError::into_inner);
        let (_, root) = deploys.by_name.get(&id).ok_or(FsError::NotFound)?;
        Ok(root.looked_up())
    }

    fn lookup_sealed(&self, parent: u64, name: &[u8]) -> Result<Found, FsError> {
        let dir = self.dir(parent)?;
        let tree = self.tree(&dir.tree)?;
        let Some(entry) = tree.get(name) else {
            return Ok(Found::Never);
        };
        let node = node_of(&entry, &dir.key, parent);
        let mut attr = attr_of(&node);
        attr.ino = self.nodes.intern(node);
        Ok(Found::Node(attr))
    }

    /// The attributes of a node.
    pub fn getattr(&self, ino: u64) -> Result<Attr, FsError> {
        match ino {
            ROOT => Ok(dir_attr(ROOT, DIR_MODE, self.mounted_at)),
            DEPLOYS => Ok(self.deploys_attr()),
            CHANNELS => Ok(self.channels_attr()),
            DISCARDED => Ok(self.discarded_attr()),
            STAGING => Ok(self.staging_attr()),
            ALIVE => Ok(self.alive_attr()),
            EMPTY_LIVE => Ok(dir_attr(EMPTY_LIVE, DIR_MODE, self.mounted_at)),
            _ => Ok(Attr {
                ino,
                ..attr_of(&self.nodes.get(ino).ok_or(FsError::Stale)?)
            }),
        }
    }

    /// Hands the lines of a listing after `offset` to `take`, until it returns true: the reply is full.
    pub fn readdir(
        &self,
        ino: u64,
        offset: u64,
        take: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let (dir, parent) = match ino {
            ROOT | DEPLOYS | CHANNELS | EMPTY_LIVE | DISCARDED => (None, ROOT),
            STAGING | ALIVE => return Err(FsError::NotDir),
            _ => {
                let dir = self.dir(ino)?;
                let parent = dir.parent;
                (Some(dir), parent)
            }
        };
        if list_dots(ino, parent, offset, take) {
            return Ok(());
        }
        match dir {
            Some(dir) => self.list_sealed(ino, &dir, offset, take)?,
            None if ino == ROOT => self.list_root(offset, take),
            None if ino == DEPLOYS => {
                let deploys = self.deploys.read().unwrap_or_else(PoisonError::into_inner);
                list_views(&deploys, DeployId::to_string, offset, take);
            }
            None if ino == CHANNELS => {
                let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
                list_views(&channels.views, ChannelName::to_string, offset, take);
            }
            None => {}
        }
        Ok(())
    }

    fn list_root(&self, offset: u64, take: &mut dyn FnMut(Listed<'_>) -> bool) {
        let lines: [(&[u8], u64, Kind); 4] = [
            (b"live", self.live().ino(), Kind::Dir),
            (b"channels", CHANNELS, Kind::Dir),
            (b"deploys", DEPLOYS, Kind::Dir),
            (b"staging", STAGING, Kind::Symlink),
        ];
        for (index, (name, ino, kind)) in (0..).zip(lines).skip(skipped(offset)) {
            let next = FIRST_ENTRY + index;
            if take(Listed {
                ino,
                kind,
                name,
                next,
            }) {
                return;
            }
        }
    }

    fn list_sealed(
        &self,
        ino: u64,
        dir: &Dir,
        offset: u64,
        take: &mut dyn FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let tree = self.tree(&dir.tree)?;
        let first = skipped(offset);
        for (index, entry) in (first as u64..).zip(tree.entries_from(first)) {
            let node = node_of(&entry, &dir.key, ino);
            let line = Listed {
                ino: self.nodes.number_of(&node),
                kind: attr_of(&node).kind,
                name: entry.name.as_bytes(),
                next: FIRST_ENTRY + index,
            };
            if take(line) {
                break;
            }
        }
        Ok(())
    }

    /// Exactly the bytes `offset..min(offset + size, file size)`: one byte less and the kernel would shrink the file.
    pub fn read(&self, ino: u64, offset: u64, size: u32) -> Result<Vec<u8>, FsError> {
        if ino == ALIVE {
            return Ok(Vec::new());
        }
        let file = match self.held(ino)? {
            ViewNode::File(file) => file,
            ViewNode::Dir(_) => return Err(FsError::IsDir),
            ViewNode::Symlink(_) => return Err(FsError::WrongKind),
        };
        let expected = file.size.saturating_sub(offset).min(u64::from(size));
        if expected == 0 {
            return Ok(Vec::new());
        }
        let blob = file.blob();
        let bytes = self
            .content
            .read(&blob, offset, expected as u32)
            .map_err(|error| self.failed(&error))?;
        if bytes.len() as u64 != expected {
            self.remember(format!(
                "content {}: {} bytes at {offset} where {expected} were due",
                blob.id,
                bytes.len()
            ));
            return Err(FsError::Content);
        }
        Ok(bytes)
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: u64) -> Result<Box<[u8]>, FsError> {
        if ino == STAGING {
            return Ok(self.staging.clone());
        }
        match self.held(ino)? {
            ViewNode::Symlink(link) => Ok(link.target.clone()),
            ViewNode::File(_) | ViewNode::Dir(_) => Err(FsError::WrongKind),
        }
    }

    /// The kernel has let go of `lookups` answers that gave it `ino`.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.nodes.forget(ino, lookups);
    }

    /// The nodes that the kernel holds.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// A stored tree; a failure is logged and remembered.
    pub fn tree(&self, blob: &Blob) -> Result<Arc<SealedTree>, FsError> {
        self.content
            .sealed_tree(blob)
            .map_err(|error| self.failed(&error))
    }

    /// The last failed reads, oldest first.
    pub fn read_errors(&self) -> Vec<ReadError> {
        self.errors().iter().cloned().collect()
    }

    /// How many reads have failed.
    pub fn errors_seen(&self) -> u64 {
        self.errors_seen.load(Ordering::Relaxed)
    }

    fn live(&self) -> Arc<ViewRoot> {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From here on lookups of the channel answer `root`; what they answer and what they answered before is returned.
    pub fn publish(
        &self,
        channel: &ChannelName,
        root: &Root,
    ) -> (Arc<ViewRoot>, Option<Arc<ViewRoot>>) {
        if channel.is_live() {
            let new = Arc::new(self.view_root("live", ROOT, root));
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *live, new.clone());
            return (new, Some(old));
        }
        let new = Arc::new(self.view_root(&format!("channels/{channel}"), CHANNELS, root));
        let old = self.channels_mut(|channels| {
            let place = channels.views.by_name.get(channel).map(|(order, _)| *order);
            let place = place.unwrap_or(channels.last_order + 1);
            channels.last_order = channels.last_order.max(place);
            channels.views.insert(channel.clone(), place, new.clone())
        });
        (new, old)
    }

    /// From here on there is no such channel; what it was is returned.
    pub fn withdraw_channel(&self, channel: &ChannelName) -> Option<Arc<ViewRoot>> {
        self.channels_mut(|channels| channels.views.remove(channel))
    }

    /// From here on `deploys` has this deploy.
    pub fn publish_deploy(&self, root: &Root) {
        let view = self.view_root(&format!("deploys/{}", root.id), DEPLOYS, root);
        self.deploys_mut(|deploys| deploys.insert(root.id, root.order, Arc::new(view)));
    }

    /// From here on `deploys` has this deploy no more; nodes the kernel holds go on.
    pub fn withdraw_deploy(&self, id: DeployId) -> Option<Arc<ViewRoot>> {
        self.deploys_mut(|deploys| deploys.remove(&id))
    }

    /// What the daemon alone knows.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    fn deploys_mut<T>(&self, change: impl FnOnce(&mut Views<DeployId>) -> T) -> T {
        change(&mut self.deploys.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn channels_mut<T>(&self, change: impl FnOnce(&mut Channels) -> T) -> T {
        change(
            &mut self
                .channels
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn view_root(&self, view: &str, parent: u64, root: &Root) -> ViewRoot {
        let mut view = Cow::Borrowed(view);
        // Linux allows a directory one place: while a tree leaves the cache, what is shown anew has another number.
        let dir = loop {
            let dir = Arc::new(Dir {
                key: DirKey::root(&view, &root.tree.id, root.mtime),
                parent,
                tree: root.tree.clone(),
                mode: DIR_MODE,
                mtime: root.mtime,
            });
            let number = self.nodes.number_of(&ViewNode::Dir(dir.clone()));
            if !self.secrets.is_leaving(number) {
                break dir;
            }
            view += "\0again";
        };
        let ino = self.nodes.intern(ViewNode::Dir(dir.clone()));
        ViewRoot {
            nodes: self.nodes.clone(),
            attr: dir_attr(ino, DIR_MODE, root.mtime),
            sealed: Some(SealedRoot { id: root.id, dir }),
        }
    }

    fn deploys_attr(&self) -> Attr {
        let deploys = self.deploys.read().unwrap_or_else(PoisonError::into_inner);
        let newest = deploys.by_order.values().next_back();
        let newest = newest.and_then(|id| deploys.by_name.get(id));
        let mtime = newest.map_or(self.mounted_at, |(_, root)| root.attr.mtime);
        dir_attr(DEPLOYS, DIR_MODE, mtime)
    }

    fn channels_attr(&self) -> Attr {
        dir_attr(CHANNELS, DIR_MODE, self.mounted_at)
    }

    fn discarded_attr(&self) -> Attr {
        dir_attr(DISCARDED, DISCARDED_MODE, self.mounted_at)
    }

    fn staging_attr(&self) -> Attr {
        Attr {
            ino: STAGING,
            kind: Kind::Symlink,
            mode: 0o777,
            size: self.staging.len() as u64,
            mtime: self.mounted_at,
        }
    }

    fn alive_attr(&self) -> Attr {
        Attr {
            ino: ALIVE,
            kind: Kind::File,
            mode: 0o444,
            size: 0,
            mtime: self.mounted_at,
        }
    }

    fn held(&self, ino: u64) -> Result<ViewNode, FsError> {
        match ino {
            ROOT | DEPLOYS | CHANNELS | EMPTY_LIVE | DISCARDED => Err(FsError::IsDir),
            STAGING | ALIVE => Err(FsError::WrongKind),
            _ => self.nodes.get(ino).ok_or(FsError::Stale),
        }
    }

    fn dir(&self, ino: u64) -> Result<Arc<Dir>, FsError> {
        match self.nodes.get(ino).ok_or(FsError::Stale)? {
            ViewNode::Dir(dir) => Ok(dir),
            ViewNode::File(_) | ViewNode::Symlink(_) => Err(FsError::NotDir),
        }
    }

    fn failed(&self, error: &StoreError) -> FsError {
        self.remember(error.to_string());
        FsError::Content
    }

    fn remember(&self, what: String) {
        log::error!("a read through the mount failed: {what}");
        self.errors_seen.fetch_add(1, Ordering::Relaxed);
        let mut errors = self.errors();
        if errors.len() == ERRORS_KEPT {
            errors.pop_front();
        }
        errors.push_back(ReadError { at: now(), what });
    }

    fn errors(&self) -> MutexGuard<'_, VecDeque<ReadError>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn empty_live(nodes: &Arc<Nodes>, mtime: u64) -> ViewRoot {
    ViewRoot {
        nodes: nodes.clone(),
        attr: dir_attr(EMPTY_LIVE, DIR_MODE, mtime),
        sealed: None,
    }
}

fn node_of(entry: &Entry, dir: &DirKey, parent: u64) -> ViewNode {
    match &entry.node {
        Node::File(blob) => ViewNode::File(File::new(blob, entry.mode, entry.mtime)),
        Node::Symlink(target) => ViewNode::Symlink(Arc::new(Symlink {
            target: target.clone(),
            mtime: entry.mtime,
        })),
        Node::Dir { tree, .. } => ViewNode::Dir(Arc::new(Dir {
            key: dir.child(entry.name.as_bytes()),
            parent,
            tree: tree.clone(),
            mode: entry.mode,
            mtime: entry.mtime,
        })),
    }
}

/// The attributes of a node, all but its number.
fn attr_of(node: &ViewNode) -> Attr {
    let (kind, mode, size, mtime) = match node {
        ViewNode::File(file) => (Kind::File, file.mode, file.size, file.mtime),
        ViewNode::Symlink(link) => (Kind::Symlink, 0o777, link.target.len() as u64, link.mtime),
        ViewNode::Dir(dir) => return dir_attr(0, dir.mode, dir.mtime),
    };
    Attr {
        ino: 0,
        kind,
        mode,
        size,
        mtime,
    }
}

fn dir_attr(ino: u64, mode: u16, mtime: u64) -> Attr {
    Attr {
        ino,
        kind: Kind::Dir,
        mode,
        size: 0,
        mtime,
    }
}

/// Goes by an order that no entry changes, so that what comes or goes during a listing makes it neither skip nor repeat a line.
fn list_views<K: Clone + Eq + Hash>(
    views: &Views<K>,
    name: fn(&K) -> String,
    mut offset: u64,
    take: &mut dyn FnMut(Listed<'_>) -> bool,
) {
    while let Some((order, key, root)) = views.after(offset) {
        offset = FIRST_ENTRY + order;
        let name = name(key);
        let line = Listed {
            ino: root.ino(),
            kind: Kind::Dir,
            name: name.as_bytes(),
            next: offset,
        };
        if take(line) {
            return;
        }
    }
}

fn list_dots(ino: u64, parent: u64, offset: u64, take: &mut dyn FnMut(Listed<'_>) -> bool) -> bool {
    let dots: [(&[u8], u64, u64); 2] = [(b".", ino, 1), (b"..", parent, 2)];
    dots.into_iter()
        .filter(|(_, _, next)| *next > offset)
        .any(|(name, ino, next)| {
            take(Listed {
                ino,
                kind: Kind::Dir,
                name,
                next,
            })
        })
}

/// How many entries lie before `offset`.
fn skipped(offset: u64) -> usize {
    usize::try_from(offset.saturating_sub(FIRST_ENTRY - 1)).unwrap_or(usize::MAX)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::test_content::Memory;

    const SITE: &[(&str, &str)] = &[
        ("index.html", "hello"),
        ("home@", "index.html"),
        ("css/site.css", "body{}"),
        ("css/deep/x", "x"),
    ];

    struct Site {
        content: Arc<Memory>,
        fs: TreeFs,
        first: Root,
        second: Root,
    }

    fn site() -> Site {
        let content = Arc::new(Memory::default());
        let first = content.seal(SITE, 100, 1);
        let second = content.seal(&[("index.html", "hello"), ("new", "n")], 100, 2);
        let shown = Shown {
            live: Some(first.clone()),
            channels: Vec::new(),
            deploys: vec![first.clone(), second.clone()],
        };
        let fs = TreeFs::new(content.clone(), Path::new("/store"), &shown);
        Site {
            content,
            fs,
            first,
            second,
        }
    }

    fn walk(fs: &TreeFs, path: &str) -> Result<Found, FsError> {
        let mut ino = ROOT;
        let mut found = Ok(Found::Never);
        for name in path.split('/') {
            found = fs.lookup(ino, name.as_bytes());
            match found {
                Ok(Found::Node(attr)) => ino = attr.ino,
                other => return other,
            }
        }
        found
    }

    fn attr(fs: &TreeFs, path: &str) -> Attr {
        match walk(fs, path) {
            Ok(Found::Node(attr)) => attr,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn names(fs: &TreeFs, ino: u64, mut offset: u64, at_once: usize) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let before = names.len();
            fs.readdir(ino, offset, &mut |line| {
                if names.len() == before + at_once {
                    return true;
                }
                names.push(String::from_utf8(line.name.to_vec()).unwrap());
                offset = line.next;
                false
            })
            .unwrap();
            if names.len() == before {
                return names;
            }
        }
    }

    #[test]
    fn a_file_is_one_node_in_every_view_and_a_directory_one_in_each() {
        let Site {
            fs, first, second, ..
        } = site();
        let live = attr(&fs, "live/index.html");
        assert_eq!(live, attr(&fs, &format!("deploys/{}/index.html", first.id)));
        assert_eq!(
            live,
            attr(&fs, &format!("deploys/{}/index.html", second.id))
        );
        let css = attr(&fs, "live/css");
        assert_ne!(css.ino, attr(&fs, &format!("deploys/{}/css", first.id)).ino);
        assert_eq!(fs.getattr(css.ino).unwrap(), css);
        assert_eq!((live.size, live.mode, live.mtime), (5, 0o444, 100));
    }

    #[test]
    fn misses_are_for_ever_in_sealed_directories_only() {
        let Site { fs, .. } = site();
        assert_eq!(walk(&fs, "live/nothing"), Ok(Found::Never));
        assert_eq!(walk(&fs, "nothing"), Err(FsError::NotFound));
        assert_eq!(walk(&fs, "deploys/nothing"), Err(FsError::NotFound));
        assert_eq!(
            walk(&fs, "deploys/0123456789abcdef"),
            Err(FsError::NotFound)
        );
        assert_eq!(walk(&fs, "live/index.html/x"), Err(FsError::NotDir));
        assert_eq!(fs.lookup(99_999, b"x"), Err(FsError::Stale));
    }

    #[test]
    fn listings_go_on_where_they_stopped() {
        let Site { fs, first, .. } = site();
        let live = attr(&fs, "live").ino;
        for at_once in [1, 2, 100] {
            assert_eq!(
                names(&fs, live, 0, at_once),
                [".", "..", "css", "home", "index.html"]
            );
            assert_eq!(
                names(&fs, ROOT, 0, at_once),
                [".", "..", "live", "channels", "deploys", "staging"]
            );
            assert_eq!(names(&fs, DEPLOYS, 0, at_once).len(), 4);
        }
        assert_eq!(names(&fs, DEPLOYS, 0, 100)[2], first.id.to_string());
    }

    #[test]
    fn a_removal_during_a_listing_of_deploys_skips_nothing() {
        let Site {
            fs, first, second, ..
        } = site();
        let after_first = FIRST_ENTRY + first.order;
        fs.withdraw_deploy(first.id);
        assert_eq!(names(&fs, DEPLOYS, after_first, 1), [second.id.to_string()]);
        assert_eq!(names(&fs, DEPLOYS, 0, 1).len(), 3);
    }

    #[test]
    fn listed_numbers_are_the_ones_looked_up() {
        let Site { fs, .. } = site();
        let live = attr(&fs, "live").ino;
        fs.readdir(live, 2, &mut |line| {
            match fs.lookup(live, line.name) {
                Ok(Found::Node(attr)) => assert_eq!((attr.ino, attr.kind), (line.ino, line.kind)),
                other => panic!("{other:?}"),
            }
            false
        })
        .unwrap();
    }

    #[test]
    fn a_removed_deploy_is_not_found_but_its_held_nodes_read_on() {
        let Site { fs, second, .. } = site();
        let path = format!("deploys/{}/new", second.id);
        let file = attr(&fs, &path).ino;
        fs.withdraw_deploy(second.id);
        assert_eq!(walk(&fs, &path), Err(FsError::NotFound));
        assert_eq!(fs.read(file, 0, 10).unwrap(), b"n");
    }

    #[test]
    fn reads_are_exact_or_fail_and_the_failure_is_remembered() {
        let Site { fs, content, .. } = site();
        let file = attr(&fs, "live/index.html").ino;
        assert_eq!(fs.read(file, 0, 4096).unwrap(), b"hello");
        assert_eq!(fs.read(file, 3, 1).unwrap(), b"l");
        assert_eq!(fs.read(file, 5, 1).unwrap(), b"");
        assert_eq!(fs.read(file, u64::MAX, 1).unwrap(), b"");
        assert_eq!(fs.read(attr(&fs, "live").ino, 0, 1), Err(FsError::IsDir));
        content.lose(b"hello");
        for _ in 0..20 {
            assert_eq!(fs.read(file, 0, 1), Err(FsError::Content));
        }
        assert_eq!(fs.read_errors().len(), 16);
        assert!(fs.read_errors()[0].what.contains("is in no pack"));
    }

    #[test]
    fn links_say_where_they_point() {
        let Site { fs, .. } = site();
        let home = attr(&fs, "live/home");
        assert_eq!(home.kind, Kind::Symlink);
        assert_eq!(&*fs.readlink(home.ino).unwrap(), b"index.html");
        assert_eq!(&*fs.readlink(STAGING).unwrap(), b"/store/staging");
        assert_eq!(fs.readlink(ROOT), Err(FsError::IsDir));
    }

    #[test]
    fn the_retired_name_answers_only_while_it_is_expected() {
        let Site { fs, second, .. } = site();
        let (_, old) = fs.publish(&ChannelName::live(), &second);
        let old = old.unwrap();
        assert_ne!(attr(&fs, "live").ino, old.ino());
        assert_eq!(walk(&fs, ".retired-x"), Err(FsError::NotFound));
        fs.secrets().expecting(ROOT, ".retired-x", &old, || {
            assert_eq!(attr(&fs, ".retired-x").ino, old.ino());
            assert_eq!(walk(&fs, "channels/.retired-x"), Err(FsError::NotFound));
            assert_eq!(walk(&fs, ".retired-y"), Err(FsError::NotFound));
        });
        assert_eq!(walk(&fs, ".retired-x"), Err(FsError::NotFound));
    }

    #[test]
    fn channels_are_views_of_their_own_whose_files_are_the_same() {
        let Site {
            fs, first, second, ..
        } = site();
        let preview: ChannelName = "preview".parse().unwrap();
        let other: ChannelName = "änderung".parse().unwrap();
        assert_eq!(walk(&fs, "channels/preview"), Err(FsError::NotFound));
        fs.publish(&other, &second);
        let (new, old) = fs.publish(&preview, &first);
        assert!(old.is_none());
        assert_eq!(attr(&fs, "channels/preview").ino, new.ino());
        assert_ne!(new.ino(), attr(&fs, "live").ino);
        assert_ne!(
            attr(&fs, "channels/preview/css").ino,
            attr(&fs, "live/css").ino
        );
        assert_eq!(
            attr(&fs, "channels/preview/index.html"),
            attr(&fs, "live/index.html")
        );
        let (_, old) = fs.publish(&preview, &second);
        assert_eq!(old.unwrap().ino(), new.ino());
        for at_once in [1, 100] {
            assert_eq!(
                names(&fs, CHANNELS, 0, at_once),
                [".", "..", "änderung", "preview"]
            );
        }
        assert_eq!(
            walk(&fs, "channels/live"),
            Err(FsError::NotFound),
            "one directory has one name"
        );
        assert!(fs.withdraw_channel(&other).is_some());
        assert_eq!(walk(&fs, "channels/änderung"), Err(FsError::NotFound));
        assert_eq!(names(&fs, CHANNELS, 0, 100), [".", "..", "preview"]);
    }

    #[test]
    fn before_the_first_activation_live_is_empty() {
        let fs = TreeFs::new(
            Arc::new(Memory::default()),
            Path::new("/store"),
            &Shown::default(),
        );
        assert_eq!(attr(&fs, "live").ino, EMPTY_LIVE);
        assert_eq!(walk(&fs, "live/x"), Ok(Found::Never));
        assert_eq!(names(&fs, EMPTY_LIVE, 0, 9), [".", ".."]);
    }

    #[test]
    fn everything_is_let_go_of_but_the_roots() {
        let Site { fs, .. } = site();
        let live = attr(&fs, "live").ino;
        let file = attr(&fs, "live/index.html").ino;
        fs.forget(file, 1);
        fs.forget(live, 2);
        assert_eq!(fs.getattr(file), Err(FsError::Stale));
        assert!(fs.getattr(live).is_ok());
        assert_eq!(fs.nodes().count(), 3);
    }
}
