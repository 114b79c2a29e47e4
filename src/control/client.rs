//! Asking a daemon.

use std::io::{self, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::descriptor::send_with;
use super::patience::{Patient, has_unread};
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

    /// Asks the daemon to stop: it gives up what is not recorded yet, and [`Client::call`] returns its last word.
    pub fn hang_up(&self) {
        // Ended already: that is what was wanted.
        self.stream.shutdown(Shutdown::Write).ok();
    }

    /// Sends the request and waits for its end.
    ///
    /// # Errors
    /// The daemon's refusal. [`FailureKind::Unknown`] where the daemon took the request and its answer did not arrive, unless the request
    /// only reads.
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
            let lost = match receive(&mut reader, ANSWER_MAX) {
                Ok(Some(ServerLine::Progress(state))) => {
                    progress(state);
                    continue;
                }
                Ok(Some(ServerLine::Answer(answer))) => return Ok(*answer),
                Ok(Some(ServerLine::Failure(failure))) => return Err(failure),
                Ok(None) => Lost::Ended,
                Err(error) => Lost::Error(error),
            };
            return Err(self.without_answer(request, sent.err(), lost));
        }
    }

    /// The failure where no answer came. After the connection's end the daemon carries nothing out that it has not read by then.
    fn without_answer(&self, request: &Request, unsent: Option<io::Error>, lost: Lost) -> Failure {
        // Ended already: that is what is wanted.
        self.stream.shutdown(Shutdown::Both).ok();
        let (what, was_dropped) = match lost {
            Lost::Ended => (
                "the daemon ended before it answered".into(),
                unsent.is_some(),
            ),
            // The daemon's end of the connection was closed with the request still in it.
            Lost::Error(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                ("the daemon ended before it took the request".into(), true)
            }
            Lost::Error(error) if error.kind() == io::ErrorKind::TimedOut => (
                format!("the daemon does not answer: {error}"),
                has_unread(&self.stream),
            ),
            Lost::Error(error) => (
                format!("the daemon's answer cannot be read: {error}"),
                false,
            ),
        };
        let cause = unsent.map_or(String::new(), |error| format!(" ({error})"));
        let what = format!("{what}{cause}");
        if request.reads_only() {
            return failed(what);
        }
        match was_dropped {
            true => failed(format!(
                "{what}; it had not taken the request and drops it: nothing was changed"
            )),
            false => Failure {
                kind: FailureKind::Unknown,
                message: format!(
                    "{what}; it is not known whether this was carried out, or will be: 'deployfs log' shows it"
                ),
            },
        }
    }
}

/// Why no answer comes any more.
enum Lost {
    /// The daemon has closed the connection.
    Ended,
    /// The connection failed, the daemon is silent for too long, or the answer is not understood.
    Error(io::Error),
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
