//! The content id of a tree: what a build *is*, without when it was sealed.
//!
//! BLAKE3 in derive_key mode over, for each entry in order: kind (1 byte), name (length, bytes), mode, and the content id
//! of a file or directory (32 bytes) or the target of a symlink (length, bytes). Numbers are LEB128.

use super::codec::{put_bytes, put_number};
use super::ids::ContentId;
use super::tree::{Entry, Node, Tree};

const CONTEXT: &str = "deployfs 2026 tree content id v1";

/// The content id of this tree: the same names, kinds, modes and contents give the same id on any machine, at any time.
pub fn tree_content_id(tree: &Tree) -> ContentId {
    let mut hasher = ContentHasher::default();
    for entry in tree.entries() {
        hasher.add(entry);
    }
    hasher.finish()
}

/// The content id of a tree whose entries come one after the other, by ascending name.
pub(super) struct ContentHasher {
    hasher: blake3::Hasher,
    fields: Vec<u8>,
}

impl Default for ContentHasher {
    fn default() -> Self {
        ContentHasher {
            hasher: blake3::Hasher::new_derive_key(CONTEXT),
            fields: Vec::with_capacity(320),
        }
    }
}

impl ContentHasher {
    pub(super) fn add(&mut self, entry: &Entry) {
        let fields = &mut self.fields;
        fields.clear();
        fields.push(entry.node.kind());
        put_bytes(fields, entry.name.as_bytes());
        put_number(fields, u64::from(entry.mode));
        match &entry.node {
            Node::File(blob) => fields.extend_from_slice(&blob.id.0),
            Node::Symlink(target) => put_bytes(fields, target),
            Node::Dir { content, .. } => fields.extend_from_slice(&content.0),
        }
        self.hasher.update(fields);
    }

    pub(super) fn finish(&self) -> ContentId {
        ContentId(*self.hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tree::tests::every_kind;

    fn changed(change: impl Fn(&mut Entry)) -> ContentId {
        let mut entries = every_kind().entries().to_vec();
        change(&mut entries[0]);
        tree_content_id(&Tree::new(entries))
    }

    #[test]
    fn mtimes_do_not_count_and_everything_else_does() {
        let same = tree_content_id(&every_kind());
        assert_eq!(changed(|entry| entry.mtime += 1), same);
        assert_ne!(changed(|entry| entry.mode = 0o511), same);
        assert_ne!(
            changed(|entry| entry.name = crate::model::Name::new(b"other").unwrap()),
            same
        );
    }

    #[test]
    fn golden_content_id() {
        assert_eq!(
            tree_content_id(&every_kind()).to_string(),
            "8b3aa8f0aff1a006efad7bd4f9c0a9d551dc7d8d2e244782817e32b60ee0fb3f"
        );
        assert_eq!(
            tree_content_id(&Tree::default()).to_string(),
            "c6f83d436c60437f6ba9ec4b03d9cc421741c6de9437c106b0b67b28824bb042"
        );
    }
}
