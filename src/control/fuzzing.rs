//! The lines of the control socket, for a fuzzer: see `model/fuzzing.rs`.

use super::protocol::{ClientLine, REQUEST_MAX, ServerLine, VERSION, receive, send};
use crate::model::fuzzing::Decoder;
use crate::model::report::{Failure, FailureKind, Progress, Request};

/// The decoders of this room.
pub fn decoders() -> Vec<Decoder> {
    vec![Decoder::plain("control-line", lines, check)]
}

fn check(bytes: &[u8]) {
    let mut line = bytes;
    if let Ok(Some(request)) = receive::<ClientLine>(&mut line, REQUEST_MAX) {
        let again = encoded(&request);
        assert_eq!(
            receive(&mut again.as_slice(), REQUEST_MAX).expect("our own line"),
            Some(request)
        );
    }
    let mut line = bytes;
    receive::<ServerLine>(&mut line, REQUEST_MAX).ok();
}

fn encoded<T: serde::Serialize>(line: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(&mut bytes, line).expect("memory takes it");
    bytes
}

fn lines() -> Vec<Vec<u8>> {
    let client = |request| {
        encoded(&ClientLine {
            v: VERSION,
            request,
        })
    };
    vec![
        client(Request::Create { name: None }),
        client(Request::Lock {
            reason: "why".into(),
            until: Some(1_800_000_000),
        }),
        client(Request::Pin {
            target: "live".into(),
            message: "why".into(),
        }),
        encoded(&ServerLine::Progress(Progress::default())),
        encoded(&ServerLine::Failure(Failure {
            kind: FailureKind::Failed,
            message: "why".into(),
        })),
    ]
}
