//! Who may list the mount's own folders.
//!
//! A listing holds the folder's lock in the kernel while the names are written to the reader's memory, and a flip waits for
//! that lock. Memory that never arrives (a page of the reader's own FUSE filesystem) holds it for ever. So whoever may list a
//! folder whose names change can hold up every flip, and then every visitor.

/// Who may list the root, `deploys` and `channels`. Everybody may walk through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listable {
    /// All users of the machine.
    Everybody,
    /// The mount's owner, and the members of this group.
    Group(u32),
    /// The same; and no other user may list any folder of a deploy.
    GroupOnly(u32),
}

impl Listable {
    /// Mode and group of such a folder in a mount whose files have the group `gid`.
    pub(super) fn rights(self, gid: u32) -> (u16, u32) {
        match self {
            Listable::Everybody => (0o555, gid),
            Listable::Group(group) | Listable::GroupOnly(group) => (0o551, group),
        }
    }

    /// The mode of a folder of a deploy that was sealed with this one.
    pub(super) fn sealed_folder(self, mode: u16) -> u16 {
        match self {
            Listable::Everybody | Listable::Group(_) => mode,
            Listable::GroupOnly(_) => mode & !0o004,
        }
    }
}
