//! The history: one JSON record a line, each chained to the one before it by hash and closed by its own checksum.
//!
//! ```text
//! {"seq":2,"time":…,"actor":"…","verb":"seal",…,"last_mtime":…,"prev":"<sum of record 1>","sum":"<checksum>"}\n
//! ```
//! `sum` is BLAKE3 of the line up to, and not including, `,"sum":`; `prev` is the `sum` of the record before, 64 zeros
//! for the first. A line that does not end in its own checksum is torn or damaged.

use serde::{Deserialize, Serialize};

use super::ids::{ContentId, DeployId};
use super::name::ChannelName;
use super::report::Meta;

/// What a record says has happened. A line with another verb is from a newer deployfs: nothing may be written after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// The store was made.
    Init,
    /// A deploy was sealed, or its content was sealed again.
    Seal,
    /// A deploy was made what a channel shows: live, if the channel is `live`.
    Activate,
    /// An earlier deploy was made live.
    Rollback,
    /// A channel was taken away, by somebody or because its time was over.
    Close,
    /// Somebody asked that what is live stays so.
    Lock,
    /// That was taken back.
    Unlock,
    /// A deploy was removed.
    Remove,
    /// A deploy is kept until it is unpinned.
    Pin,
    /// A deploy is no longer pinned.
    Unpin,
}

impl Verb {
    /// The word in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Init => "init",
            Verb::Seal => "seal",
            Verb::Activate => "activate",
            Verb::Rollback => "rollback",
            Verb::Close => "close",
            Verb::Lock => "lock",
            Verb::Unlock => "unlock",
            Verb::Remove => "remove",
            Verb::Pin => "pin",
            Verb::Unpin => "unpin",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    /// Whole seconds since 1970, as the clock said.
    pub time: u64,
    /// Who.
    pub actor: String,
    /// What.
    pub verb: Verb,
    /// The channel that an activation, rollback or close is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelName>,
    /// Which deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deploy: Option<DeployId>,
    /// The whole content id of a sealed deploy's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentId>,
    /// The transaction of a seal: names the frozen staging folder that it used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// When a lock, or a channel, ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The number of the lock that an activation or rollback passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Free facts.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The latest second that any seal has used as an mtime, 0 before the first.
    pub last_mtime: u64,
    /// The checksum of the record before.
    pub prev: String,
}

/// [`Record::prev`] of the first record.
pub const NO_RECORD: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const SUM_KEY: &[u8] = b",\"sum\":\"";
const SUM_FIELD: usize = SUM_KEY.len() + 64 + 2;

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not end in its own checksum: torn or damaged.
    #[error("its checksum does not fit")]
    Checksum,
    /// It is whole, but says what this deployfs does not know.
    #[error("it is whole but not understood ({0}): use a newer deployfs")]
    Unknown(String),
}

/// The line of a record, its newline included, and its checksum.
pub fn encode_line(record: &Record) -> (Vec<u8>, String) {
    let mut line = serde_json::to_vec(record).expect("a record has only text keys");
    line.pop();
    let sum = blake3::hash(&line).to_hex().to_string();
    line.extend_from_slice(SUM_KEY);
    line.extend_from_slice(sum.as_bytes());
    line.extend_from_slice(b"\"}\n");
    (line, sum)
}

/// Reads one line (without its newline): the record and its checksum.
pub fn decode_line(line: &[u8]) -> Result<(Record, String), LineError> {
    let at = line
        .len()
        .checked_sub(SUM_FIELD)
        .ok_or(LineError::Checksum)?;
    let (body, field) = line.split_at(at);
    let sum = blake3::hash(body).to_hex().to_string();
    let expected = [SUM_KEY, sum.as_bytes(), b"\"}"].concat();
    if field != expected {
        return Err(LineError::Checksum);
    }
    let mut object = body.to_vec();
    object.push(b'}');
    match serde_json::from_slice(&object) {
        Ok(record) => Ok((record, sum)),
        Err(error) => Err(LineError::Unknown(error.to_string())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn record(seq: u64, verb: Verb, deploy: Option<DeployId>, prev: &str) -> Record {
        Record {
            seq,
            time: 1_700_000_000 + seq,
            actor: "root".into(),
            verb,
            channel: matches!(verb, Verb::Activate | Verb::Rollback).then(ChannelName::live),
            deploy,
            content: None,
            txn: None,
            until: None,
            overrides: None,
            message: String::new(),
            meta: Meta::new(),
            last_mtime: 0,
            prev: prev.into(),
        }
    }

    #[test]
    fn golden_line() {
        let (line, _) = encode_line(&record(1, Verb::Init, None, NO_RECORD));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            format!(
                "{{\"seq\":1,\"time\":1700000001,\"actor\":\"root\",\"verb\":\"init\",\"last_mtime\":0,\
                 \"prev\":\"{NO_RECORD}\",\"sum\":\"11d6711b494689ba8a922b7df3f4a5947d76fc73ef01c6e310860bf8991f2913\"}}\n"
            )
        );
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let (line, sum) = encode_line(&record(7, Verb::Seal, None, NO_RECORD));
        let line = &line[..line.len() - 1];
        assert_eq!(decode_line(line).unwrap().1, sum);
        for at in 0..line.len() {
            let mut bad = line.to_vec();
            bad[at] ^= 1;
            assert!(decode_line(&bad).is_err(), "byte {at}");
            assert!(decode_line(&line[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_unknown_verb_is_told_from_damage() {
        let body = br#"{"seq":1,"time":1,"actor":"","verb":"purge","last_mtime":0,"prev":"""#;
        let sum = blake3::hash(body).to_hex();
        let line = [body.as_slice(), SUM_KEY, sum.as_bytes(), b"\"}"].concat();
        assert!(matches!(decode_line(&line), Err(LineError::Unknown(_))));
    }

    proptest! {
        #[test]
        fn texts_of_all_kinds_come_back(message: String, key: String, value: String) {
            let mut one = record(3, Verb::Seal, None, NO_RECORD);
            one.message = message;
            one.meta.insert(key, value);
            let (line, _) = encode_line(&one);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(decode_line(&line[..line.len() - 1]).unwrap().0, one);
        }
    }
}
