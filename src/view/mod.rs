//! The mounted view: what the kernel sees of the deploys, how it numbers them, and how a flip reaches it.
//!
//! ```text
//! nodes.rs      node numbers: a hash of what a node is, and the table of those the kernel holds
//! tree_fs.rs    the filesystem as plain functions: lookup, getattr, readdir, read, readlink; no FUSE in it
//! counters.rs   how often the kernel asked, by kind of call
//! fuse.rs       decode, count, one call, reply: the only place that chooses an errno
//! flip.rs       `View`: publish, barrier, retire, on a thread of its own
//! discard.rs    trees that nobody is shown any more: out of the kernel's cache, in the background
//! listable.rs   who may list the mount's own folders
//! lock_holders.rs  processes that keep a flip waiting
//! open_files.rs processes that have something of a removed deploy open
//! own_mount.rs  looking names up in our own mount, on a thread that a kill cannot leave behind
//! mounts.rs     the kernel's mount table: which paths are mounts of ours, and which of them are dead
//! mount.rs      mounting, unmounting, and the end of a session
//! ```
//! A request thread never notifies the kernel, and nothing here holds a lock while it does: the kernel may wait for a
//! request thread to take that very lock.

pub mod counters;
mod discard;
pub mod flip;
mod fuse;
mod listable;
pub mod lock_holders;
pub mod mount;
pub mod mounts;
pub mod nodes;
pub mod open_files;
mod own_mount;
pub mod tree_fs;

#[cfg(test)]
mod real_mount_tests;
#[cfg(test)]
mod test_content;

pub use counters::Counts;
pub use flip::{Underway, View};
pub use listable::Listable;
pub use mount::{MountError, MountOptions, MountedView, check_mountpoint, has_fusermount, mount};
pub use mounts::{
    MountInfo, abort_mounts_of, device_of_mount, find_mount_of, living_mount_of, unmount_path,
};
pub use tree_fs::ReadError;
