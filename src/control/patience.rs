//! Waiting for a daemon's answer: as long as it works, but not for one that is stopped, killed, or takes no clients.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::process::State;

/// How often a silent daemon is looked at. What counts is how often it was found so: while the whole machine is paused, the clock may
/// go on, and nobody looks.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// In so many looks it may be stopped: a debugger takes less.
const STOPPED_LOOKS: u32 = 10;
/// In so many it may be killed and still there: its threads end one after the other.
const KILLED_LOOKS: u32 = 3;
/// In so many, a minute's, it may leave the request unread: it has other clients to answer, or a disk that is slow.
const UNREAD_LOOKS: u32 = 120;

/// Why a daemon does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// By a signal or by a debugger.
    Stopped,
    /// It has been killed, and one of its threads has not ended.
    Killed,
    /// The request has not been read.
    Unread,
}

impl Silence {
    fn looks(self) -> u32 {
        match self {
            Silence::Stopped => STOPPED_LOOKS,
            Silence::Killed => KILLED_LOOKS,
            Silence::Unread => UNREAD_LOOKS,
        }
    }

    fn told_of(self, pid: i32) -> String {
        match self {
            Silence::Stopped => {
                format!("process {pid} is stopped: 'kill -CONT {pid}' lets it go on")
            }
            Silence::Killed => {
                format!("process {pid} has been killed and cannot end: 'deployfs log' ends it")
            }
            Silence::Unread => format!(
                "process {pid} has not taken the request for a minute: its log says whether it lacks file descriptors"
            ),
        }
    }
}

/// Reads from the daemon at the other end.
pub struct Patient<'a> {
    stream: &'a UnixStream,
    daemon: Option<i32>,
    /// Why it was silent when it was last looked at, and how often in a row.
    silent: Option<(Silence, u32)>,
}

impl<'a> Patient<'a> {
    /// Looks up who is at the other end; a daemon in another PID namespace is waited for whatever it does.
    pub fn new(stream: &'a UnixStream) -> Self {
        let peer = rustix::net::sockopt::socket_peercred(stream);
        Patient {
            stream,
            daemon: peer.ok().map(|peer| peer.pid.as_raw_pid()),
            silent: None,
        }
    }

    /// Error: it has been silent for too long, for a reason other than its work.
    fn look_at_daemon(&mut self) -> io::Result<()> {
        let Some(pid) = self.daemon else {
            return Ok(());
        };
        let Some(now) = self.silence(pid) else {
            self.silent = None;
            return Ok(());
        };
        let before = self.silent.filter(|(before, _)| *before == now);
        let looks = before.map_or(0, |(_, looks)| looks) + 1;
        self.silent = Some((now, looks));
        if looks < now.looks() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, now.told_of(pid)))
    }

    fn silence(&self, pid: i32) -> Option<Silence> {
        match State::of(pid) {
            Some(state) if state.is_stopped() => Some(Silence::Stopped),
            Some(state) if state.is_killed() => Some(Silence::Killed),
            _ => has_unread(self.stream).then_some(Silence::Unread),
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

/// True while the other end has not read all that was sent, also once the connection has ended.
pub fn has_unread(stream: &UnixStream) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: the request writes one int, to a live one (see unix(7), SIOCOUTQ).
    let answer = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &mut unread) };
    answer == 0 && unread > 0
}
