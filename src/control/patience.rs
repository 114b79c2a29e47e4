//! Waiting for a daemon's answer: as long as it works, but not for one that somebody has stopped.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How often a silent daemon is looked at.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// How long it may be stopped: a debugger or a snapshot of the machine takes less.
const STOPPED_WAIT: Duration = Duration::from_secs(5);

/// Reads from the daemon at the other end.
pub struct Patient<'a> {
    stream: &'a UnixStream,
    daemon: Option<i32>,
    stopped_since: Option<Instant>,
}

impl<'a> Patient<'a> {
    /// Looks up who is at the other end; a daemon in another PID namespace is waited for whatever it does.
    pub fn new(stream: &'a UnixStream) -> Self {
        let peer = rustix::net::sockopt::socket_peercred(stream);
        Patient {
            stream,
            daemon: peer.ok().map(|peer| peer.pid.as_raw_pid()),
            stopped_since: None,
        }
    }

    /// Error: it has been stopped for too long.
    fn look_at_daemon(&mut self) -> io::Result<()> {
        let Some(pid) = self.daemon.filter(|&pid| is_stopped(pid)) else {
            self.stopped_since = None;
            return Ok(());
        };
        match self.stopped_since.get_or_insert_with(Instant::now) {
            since if since.elapsed() < STOPPED_WAIT => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process {pid} is stopped: 'kill -CONT {pid}' lets it go on"),
            )),
        }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match poll(&mut [PollFd::new(self.stream, PollFlags::IN)], Some(&LOOK)) {
                Ok(0) => self.look_at_daemon()?,
                Err(Errno::INTR) => {}
                Ok(_) => return self.stream.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// By a signal or by a debugger.
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may have spaces and parentheses.
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    state.starts_with(['T', 't'])
}
