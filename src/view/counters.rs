//! How often the kernel asked the daemon, by kind of call.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// Counters that request threads add to.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $field: AtomicU64,)*
        }

        /// The counters at one moment.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// The values now; each is exact, together they are not one instant.
            pub fn snapshot(&self) -> Counts {
                Counts { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// A name asked for in a directory.
    lookup,
    /// Attributes of a node.
    getattr,
    /// A part of a directory listing.
    readdir,
    /// Bytes of a file.
    read,
    /// The target of a symlink.
    readlink,
    /// Opens; the kernel stops after the first.
    open,
    /// Opens of directories; the kernel stops after the first.
    opendir,
    /// The size of the filesystem.
    statfs,
    /// Calls that would change something, all refused.
    refused,
    /// Everything else that waits for an answer.
    other,
    /// Nodes the kernel let go of; no process waits for these.
    forget,
    /// How often `live` has come to show another deploy since the mount.
    flips,
}

impl Counters {
    /// Counts one.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counts {
    /// All calls that a process waited for.
    pub fn upcalls(&self) -> u64 {
        let Counts {
            lookup,
            getattr,
            readdir,
            read,
            readlink,
            open,
            opendir,
            statfs,
            refused,
            other,
            forget: _,
            flips: _,
        } = self;
        lookup + getattr + readdir + read + readlink + open + opendir + statfs + refused + other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_and_flips_are_no_upcalls() {
        let counters = Counters::default();
        Counters::add(&counters.lookup);
        Counters::add(&counters.refused);
        Counters::add(&counters.forget);
        Counters::add(&counters.flips);
        let counts = counters.snapshot();
        assert_eq!(counts.upcalls(), 2);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), counts);
    }
}
