//! What changed between two deploys: walks both trees at once and skips what is equal.

use std::borrow::Cow;
use std::sync::Arc;

use super::blob::Blob;
use super::ids::DeployId;
use super::report::{Change, ChangeCounts, DiffEntry};
use super::sealed_tree::SealedTree;
use super::tree::{Entry, Node, Tree};

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the deploy's root.
    pub path: Vec<u8>,
    /// What happened to it.
    pub change: Change,
    /// Its size in the first deploy; none for a directory.
    pub old_size: Option<u64>,
    /// Its size in the second deploy.
    pub new_size: Option<u64>,
}

impl Difference {
    /// True where it is no file and no symlink.
    pub fn is_dir(&self) -> bool {
        self.old_size.is_none() && self.new_size.is_none()
    }
}

impl From<Difference> for DiffEntry {
    fn from(difference: Difference) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let is_text = std::str::from_utf8(&difference.path).is_ok();
        DiffEntry {
            path: String::from_utf8_lossy(&difference.path).into_owned(),
            path_hex: (!is_text).then(|| hex(&difference.path)),
            change: difference.change,
            old_size: difference.old_size,
            new_size: difference.new_size,
        }
    }
}

/// How much these are, counted from `against`.
pub fn count<'a>(
    against: Option<DeployId>,
    differences: impl IntoIterator<Item = &'a Difference>,
) -> ChangeCounts {
    let mut counts = ChangeCounts {
        against,
        ..ChangeCounts::default()
    };
    for one in differences {
        count_one(&mut counts, one);
    }
    counts
}

/// Adds one.
pub fn count_one(counts: &mut ChangeCounts, one: &Difference) {
    if one.is_dir() {
        return;
    }
    let count = match one.change {
        Change::Added => &mut counts.added,
        Change::Removed => &mut counts.removed,
        Change::Modified => &mut counts.changed,
        Change::Mode => &mut counts.permissions,
    };
    count.files += 1;
    count.bytes += one.new_size.or(one.old_size).unwrap_or(0);
}

/// A tree, in whatever form: its entries by ascending name.
pub trait Entries {
    /// All of them.
    fn each(&self) -> Box<dyn Iterator<Item = Cow<'_, Entry>> + '_>;
}

impl Entries for Arc<Tree> {
    fn each(&self) -> Box<dyn Iterator<Item = Cow<'_, Entry>> + '_> {
        Box::new(self.entries().iter().map(Cow::Borrowed))
    }
}

impl Entries for Arc<SealedTree> {
    fn each(&self) -> Box<dyn Iterator<Item = Cow<'_, Entry>> + '_> {
        Box::new(self.entries_from(0).map(Cow::Owned))
    }
}

/// Collects the paths that differ. `fetch` gives a stored tree.
pub fn diff<T: Entries, E>(
    a: &T,
    b: &T,
    fetch: &mut dyn FnMut(&Blob) -> Result<T, E>,
) -> Result<Vec<Difference>, E> {
    let mut found = Vec::new();
    diff_each(a, b, fetch, &mut |one| found.push(one))?;
    Ok(found)
}

/// Hands on each path that differs. `fetch` gives a stored tree.
pub fn diff_each<T: Entries, E>(
    a: &T,
    b: &T,
    fetch: &mut dyn FnMut(&Blob) -> Result<T, E>,
    take: &mut dyn FnMut(Difference),
) -> Result<(), E> {
    Walk { fetch, take }.dirs(b"", a, b)
}

struct Walk<'a, T, E> {
    fetch: &'a mut dyn FnMut(&Blob) -> Result<T, E>,
    take: &'a mut dyn FnMut(Difference),
}

