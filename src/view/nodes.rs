//! Node numbers: each a hash of what the node is, so that a remount gives the same ones; and the table of nodes the kernel holds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slots;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{Blob, ContentId, Layout};

/// The mount's root, by the FUSE protocol.
pub const ROOT: u64 = 1;
/// The directory `deploys`.
pub const DEPLOYS: u64 = 2;
/// The symlink `staging`.
pub const STAGING: u64 = 3;
/// `live` before the first activation.
pub const EMPTY_LIVE: u64 = 4;
/// The directory `channels`.
pub const CHANNELS: u64 = 5;
/// The hidden directory of trees that nobody is shown any more.
pub const DISCARDED: u64 = 6;
/// The empty file `.alive`.
pub const ALIVE: u64 = 7;
/// Hashed numbers are greater than this.
const RESERVED: u64 = 1024;
/// 62 bits: positive as a signed number, with one bit to spare.
const NUMBER_MASK: u64 = (1 << 62) - 1;
const SHARDS: usize = 64;
const HASH_KEY: &[u8; 32] = b"deployfs view: node numbers v1..";

/// Which directory of which view: chained from the view's root down, so equal only for the same path of the same view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirKey([u8; 16]);

impl DirKey {
    /// The root of a view. `view` is its kind and name (`live`, `channels/NAME`, `deploys/ID`); the stored tree has the mtimes below it.
    pub fn root(view: &str, tree: &ContentId, mtime: u64) -> Self {
        Self::of(b'r', &[&tree.0, &mtime.to_le_bytes(), view.as_bytes()])
    }

    /// The directory `name` in this one.
    pub fn child(&self, name: &[u8]) -> Self {
        Self::of(b'c', &[&self.0, name])
    }

    fn of(kind: u8, fields: &[&[u8]]) -> Self {
        let digest = digest(kind, fields);
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        DirKey(key)
    }
}

/// A sealed directory at its place in a view.
#[derive(Debug)]
pub struct Dir {
    /// Its place.
    pub key: DirKey,
    /// The number of the directory above.
    pub parent: u64,
    /// Its stored tree.
    pub tree: Blob,
    /// Permission bits.
    pub mode: u16,
    /// Whole seconds since 1970.
    pub mtime: u64,
}

/// A symbolic link.
#[derive(Debug)]
pub struct Symlink {
    /// What it points to.
    pub target: Box<[u8]>,
    /// Whole seconds since 1970.
    pub mtime: u64,
}

/// A regular file; the same node wherever it has the same bytes, mode and mtime. Small: a site has many.
#[derive(Debug, Clone)]
pub struct File {
    id: ContentId,
    /// Bytes.
    pub size: u64,
    /// Whole seconds since 1970.
    pub mtime: u64,
    /// None for the usual file of one chunk.
    layout: Option<Arc<Layout>>,
    /// Permission bits.
    pub mode: u16,
}

impl File {
    /// The file of these bytes.
    pub fn new(blob: &Blob, mode: u16, mtime: u64) -> Self {
        let layout = match &blob.layout {
            Layout::Single => None,
            layout @ (Layout::List(_) | Layout::ListAt(_)) => Some(Arc::new(layout.clone())),
        };
        File {
            id: blob.id,
            size: blob.len,
            mtime,
            layout,
            mode,
        }
    }

    /// Its bytes in the store.
    pub fn blob(&self) -> Blob {
        Blob {
            id: self.id,
            len: self.size,
            layout: self.layout.as_deref().cloned().unwrap_or(Layout::Single),
        }
    }
}

/// What a number stands for.
#[derive(Debug, Clone)]
pub enum ViewNode {
    /// A regular file.
    File(File),
    /// A symbolic link.
    Symlink(Arc<Symlink>),
    /// A sealed directory.
    Dir(Arc<Dir>),
}

impl ViewNode {
    fn same(&self, other: &ViewNode) -> bool {
        match (self, other) {
            (ViewNode::File(a), ViewNode::File(b)) => {
                (a.id, a.size, a.mtime, a.mode) == (b.id, b.size, b.mtime, b.mode)
            }
            (ViewNode::Symlink(a), ViewNode::Symlink(b)) => {
                a.mtime == b.mtime && a.target == b.target
            }
            (ViewNode::Dir(a), ViewNode::Dir(b)) => a.key == b.key,
            (ViewNode::File(_) | ViewNode::Symlink(_) | ViewNode::Dir(_), _) => false,
        }
    }

