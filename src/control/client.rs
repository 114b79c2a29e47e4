//! Asking a daemon.

use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::descriptor::send_with;
use super::patience::Patient;
use super::protocol::{ANSWER_MAX, ClientLine, ServerLine, VERSION, receive, send, socket_path};
use crate::model::report::{Answer, Failure, FailureKind, Progress, Request};

/// A connection to the daemon of a store.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// None: no daemon answers there.
    pub fn connect(store: &Path) -> Result<Option<Self>, Failure> {
        match UnixStream::connect(socket_path(store)) {
            Ok(stream) => Ok(Some(Client { stream })),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(format!(
                "you may not use '{}': be root, the daemon's user, or in its --control-group",
                socket_path(store).display()
            ))),
            Err(_) => Ok(None),
        }
    }

    /// Ends the connection: the daemon gives up what is not recorded yet, and [`Client::call`] fails.
    pub fn hang_up(&self) {
        // Ended already: that is what was wanted.
        self.stream.shutdown(Shutdown::Both).ok();
    }

    /// Sends the request and waits for its end.
    pub fn call(&self, request: &Request, progress: &dyn Fn(Progress)) -> Result<Answer, Failure> {
        self.call_with(request, None, progress)
    }

    /// The same, with an open file for the daemon to read from or write to.
    pub fn call_with(
        &self,
        request: &Request,
        file: Option<BorrowedFd<'_>>,
        progress: &dyn Fn(Progress),
    ) -> Result<Answer, Failure> {
        let line = ClientLine {
            v: VERSION,
            request: request.clone(),
        };
        // A server that refuses before it has read the request closes early: its answer says why.
        let sent = match file {
            Some(file) => send(
                Carrier {
                    stream: &self.stream,
                    file: Some(file),
                },
                &line,
            ),
            None => send(&self.stream, &line),
        };
        let mut reader = BufReader::new(Patient::new(&self.stream));
        loop {
            match receive(&mut reader, ANSWER_MAX) {
                Ok(Some(ServerLine::Progress(state))) => progress(state),
                Ok(Some(ServerLine::Answer(answer))) => return Ok(*answer),
                Ok(Some(ServerLine::Failure(failure))) => return Err(failure),
                Ok(None) => {
                    let cause = sent
                        .err()
                        .map_or(String::new(), |error| format!(" ({error})"));
                    return Err(failed(format!(
                        "the daemon ended before it answered{cause}: 'deployfs log' shows whether the change was recorded"
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(failed(format!("the daemon does not answer: {error}")));
                }
                Err(error) => {
                    return Err(failed(format!(
                        "the daemon's answer cannot be read: {error}"
                    )));
                }
            }
        }
    }
}

/// Sends the file with the first bytes.
struct Carrier<'a> {
    stream: &'a UnixStream,
    file: Option<BorrowedFd<'a>>,
}

impl Write for Carrier<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.file {
            Some(file) => {
                let sent = send_with(self.stream, bytes, file)?;
                self.file = None;
                Ok(sent)
            }
            None => self.stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(message: String) -> Failure {
    Failure {
        kind: FailureKind::Failed,
        message,
    }
}