impl<T: Entries, E> Walk<'_, T, E> {
    fn dirs(&mut self, path: &[u8], a: &T, b: &T) -> Result<(), E> {
        let (mut old, mut new) = (a.each().peekable(), b.each().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(left), Some(right)) => left.name.cmp(&right.name),
            };
            match order {
                std::cmp::Ordering::Less => {
                    if let Some(entry) = old.next() {
                        self.one_side(path, &entry, Change::Removed)?;
                    }
                }
                std::cmp::Ordering::Greater => {
                    if let Some(entry) = new.next() {
                        self.one_side(path, &entry, Change::Added)?;
                    }
                }
                std::cmp::Ordering::Equal => {
                    if let (Some(left), Some(right)) = (old.next(), new.next()) {
                        self.both(path, &left, &right)?;
                    }
                }
            }
        }
    }

    fn both(&mut self, path: &[u8], old: &Entry, new: &Entry) -> Result<(), E> {
        let above = path;
        let path = join(above, new);
        let same = old.node.same_content(&new.node);
        match (&old.node, &new.node) {
            (Node::Dir { tree: a, .. }, Node::Dir { tree: b, .. }) => {
                if old.mode != new.mode {
                    self.add(path.clone(), Change::Mode, Some(&old.node), Some(&new.node));
                }
                if same {
                    return Ok(());
                }
                let (a, b) = ((self.fetch)(a)?, (self.fetch)(b)?);
                self.dirs(&path, &a, &b)
            }
            (Node::Dir { .. }, _) | (_, Node::Dir { .. }) => {
                self.one_side(above, old, Change::Removed)?;
                self.one_side(above, new, Change::Added)
            }
            (Node::File(_) | Node::Symlink(_), Node::File(_) | Node::Symlink(_)) => {
                let change = if same { Change::Mode } else { Change::Modified };
                if !same || old.mode != new.mode {
                    self.add(path, change, Some(&old.node), Some(&new.node));
                }
                Ok(())
            }
        }
    }

    fn one_side(&mut self, path: &[u8], entry: &Entry, change: Change) -> Result<(), E> {
        let path = join(path, entry);
        let (old, new) = match change {
            Change::Removed => (Some(&entry.node), None),
            Change::Added | Change::Modified | Change::Mode => (None, Some(&entry.node)),
        };
        self.add(path.clone(), change, old, new);
        if let Node::Dir { tree, .. } = &entry.node {
            let tree = (self.fetch)(tree)?;
            for below in tree.each() {
                self.one_side(&path, &below, change)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: Vec<u8>, change: Change, old: Option<&Node>, new: Option<&Node>) {
        let (old_size, new_size) = (old.and_then(size), new.and_then(size));
        (self.take)(Difference {
            path,
            change,
            old_size,
            new_size,
        });
    }
}

fn size(node: &Node) -> Option<u64> {
    match node {
        Node::File(blob) => Some(blob.len),
        Node::Symlink(target) => Some(target.len() as u64),
        Node::Dir { .. } => None,
    }
}

fn join(path: &[u8], entry: &Entry) -> Vec<u8> {
    let name = entry.name.as_bytes();
    match path {
        [] => name.to_vec(),
        _ => [path, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::content::tree_content_id;
    use crate::model::ids::ContentId;
    use crate::model::name::Name;
    use std::collections::HashMap;

    fn entry(name: &str, mode: u16, node: Node) -> Entry {
        Entry {
            name: Name::new(name.as_bytes()).unwrap(),
            mode,
            mtime: 1,
            node,
        }
    }

    fn file(name: &str, bytes: &str) -> Entry {
        entry(name, 0o444, Node::File(Blob::single(bytes.as_bytes())))
    }

    #[derive(Default)]
    struct Trees(HashMap<ContentId, Tree>);

    impl Trees {
        fn dir(&mut self, name: &str, entries: Vec<Entry>) -> Entry {
            let tree = Tree::new(entries);
            let blob = Blob::single(&tree.encode());
            let content = tree_content_id(&tree);
            self.0.insert(blob.id, tree);
            entry(
                name,
                0o555,
                Node::Dir {
                    content,
                    tree: blob,
                },
            )
        }

        fn diff(&self, a: Vec<Entry>, b: Vec<Entry>) -> Vec<(String, Change)> {
            let fetch = &mut |blob: &Blob| self.0.get(&blob.id).cloned().map(Arc::new).ok_or(());
            let found = diff(&Arc::new(Tree::new(a)), &Arc::new(Tree::new(b)), fetch).unwrap();
            found
                .into_iter()
                .map(|one| (String::from_utf8(one.path).unwrap(), one.change))
                .collect()
        }
    }

    #[test]
    fn every_kind_of_change_is_found_below_directories_too() {
        let mut trees = Trees::default();
        let a = vec![
            trees.dir(
                "d",
                vec![file("same", "1"), file("other", "1"), file("gone", "1")],
            ),
            file("mode", "1"),
            file("becomes-dir", "1"),
        ];
        let b = vec![
            trees.dir(
                "d",
                vec![file("same", "1"), file("other", "2"), file("new", "1")],
            ),
            Entry {
                mode: 0o555,
                ..file("mode", "1")
            },
            trees.dir("becomes-dir", vec![file("x", "1")]),
        ];
        let expected = [
            ("becomes-dir", Change::Removed),
            ("becomes-dir", Change::Added),
            ("becomes-dir/x", Change::Added),
            ("d/gone", Change::Removed),
            ("d/new", Change::Added),
            ("d/other", Change::Modified),
            ("mode", Change::Mode),
        ];
        let expected: Vec<_> = expected
            .map(|(path, change)| (path.to_owned(), change))
            .into();
        assert_eq!(trees.diff(a.clone(), b), expected);
        assert_eq!(trees.diff(a.clone(), a), []);
    }

    #[test]
    fn a_path_that_is_no_text_can_be_told_from_every_other() {
        let entry = |path: &[u8]| {
            DiffEntry::from(Difference {
                path: path.to_vec(),
                change: Change::Added,
                old_size: None,
                new_size: Some(1),
            })
        };
        let (one, other) = (entry(b"a\xff"), entry(b"a\xfe"));
        assert_eq!(
            (one.path.as_str(), other.path.as_str()),
            ("a\u{fffd}", "a\u{fffd}")
        );
        assert_eq!(
            (one.raw_path(), other.raw_path()),
            (b"a\xff".to_vec(), b"a\xfe".to_vec())
        );
        let text = entry("ä\n".as_bytes());
        assert_eq!(
            (text.path_hex.clone(), text.raw_path()),
            (None, "ä\n".as_bytes().to_vec())
        );
    }

    #[test]
    fn equal_directories_are_not_even_fetched() {
        let mut trees = Trees::default();
        let a = vec![trees.dir("d", vec![file("x", "1")])];
        trees.0.clear();
        assert_eq!(trees.diff(a.clone(), a), []);
    }
}
