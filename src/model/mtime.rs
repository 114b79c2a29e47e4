//! The mtime rule: different bytes at one path never share an mtime second, equal ones keep theirs from deploy to deploy.

use super::tree::{Entry, Node};

/// The second that a seal stamps on what is new: later than any seal's second before it, whatever the clock does.
pub fn seal_second(now: u64, last_mtime: u64) -> u64 {
    now.max(last_mtime + 1)
}

/// The mtime of an entry: inherited where the base deploy has the same content and mode at the same path, else `second`.
/// `old` is what the base deploy has there.
pub fn entry_mtime(old: Option<&Entry>, mode: u16, node: &Node, second: u64) -> u64 {
    old.filter(|old| inherits(old, mode, node))
        .map_or(second, |old| old.mtime)
}

fn inherits(old: &Entry, mode: u16, node: &Node) -> bool {
    old.mode == mode && old.node.same_content(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::blob::Blob;
    use crate::model::name::Name;

    fn file(bytes: &[u8]) -> Node {
        Node::File(Blob::single(bytes))
    }

    #[test]
    fn p7_seconds_only_grow_even_when_the_clock_steps_back() {
        assert_eq!(seal_second(100, 0), 100);
        assert_eq!(seal_second(100, 100), 101);
        assert_eq!(seal_second(50, 101), 102);
    }

    #[test]
    fn p7_same_bytes_and_mode_keep_the_mtime_and_nothing_else_does() {
        let old = Entry {
            name: Name::new(b"a").unwrap(),
            mode: 0o444,
            mtime: 7,
            node: file(b"x"),
        };
        assert_eq!(entry_mtime(Some(&old), 0o444, &file(b"x"), 9), 7);
        assert_eq!(entry_mtime(Some(&old), 0o555, &file(b"x"), 9), 9);
        assert_eq!(entry_mtime(Some(&old), 0o444, &file(b"y"), 9), 9);
        assert_eq!(entry_mtime(None, 0o444, &file(b"x"), 9), 9);
    }
}
