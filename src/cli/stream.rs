//! A stream of bytes whose reader can be interrupted while nothing comes.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a read waits before it checks for an interruption.
const POLL_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A file or pipe.
pub struct Stream {
    fd: OwnedFd,
    cancel: Arc<AtomicBool>,
}

impl Stream {
    /// Reads from `fd` until `cancel` is set.
    pub fn new(fd: OwnedFd, cancel: Arc<AtomicBool>) -> Self {
        Stream { fd, cancel }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&POLL_EVERY)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(rustix::io::read(&self.fd, buffer)?),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
