//! A tree as it is stored, with a table of where its entries begin: a third of a decoded tree's memory, and a name is found
//! without decoding the others. What is kept in memory for as long as visitors need it is kept so.

use super::codec::DecodeError;
use super::content::ContentHasher;
use super::ids::ContentId;
use super::tree::{Entry, Tree, each_entry, encode_head, entry_at, name_at};

/// The stored bytes of a tree, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedTree {
    bytes: Box<[u8]>,
    starts: Box<[u32]>,
}

impl Default for SealedTree {
    fn default() -> Self {
        let mut bytes = Vec::new();
        encode_head(0, &mut bytes);
        SealedTree {
            bytes: bytes.into(),
            starts: Box::default(),
        }
    }
}

impl SealedTree {
    /// Takes stored bytes; everything a tree promises is checked.
    pub fn new(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        check_len(&bytes)?;
        let mut starts = Vec::new();
        each_entry(&bytes, |start, _| starts.push(start as u32))?;
        Ok(SealedTree {
            bytes: bytes.into(),
            starts: starts.into(),
        })
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The entry with this name.
    pub fn get(&self, name: &[u8]) -> Option<Entry> {
        let at = self
            .starts
            .binary_search_by(|start| name_at(&self.bytes, *start as usize).cmp(name))
            .ok()?;
        self.entry(self.starts[at])
    }

    /// All entries from the one with this number on, by ascending name.
    pub fn entries_from(&self, first: usize) -> impl Iterator<Item = Entry> {
        let starts = self.starts.get(first..).unwrap_or_default();
        starts.iter().filter_map(|start| self.entry(*start))
    }

    /// All names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let starts = self.starts.iter();
        starts.map(|start| name_at(&self.bytes, *start as usize))
    }

    /// The tree, decoded.
    pub fn decode(&self) -> Tree {
        Tree::new(self.entries_from(0).collect())
    }

    /// Bytes of memory that it takes, roughly.
    pub fn memory(&self) -> usize {
        64 + self.bytes.len() + self.starts.len() * size_of::<u32>()
    }

    fn entry(&self, start: u32) -> Option<Entry> {
        entry_at(&self.bytes, start as usize)
    }
}

/// Writes a tree whose entries come one after the other: they need not be in memory together.
pub struct TreeWriter {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    /// On the heap: trees are written within one another, as deep as folders lie.
    content: Box<ContentHasher>,
}

impl TreeWriter {
    /// A tree of so many entries.
    pub fn new(count: usize) -> Self {
        let mut bytes = Vec::new();
        encode_head(count, &mut bytes);
        TreeWriter {
            bytes,
            starts: Vec::with_capacity(count),
            content: Box::default(),
        }
    }

    /// Adds the next entry, by ascending name.
    pub fn add(&mut self, entry: &Entry) {
        self.starts.push(self.bytes.len() as u32);
        entry.encode(&mut self.bytes);
        self.content.add(entry);
    }

    /// The tree and its content id.
    ///
    /// # Errors
    /// A tree that is longer than 4 GiB, which could not be read again.
    pub fn finish(self) -> Result<(SealedTree, ContentId), DecodeError> {
        check_len(&self.bytes)?;
        let tree = SealedTree {
            bytes: self.bytes.into(),
            starts: self.starts.into(),
        };
        Ok((tree, self.content.finish()))
    }
}

fn check_len(bytes: &[u8]) -> Result<(), DecodeError> {
    match u32::try_from(bytes.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(DecodeError::Invalid("no tree is so long")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::tree_content_id;
    use super::super::tree::tests::every_kind;
    use super::*;

    #[test]
    fn it_gives_what_the_decoded_tree_gives() {
        let tree = every_kind();
        let sealed = SealedTree::new(tree.encode()).unwrap();
        assert_eq!(sealed.decode(), tree);
        for entry in tree.entries() {
            assert_eq!(sealed.get(entry.name.as_bytes()).as_ref(), Some(entry));
        }
        for absent in [&b""[..], b"a", b"linkx", b"zzz"] {
            assert_eq!(sealed.get(absent), None);
        }
        let last: Vec<Entry> = sealed.entries_from(3).collect();
        assert_eq!(last, tree.entries()[3..]);
        assert_eq!(sealed.entries_from(99).count(), 0);
        let names: Vec<&[u8]> = sealed.names().collect();
        assert_eq!(names, [&b"dir"[..], b"link", b"list", b"long", b"single"]);
    }

    #[test]
    fn a_tree_written_entry_by_entry_is_the_same() {
        for tree in [every_kind(), Tree::default()] {
            let mut writer = TreeWriter::new(tree.entries().len());
            tree.entries().iter().for_each(|entry| writer.add(entry));
            let (written, content) = writer.finish().unwrap();
            assert_eq!(written, SealedTree::new(tree.encode()).unwrap());
            assert_eq!(content, tree_content_id(&tree));
        }
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let mut bytes = every_kind().encode();
        bytes.pop();
        assert!(SealedTree::new(bytes).is_err());
    }
}
