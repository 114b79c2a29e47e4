//! How long the texts are that a client may send. They stay in the history for good, and every daemon keeps them in memory, so they are
//! bounded. Records that an older deployfs wrote may be longer; those are read as they are.

use super::report::{ActivateRequest, Meta, Request, SealOptions};

/// A message or reason, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// A key of a fact, in bytes.
pub const META_KEY_BYTES_MAX: usize = 128;
/// The value of a fact, in bytes.
pub const META_VALUE_BYTES_MAX: usize = 4 << 10;
/// All keys and values of a deploy's facts together, in bytes.
pub const META_BYTES_MAX: usize = 16 << 10;
/// Facts of one deploy.
pub const META_COUNT_MAX: usize = 64;
/// What stands for a deploy: an id, a prefix, `@CHANNEL`; in bytes.
pub const TARGET_BYTES_MAX: usize = 300;
/// The end of a text that was cut.
const CUT: &str = " …";

/// Why a text of a request is not taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Too many bytes.
    #[error("{what} has at most {max} bytes, this one has {bytes}: give a shorter one")]
    TooLong {
        /// Which text.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The most it may have.
        max: usize,
    },
    /// Too many facts.
    #[error("a deploy has at most {META_COUNT_MAX} facts (--meta), these are {0}: give fewer")]
    TooManyFacts(usize),
    /// The facts are too long together.
    #[error(
        "the facts of a deploy (--meta) have at most {META_BYTES_MAX} bytes together, these have {0}: give shorter ones"
    )]
    FactsTooLong(usize),
    /// A byte that no program can be given in a variable or an argument.
    #[error("{0} must not hold a NUL byte")]
    Nul(&'static str),
}

/// Checks every text of a request.
pub fn check(request: &Request) -> Result<(), TextError> {
    match request {
        Request::Seal { options, .. } => check_options(options),
        Request::Deploy(request) => {
            request
                .from
                .iter()
                .try_for_each(|target| check_target(target))?;
            check_options(&request.options)
        }
        Request::Import(request) => check_options(&request.options),
        Request::Activate(request) | Request::Rollback(request) => check_activation(request),
        Request::SetChannel {
            target, message, ..
        }
        | Request::Pin { target, message }
        | Request::Unpin { target, message } => {
            check_target(target)?;
            check_message(message)
        }
        Request::CloseChannel { message, .. } | Request::Unlock { message } => {
            check_message(message)
        }
        Request::Prune(request) => check_message(&request.message),
        Request::Lock { reason, .. } => check_text("a reason", reason, MESSAGE_BYTES_MAX),
        Request::Remove {
            targets, message, ..
        } => {
            targets.iter().try_for_each(|target| check_target(target))?;
            check_message(message)
        }
        Request::Usage { targets } => targets.iter().try_for_each(|target| check_target(target)),
        Request::Show { target } | Request::Export { target } => check_target(target),
        Request::Verify { target } => target.iter().try_for_each(|target| check_target(target)),
        Request::Diff { a, b } => check_target(a).and_then(|()| check_target(b)),
        Request::Create { .. }
        | Request::Abort { .. }
        | Request::Channels
        | Request::Gc { .. }
        | Request::List
        | Request::Log { .. }
        | Request::Status
        | Request::Fsck { .. }
        | Request::Scrub { .. }
        | Request::Shutdown => Ok(()),
    }
}

fn check_activation(request: &ActivateRequest) -> Result<(), TextError> {
    let targets = request.target.iter().chain(&request.if_live);
    targets
        .into_iter()
        .try_for_each(|target| check_target(target))?;
    check_message(&request.message)
}

fn check_options(options: &SealOptions) -> Result<(), TextError> {
    check_message(&options.message)?;
    check_meta(&options.meta)
}

fn check_meta(meta: &Meta) -> Result<(), TextError> {
    for (key, value) in meta {
        check_text("the key of a fact", key, META_KEY_BYTES_MAX)?;
        check_text("the value of a fact", value, META_VALUE_BYTES_MAX)?;
    }
    if meta.len() > META_COUNT_MAX {
        return Err(TextError::TooManyFacts(meta.len()));
    }
    match bytes_of(meta) {
        bytes if bytes > META_BYTES_MAX => Err(TextError::FactsTooLong(bytes)),
        _ => Ok(()),
    }
}

fn bytes_of(meta: &Meta) -> usize {
    let facts = meta.iter();
    facts.map(|(key, value)| key.len() + value.len()).sum()
}

fn check_message(message: &str) -> Result<(), TextError> {
    check_text("a message", message, MESSAGE_BYTES_MAX)
}

fn check_target(target: &str) -> Result<(), TextError> {
    check_text("a deploy's id or name", target, TARGET_BYTES_MAX)
}