    fn digest(&self) -> [u8; 32] {
        match self {
            ViewNode::File(file) => digest(
                b'f',
                &[
                    &file.id.0,
                    &file.size.to_le_bytes(),
                    &file.mtime.to_le_bytes(),
                    &file.mode.to_le_bytes(),
                ],
            ),
            ViewNode::Symlink(link) => digest(b'l', &[&link.mtime.to_le_bytes(), &link.target]),
            ViewNode::Dir(dir) => dir_digest(&dir.key),
        }
    }
}

fn dir_digest(key: &DirKey) -> [u8; 32] {
    digest(b'd', &[&key.0])
}

/// All fields but the last have a fixed length, so no two lists of fields hash the same bytes.
fn digest(kind: u8, fields: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(HASH_KEY);
    hasher.update(&[kind]);
    for field in fields {
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}

/// The numbers a digest may take, best first; endless.
fn candidates(digest: [u8; 32]) -> impl Iterator<Item = u64> {
    (0u32..)
        .map(move |salt| match salt {
            0 => number(&digest),
            _ => number(&self::digest(b's', &[&digest, &salt.to_le_bytes()])),
        })
        .filter(|number| *number > RESERVED)
}

fn number(digest: &[u8; 32]) -> u64 {
    let mut start = [0; 8];
    start.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(start) & NUMBER_MASK
}

/// A node that the kernel holds, and how often: how many answers have given it the number and are not yet forgotten, and how
/// many pins hold it. A count that reaches its end stays there, and the node with it.
enum Slot {
    /// The usual file, without the bytes that it does not need: a large site has a million of them.
    Plain {
        lookups: u32,
        size: u32,
        mtime: u32,
        mode: u16,
        id: ContentId,
    },
    Other(Box<OtherSlot>),
}

struct OtherSlot {
    lookups: u32,
    node: ViewNode,
}

impl Slot {
    /// The node, held once.
    fn new(node: ViewNode) -> Self {
        if let ViewNode::File(file) = &node
            && file.layout.is_none()
            && let (Ok(size), Ok(mtime)) = (file.size.try_into(), file.mtime.try_into())
        {
            return Slot::Plain {
                lookups: 1,
                size,
                mtime,
                mode: file.mode,
                id: file.id,
            };
        }
        Slot::Other(Box::new(OtherSlot { lookups: 1, node }))
    }

    fn node(&self) -> ViewNode {
        match self {
            Slot::Plain {
                size,
                mtime,
                mode,
                id,
                ..
            } => ViewNode::File(File {
                id: *id,
                size: (*size).into(),
                mtime: (*mtime).into(),
                layout: None,
                mode: *mode,
            }),
            Slot::Other(other) => other.node.clone(),
        }
    }

    fn lookups(&mut self) -> &mut u32 {
        match self {
            Slot::Plain { lookups, .. } => lookups,
            Slot::Other(other) => &mut other.lookups,
        }
    }

    fn hold(&mut self) {
        let lookups = self.lookups();
        *lookups = lookups.saturating_add(1);
    }

    /// True where nobody holds it any more.
    fn release(&mut self, times: u64) -> bool {
        let lookups = self.lookups();
        if *lookups < u32::MAX {
            *lookups = u64::from(*lookups).saturating_sub(times) as u32;
        }
        *lookups == 0
    }
}

/// A tree map grows without moving what is in it, and has few empty places.
type Shard = BTreeMap<u64, Slot>;

/// The nodes that the kernel holds, by number. Only one shard is ever locked, and no code outside runs under its lock.
pub struct Nodes {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Nodes {
    fn default() -> Self {
        Nodes {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Nodes {
    fn shard(&self, number: u64) -> MutexGuard<'_, Shard> {
        self.shards[number as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of `node`, which is held once more from now on.
    pub fn intern(&self, node: ViewNode) -> u64 {
        for number in candidates(node.digest()) {
            match self.shard(number).entry(number) {
                Slots::Vacant(slot) => {
                    slot.insert(Slot::new(node));
                    return number;
                }
                Slots::Occupied(mut slot) if slot.get().node().same(&node) => {
                    slot.get_mut().hold();
                    return number;
                }
                Slots::Occupied(_) => {}
            }
        }
        unreachable!("there are endless candidates")
    }

    /// The number that `node` has or would get; it is not held by this.
    pub fn number_of(&self, node: &ViewNode) -> u64 {
        candidates(node.digest())
            .find(|number| {
                self.shard(*number)
                    .get(number)
                    .is_none_or(|slot| slot.node().same(node))
            })
            .unwrap_or(0)
    }

    /// How often a number is held.
    pub fn holds(&self, number: u64) -> u32 {
        self.shard(number)
            .get_mut(&number)
            .map_or(0, |slot| *slot.lookups())
    }

    /// The node behind a held number.
    pub fn get(&self, number: u64) -> Option<ViewNode> {
        self.shard(number).get(&number).map(Slot::node)
    }

    /// Holds a number that is held already once more.
    pub fn hold(&self, number: u64) {
        if let Some(slot) = self.shard(number).get_mut(&number) {
            slot.hold();
        }
    }

    /// Takes back `lookups` holds; the node goes with the last.
    pub fn forget(&self, number: u64, lookups: u64) {
        if let Slots::Occupied(mut slot) = self.shard(number).entry(number)
            && slot.get_mut().release(lookups)
        {
            slot.remove();
        }
    }

    /// Tells of every node that is held. No lock is held meanwhile.
    pub fn each(&self, tell: &mut dyn FnMut(ViewNode)) {
        for number in 0..SHARDS as u64 {
            let nodes: Vec<ViewNode> = {
                let shard = self.shard(number);
                shard.values().map(Slot::node).collect()
            };
            nodes.into_iter().for_each(&mut *tell);
        }
    }

    /// How many nodes are held.
    pub fn count(&self) -> usize {
        (0..SHARDS as u64)
            .map(|number| self.shard(number).len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8], mtime: u64) -> ViewNode {
        ViewNode::File(File::new(&Blob::single(content), 0o444, mtime))
    }

    #[test]
    fn one_number_for_one_content_mode_and_mtime() {
        let nodes = Nodes::default();
        let first = nodes.intern(file(b"a", 1));
        assert_eq!(nodes.intern(file(b"a", 1)), first);
        assert_ne!(nodes.intern(file(b"a", 2)), first);
        assert_ne!(nodes.intern(file(b"b", 1)), first);
        assert_eq!(nodes.number_of(&file(b"a", 1)), first);
    }

    #[test]
    fn a_node_goes_with_the_last_lookup() {
        let nodes = Nodes::default();
        let number = nodes.intern(file(b"a", 1));
        nodes.hold(number);
        nodes.intern(file(b"a", 1));
        nodes.forget(number, 2);
        assert!(nodes.get(number).is_some());
        nodes.forget(number, 1);
        assert!(nodes.get(number).is_none());
        assert_eq!(nodes.count(), 0);
        nodes.forget(number, 1);
    }

    #[test]
    fn a_taken_number_goes_to_nobody_else() {
        let nodes = Nodes::default();
        let number = nodes.number_of(&file(b"a", 1));
        let other = Slot::new(file(b"other", 9));
        nodes.shard(number).insert(number, other);
        let second = nodes.intern(file(b"a", 1));
        assert_ne!(second, number);
        assert_eq!(nodes.intern(file(b"a", 1)), second);
        assert_eq!(nodes.number_of(&file(b"a", 1)), second);
    }

    #[test]
    fn directories_differ_by_view_stored_root_mtime_and_path() {
        let tree = ContentId::of(b"tree");
        let live = DirKey::root("live", &tree, 1);
        assert_eq!(live, DirKey::root("live", &tree, 1));
        assert_ne!(live, DirKey::root("deploys/1", &tree, 1));
        assert_ne!(live, DirKey::root("live", &tree, 2));
        assert_ne!(live, DirKey::root("live", &ContentId::of(b"u"), 1));
        assert_ne!(live.child(b"a").child(b"b"), live.child(b"b").child(b"a"));
    }

    #[test]
    fn golden_numbers_so_that_a_remount_after_an_upgrade_keeps_them() {
        let nodes = Nodes::default();
        let key = DirKey::root("live", &ContentId::of(b"tree"), 7).child(b"assets");
        assert_eq!(
            (
                nodes.number_of(&file(b"hello", 1_700_000_000)),
                candidates(dir_digest(&key)).next().unwrap()
            ),
            GOLDEN
        );
    }

    const GOLDEN: (u64, u64) = (2056490317256077356, 3356884875427979232);

    #[test]
    fn a_file_comes_back_from_its_slot_whatever_its_size_and_mtime() {
        let most = u64::from(u32::MAX);
        for (size, mtime) in [(0, 0), (5, 7), (most, most), (most + 1, 7), (5, most + 1)] {
            let blob = Blob {
                len: size,
                ..Blob::single(b"x")
            };
            let node = ViewNode::File(File::new(&blob, 0o444, mtime));
            assert!(Slot::new(node.clone()).node().same(&node), "{size} {mtime}");
        }
    }

    #[test]
    fn a_node_held_beyond_what_can_be_counted_stays() {
        let mut slot = Slot::new(file(b"a", 1));
        *slot.lookups() = u32::MAX - 1;
        slot.hold();
        slot.hold();
        assert!(!slot.release(u64::MAX));
    }

    #[test]
    fn a_file_takes_at_most_56_bytes_in_its_table() {
        assert!(size_of::<(u64, Slot)>() <= 56);
    }
}
