//! A tree: one sealed directory, its entries sorted by name, and its canonical encoding.
//!
//! ```text
//! "dft" version=1, count, then each entry, names strictly ascending:
//!   kind  1 file, 2 symlink, 3 directory
//!   name  length bytes
//!   mode  permission bits, a subset of 0555 (a symlink: 0777)
//!   mtime whole seconds since 1970
//!   file:      size, content id (32 bytes), layout (see blob.rs)
//!   symlink:   target: length bytes
//!   directory: content id (32 bytes), stored tree: id (32 bytes), size, layout
//! ```
//! Numbers are LEB128 in their shortest form, so equal trees have equal bytes.

use super::blob::{Blob, Layout};
use super::codec::{DecodeError, Reader, put_bytes, put_number};
use super::ids::ContentId;
use super::name::Name;

/// Bits of a mode that a deploy keeps: no write bit, no setuid, setgid or sticky.
pub const MODE_MASK: u16 = 0o555;
/// The mode that Linux shows for every symlink.
pub const SYMLINK_MODE: u16 = 0o777;
/// The longest symlink target Linux allows, in bytes.
pub const TARGET_MAX: usize = 4095;
/// The most folders that may lie within each other: far more than any site has, and few enough that whoever walks down them may
/// hold a descriptor and a stack frame for each.
pub const DEPTH_MAX: usize = 256;
const MAGIC: &[u8; 4] = b"dft\x01";
/// kind, name length, one name byte, mode, mtime and one more field: the least an entry takes.
const ENTRY_MIN: usize = 6;

/// One sealed directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
}

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path element.
    pub name: Name,
    /// Permission bits, within [`MODE_MASK`] ([`SYMLINK_MODE`] for a symlink).
    pub mode: u16,
    /// Whole seconds since 1970.
    pub mtime: u64,
    /// What the name stands for.
    pub node: Node,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A regular file and its bytes.
    File(Blob),
    /// A symbolic link and its target, 1 to [`TARGET_MAX`] bytes without NUL.
    Symlink(Box<[u8]>),
    /// A directory.
    Dir {
        /// Over names, kinds, modes and contents, without mtimes.
        content: ContentId,
        /// Its encoded tree, mtimes included.
        tree: Blob,
    },
}

impl Tree {
    /// Sorts the entries into a tree. The caller has made sure that no name comes twice.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        debug_assert!(
            entries.windows(2).all(|pair| pair[0].name < pair[1].name),
            "a name comes twice"
        );
        Tree { entries }
    }

    /// All entries, by ascending name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Gives the entries away, by ascending name.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The entry with this name.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.name.as_bytes().cmp(name))
            .ok()?;
        Some(&self.entries[at])
    }

    /// The bytes that are stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 80);
        encode_head(self.entries.len(), &mut out);
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        out
    }

    /// Reads stored bytes; everything a tree promises is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut entries = Vec::new();
        each_entry(bytes, |_, entry| entries.push(entry))?;
        Ok(Tree { entries })
    }
}

/// Appends what comes before the entries of a tree of so many.
pub(super) fn encode_head(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(MAGIC);
    put_number(out, count as u64);
}

/// Hands on each entry of a stored tree and where it starts; everything a tree promises is checked.
pub(super) fn each_entry(
    bytes: &[u8],
    mut take: impl FnMut(usize, Entry),
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.take(4)? {
        magic if magic == MAGIC => {}
        [b'd', b'f', b't', version] => return Err(DecodeError::Version(*version)),
        _ => return Err(DecodeError::Invalid("it is not a tree")),
    }
    let count = reader.count(ENTRY_MIN)?;
    // No name is empty.
    let mut last: &[u8] = b"";
    for _ in 0..count {
        let start = bytes.len() - reader.left();
        let entry = Entry::decode(&mut reader)?;
        let name = name_at(bytes, start);
        if last >= name {
            return Err(DecodeError::Invalid("its names are not in order"));
        }
        last = name;
        take(start, entry);
    }
    reader.finish()
}

/// The name of the entry that starts there, in bytes that are checked.
pub(super) fn name_at(bytes: &[u8], start: usize) -> &[u8] {
    let after_kind = bytes.get(start + 1..).unwrap_or_default();
    Reader::new(after_kind).bytes().unwrap_or_default()
}

/// The entry that starts there, in bytes that are checked.
pub(super) fn entry_at(bytes: &[u8], start: usize) -> Option<Entry> {
    Entry::decode(&mut Reader::new(bytes.get(start..)?)).ok()
}