fn check_text(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.len() > max {
        return Err(TextError::TooLong {
            what,
            bytes: text.len(),
            max,
        });
    }
    match text.contains('\0') {
        true => Err(TextError::Nul(what)),
        false => Ok(()),
    }
}

/// Cuts a message from elsewhere, such as another store's, to what a request may hold. True if something was cut off.
pub fn cut_message(message: &mut String) -> bool {
    let had_nul = message.contains('\0');
    message.retain(|letter| letter != '\0');
    if message.len() <= MESSAGE_BYTES_MAX {
        return had_nul;
    }
    let mut end = MESSAGE_BYTES_MAX - CUT.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message.push_str(CUT);
    true
}

/// Drops facts from elsewhere until the rest is what a request may hold, except those with a key in `kept`. Returns the keys of those
/// that were dropped.
pub fn cut_meta(meta: &mut Meta, kept: &Meta) -> Vec<String> {
    let mut dropped = Vec::new();
    let is_too_long = |key: &str, value: &str| {
        let one = Meta::from([(key.to_owned(), value.to_owned())]);
        check_meta(&one).is_err()
    };
    meta.retain(|key, value| {
        let stays = kept.contains_key(key) || !is_too_long(key, value);
        if !stays {
            dropped.push(key.clone());
        }
        stays
    });
    while check_meta(meta).is_err() {
        let Some(last) = meta.keys().rfind(|key| !kept.contains_key(*key)).cloned() else {
            break;
        };
        meta.remove(&last);
        dropped.push(last);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(message: &str, meta: &[(String, String)]) -> Request {
        Request::Seal {
            name: "v1".parse().unwrap(),
            options: SealOptions {
                message: message.into(),
                meta: meta.iter().cloned().collect(),
                ..SealOptions::default()
            },
        }
    }

    fn facts(count: usize, key_bytes: usize, value_bytes: usize) -> Vec<(String, String)> {
        let fact = |number| {
            let key = format!("{number:0>key_bytes$}");
            (key, "v".repeat(value_bytes))
        };
        (0..count).map(fact).collect()
    }

    #[test]
    fn texts_up_to_the_limit_are_taken_and_one_byte_more_is_not() {
        let at_limit = [
            seal(&"m".repeat(MESSAGE_BYTES_MAX), &[]),
            seal("", &facts(META_COUNT_MAX, 8, 8)),
            seal("", &facts(1, META_KEY_BYTES_MAX, META_VALUE_BYTES_MAX)),
            seal("", &facts(4, 96, META_VALUE_BYTES_MAX - 96)),
        ];
        for request in at_limit {
            assert_eq!(check(&request), Ok(()));
        }
        let beyond = [
            seal(&"m".repeat(MESSAGE_BYTES_MAX + 1), &[]),
            seal("a\0b", &[]),
            seal("", &facts(META_COUNT_MAX + 1, 8, 8)),
            seal("", &facts(1, META_KEY_BYTES_MAX + 1, 1)),
            seal("", &facts(1, 1, META_VALUE_BYTES_MAX + 1)),
            seal("", &facts(5, 96, META_VALUE_BYTES_MAX - 96)),
            Request::Lock {
                reason: "r".repeat(MESSAGE_BYTES_MAX + 1),
                until: None,
            },
            Request::Show {
                target: "f".repeat(TARGET_BYTES_MAX + 1),
            },
            Request::Activate(ActivateRequest {
                if_live: Some("f".repeat(TARGET_BYTES_MAX + 1)),
                ..ActivateRequest::default()
            }),
        ];
        for request in beyond {
            assert!(check(&request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn what_comes_from_another_store_is_cut_to_what_is_taken() {
        let mut message = format!("{}ä\0", "m".repeat(MESSAGE_BYTES_MAX));
        assert!(cut_message(&mut message));
        assert!(message.len() <= MESSAGE_BYTES_MAX && message.ends_with('…'));
        let mut short = "short".to_owned();
        assert!(!cut_message(&mut short));
        assert_eq!(short, "short");

        let kept: Meta = facts(1, 3, 3).into_iter().collect();
        let mut meta: Meta = facts(200, 3, 3).into_iter().collect();
        meta.insert("long".into(), "v".repeat(META_VALUE_BYTES_MAX + 1));
        let before = meta.len();
        let dropped = cut_meta(&mut meta, &kept);
        assert_eq!(
            check(&seal("", &meta.clone().into_iter().collect::<Vec<_>>())),
            Ok(())
        );
        assert_eq!(meta.len() + dropped.len(), before);
        assert_eq!(meta.len(), META_COUNT_MAX);
        assert!(meta.contains_key("000") && dropped.contains(&"long".to_owned()));
    }
}
