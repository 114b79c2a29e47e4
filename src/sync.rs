//! Locks, atomics and threads of the rooms where threads meet over what is stored and removed: the standard library's. With the
//! feature `interleavings` they are shuttle's, which runs the threads of a test in an order of its own choice, another one each time.

#[cfg(not(feature = "interleavings"))]
pub use std::{
    sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, atomic},
    thread,
};

#[cfg(feature = "interleavings")]
pub use shuttle::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, atomic};

#[cfg(feature = "interleavings")]
pub mod thread {
    pub use shuttle::thread::*;

    /// Whoever waits lets all others go on first: no order of the threads is one of waiting alone.
    pub fn sleep(_: std::time::Duration) {
        yield_now();
    }
}
