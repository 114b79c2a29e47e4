//! The lines that client and server exchange. Knows only the model.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::report::{Answer, Failure, Progress, Request};

/// The version that both sides must speak.
pub const VERSION: u32 = 1;
/// The longest request, in bytes.
pub const REQUEST_MAX: u64 = 1 << 20;
/// The longest answer: a `list` or `diff` of a large store.
pub const ANSWER_MAX: u64 = 1 << 30;

/// What a client sends, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLine {
    /// [`VERSION`].
    pub v: u32,
    /// What it wants.
    pub request: Request,
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerLine {
    /// How far it has come.
    Progress(Progress),
    /// It is done.
    Answer(Box<Answer>),
    /// It was not done.
    Failure(Failure),
}

/// Where a store's control socket is.
pub fn socket_path(store: &Path) -> PathBuf {
    store.join("control.sock")
}

/// Writes one line.
pub fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of at most `max` bytes; none: the other side has closed.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead, max: u64) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(max).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Some(_) if line.len() as u64 == max => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a line is too long",
        )),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn read(bytes: &[u8], max: u64) -> io::Result<Option<ClientLine>> {
        receive(&mut BufReader::new(bytes), max)
    }

    #[test]
    fn a_request_comes_back() {
        let message = ClientLine {
            v: VERSION,
            request: Request::Show {
                target: "live".into(),
            },
        };
        let mut line = Vec::new();
        send(&mut line, &message).unwrap();
        assert_eq!(read(&line, REQUEST_MAX).unwrap(), Some(message));
    }

    #[test]
    fn rubbish_long_lines_cut_lines_and_silence_are_told_apart() {
        assert!(read(b"", 100).unwrap().is_none());
        assert_eq!(
            read(b"{\"v\":1", 100).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            read(b"rubbish\n", 100).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            read(&[b'x'; 200], 100).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
