//! A descriptor kept for the client that comes when there is no other: it would wait for ever.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;

/// The descriptor, if there was one left.
pub struct Spare(Option<File>);

/// True for the answer of an accept that finds no descriptor.
pub fn is_needed(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

impl Spare {
    /// Takes one.
    pub fn new() -> Self {
        Spare(File::open("/dev/null").ok())
    }

    /// Waits for a client; where there is still no descriptor by then, it is refused.
    pub fn accept(
        &mut self,
        listener: &UnixListener,
        refuse: &dyn Fn(&UnixStream),
    ) -> Option<UnixStream> {
        self.0 = None;
        let (stream, _) = listener.accept().ok()?;
        *self = Spare::new();
        if self.0.is_some() {
            return Some(stream);
        }
        refuse(&stream);
        drop(stream);
        *self = Spare::new();
        None
    }
}
