//! A descriptor kept for the client that comes when there is no other: it would wait for ever.

use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;

/// The descriptor, if there was one left.
pub struct Spare {
    file: Option<File>,
    /// Set while clients wait, which the log has said.
    is_told: bool,
}

/// True for the answer of an accept that finds no descriptor.
pub fn is_needed(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

impl Spare {
    /// Takes one.
    pub fn new() -> Self {
        Spare {
            file: descriptor(),
            is_told: false,
        }
    }

    /// Called whenever a client could be accepted without it: it is taken again where it was lost.
    pub fn keep(&mut self) {
        self.is_told = false;
        if self.file.is_none() {
            self.file = descriptor();
        }
    }

    /// Waits for a client; where there is still no descriptor by then, it is refused.
    pub fn accept(
        &mut self,
        listener: &UnixListener,
        refuse: &dyn Fn(&UnixStream),
    ) -> Option<UnixStream> {
        self.file = None;
        let accepted = listener.accept();
        self.file = descriptor();
        match accepted {
            Ok((stream, _)) => {
                self.is_told = false;
                if self.file.is_some() {
                    return Some(stream);
                }
                refuse(&stream);
                drop(stream);
                self.file = descriptor();
            }
            // Another thread was faster, or the limit is below what was kept.
            Err(error) if is_needed(&error) => {
                if !self.is_told {
                    log::error!(
                        "control socket: clients wait, there is no file descriptor for them: {error}"
                    );
                }
                self.is_told = true;
            }
            Err(error) => log::warn!("control socket: {error}"),
        }
        None
    }
}

fn descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}