impl Entry {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.node.kind());
        put_bytes(out, self.name.as_bytes());
        put_number(out, u64::from(self.mode));
        put_number(out, self.mtime);
        match &self.node {
            Node::File(blob) => {
                put_number(out, blob.len);
                blob.encode(out);
            }
            Node::Symlink(target) => put_bytes(out, target),
            Node::Dir { content, tree } => {
                out.extend_from_slice(&content.0);
                out.extend_from_slice(&tree.id.0);
                put_number(out, tree.len);
                tree.layout.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.byte()?;
        let name =
            Name::new(reader.bytes()?).map_err(|_| DecodeError::Invalid("a name is not valid"))?;
        let mode = u16::try_from(reader.number()?)
            .map_err(|_| DecodeError::Invalid("a mode is not valid"))?;
        let mtime = reader.number()?;
        if mtime > i64::MAX as u64 {
            return Err(DecodeError::Invalid("an mtime is out of range"));
        }
        let allowed = if kind == Node::SYMLINK {
            SYMLINK_MODE
        } else {
            MODE_MASK
        };
        if mode & !allowed != 0 || (kind == Node::SYMLINK && mode != SYMLINK_MODE) {
            return Err(DecodeError::Invalid("a mode is not valid"));
        }
        let node = match kind {
            Node::FILE => {
                let len = reader.number()?;
                Node::File(Blob::decode(reader, len)?)
            }
            Node::SYMLINK => {
                let target = reader.bytes()?;
                if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) {
                    return Err(DecodeError::Invalid("a symlink target is not valid"));
                }
                Node::Symlink(target.into())
            }
            Node::DIR => {
                let content = ContentId(reader.hash()?);
                let id = ContentId(reader.hash()?);
                let len = reader.number()?;
                Node::Dir {
                    content,
                    tree: Blob {
                        id,
                        len,
                        layout: Layout::decode(reader, len)?,
                    },
                }
            }
            _ => return Err(DecodeError::Invalid("an unknown kind of entry")),
        };
        Ok(Entry {
            name,
            mode,
            mtime,
            node,
        })
    }
}

impl Node {
    pub(super) const FILE: u8 = 1;
    pub(super) const SYMLINK: u8 = 2;
    pub(super) const DIR: u8 = 3;

    pub(super) fn kind(&self) -> u8 {
        match self {
            Node::File(_) => Self::FILE,
            Node::Symlink(_) => Self::SYMLINK,
            Node::Dir { .. } => Self::DIR,
        }
    }

    /// True where both are of one kind and have the same content, whatever their mtimes (inside a directory too).
    pub fn same_content(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::File(a), Node::File(b)) => a.id == b.id && a.len == b.len,
            (Node::Symlink(a), Node::Symlink(b)) => a == b,
            (Node::Dir { content: a, .. }, Node::Dir { content: b, .. }) => a == b,
            (Node::File(_) | Node::Symlink(_) | Node::Dir { .. }, _) => false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::blob::ChunkRef;
    use crate::model::ids::ChunkId;
    use proptest::prelude::*;

    /// A tree with one entry of every kind and layout.
    pub(crate) fn every_kind() -> Tree {
        let entry = |name: &str, mode, node| Entry {
            name: Name::new(name.as_bytes()).unwrap(),
            mode,
            mtime: 1_700_000_000,
            node,
        };
        let blob = |len, layout| Blob {
            id: ContentId::of(b"x"),
            len,
            layout,
        };
        let list = [10, 20].map(|len| ChunkRef {
            id: ChunkId::of(&[len as u8]),
            len,
        });
        Tree::new(vec![
            entry("single", 0o444, Node::File(blob(1, Layout::Single))),
            entry(
                "list",
                0o555,
                Node::File(blob(30, Layout::List(list.into()))),
            ),
            entry(
                "long",
                0o400,
                Node::File(blob(1 << 33, Layout::ListAt(ChunkId::of(b"list")))),
            ),
            entry(
                "link",
                SYMLINK_MODE,
                Node::Symlink(b"../to".as_slice().into()),
            ),
            entry(
                "dir",
                0o555,
                Node::Dir {
                    content: ContentId::of(b"c"),
                    tree: blob(5, Layout::Single),
                },
            ),
        ])
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let tree = every_kind();
        assert_eq!(Tree::decode(&tree.encode()).unwrap(), tree);
        assert!(tree.get(b"link").is_some());
        assert!(tree.get(b"nothing").is_none());
    }

    #[test]
    fn golden_tree() {
        assert_eq!(
            ContentId::of(&every_kind().encode()).to_string(),
            "8bad482170d4447d338e70c4f61c6a1d70110ff297938d87bb4203145e43c1e9"
        );
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let mut bytes = every_kind().encode();
        for end in 0..bytes.len() {
            assert!(Tree::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert_eq!(Tree::decode(&bytes), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn unsorted_or_repeated_names_and_write_bits_are_refused() {
        let one = every_kind().entries()[0].clone();
        let twice = Tree {
            entries: vec![one.clone(), one.clone()],
        };
        assert!(Tree::decode(&twice.encode()).is_err());
        let writable = Tree {
            entries: vec![Entry { mode: 0o644, ..one }],
        };
        assert!(Tree::decode(&writable.encode()).is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = MAGIC.to_vec();
            framed.extend(bytes);
            if let Ok(tree) = Tree::decode(&framed) {
                prop_assert_eq!(tree.encode(), framed);
            }
        }
    }
}
