//! The program of `deploy --tar-from`, which writes an archive. Its exit code says whether the archive is whole: tar ends a
//! complete archive also where it could not read some files, and only its exit code tells.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::Error;
use crate::archive::ArchiveError;

/// Runs the command in a shell in which each program of a pipe counts. Debian's sh has no such option.
const SHELL: &str = r#"if (set -o pipefail) 2>/dev/null; then set -o pipefail; eval "$1"
elif command -v bash >/dev/null; then exec bash -o pipefail -c "$1"
else eval "$1"; fi"#;
/// How long a program may take to end once its output is closed, and then after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(5);
const KILL_WAIT: Duration = Duration::from_secs(2);
const POLL_EVERY: Duration = Duration::from_millis(10);

/// The running program. Dropping it ends it.
pub struct Producer {
    command: String,
    child: Child,
    /// Without a terminal it has a process group of its own, and all that it started ends with it. On a terminal Ctrl-C reaches
    /// the whole group, and ssh can ask for a password.
    has_group: bool,
}

impl Producer {
    /// Starts it; returns it and the pipe that it writes to. It reads nothing, and its stderr is that of this process.
    pub fn start(command: &str) -> Result<(Self, OwnedFd), Error> {
        let has_group = std::fs::File::open("/dev/tty").is_err();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", SHELL, "sh", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if has_group {
            shell.process_group(0);
        }
        let mut child = shell
            .spawn()
            .map_err(|error| Error::failed(format!("'sh' cannot be started: {error}")))?;
        let output = child.stdout.take().expect("it is piped");
        let producer = Producer {
            command: command.to_owned(),
            child,
            has_group,
        };
        Ok((producer, output.into()))
    }

    /// Waits for the program's end. An error if it failed, whatever the archive looks like, or if the archive was refused.
    pub fn finish(
        mut self,
        unpacked: Result<(), ArchiveError>,
        cancel: &AtomicBool,
    ) -> Result<(), Error> {
        match unpacked {
            Ok(()) => match self.wait(None, cancel)? {
                Some(status) if status.success() => Ok(()),
                Some(status) => Err(self.failed(status, "")),
                None => Err(Error::failed("interrupted: nothing was deployed")),
            },
            Err(refusal) => match self.wait(Some(END_WAIT), cancel)? {
                // It met the pipe that was closed after the refusal.
                Some(status) if status.success() || is_broken_pipe(status) => {
                    Err(refused(&refusal))
                }
                Some(status) => Err(self.failed(status, &format!("; {refusal}"))),
                None => Err(refused(&refusal)),
            },
        }
    }

    fn failed(&self, status: ExitStatus, more: &str) -> Error {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "failed".into(),
        };
        Error::failed(format!(
            "the program that writes the archive {how}, so nothing was deployed: '{}'{more}",
            self.command
        ))
    }

    /// `None` after this time, or once `cancel` is set.
    fn wait(
        &mut self,
        most: Option<Duration>,
        cancel: &AtomicBool,
    ) -> Result<Option<ExitStatus>, Error> {
        let started = Instant::now();
        loop {
            let ended = self.child.try_wait().map_err(|error| {
                Error::failed(format!(
                    "the end of '{}' is not known: {error}",
                    self.command
                ))
            })?;
            let is_over = cancel.load(Ordering::Relaxed)
                || most.is_some_and(|most| started.elapsed() >= most);
            if ended.is_some() || is_over {
                return Ok(ended);
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        let sent = match self.has_group {
            true => kill_process_group(pid, signal),
            false => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            log::debug!(
                "'{}' has ended already: {}",
                self.command,
                io::Error::from(error)
            );
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        let never = AtomicBool::new(false);
        if !matches!(self.wait(Some(KILL_WAIT), &never), Ok(Some(_))) {
            self.signal(Signal::KILL);
            self.child.wait().ok();
        }
    }
}

/// True where the program, or the last of a pipe, ended because nobody reads its output any more.
fn is_broken_pipe(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGPIPE) || status.code() == Some(128 + libc::SIGPIPE)
}

/// The error of an archive that is not taken.
pub fn refused(error: &ArchiveError) -> Error {
    Error::failed(format!(
        "the archive is refused and nothing was deployed: {error}"
    ))
}
