//! Names that are valid by construction: a path element of a deploy, the name of a staging folder, that of a channel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::DeployId;

/// The longest path element Linux allows, in bytes.
pub const NAME_MAX: usize = 255;

/// Why some bytes cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than [`NAME_MAX`].
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// Holds `/` or NUL.
    #[error("a name cannot hold '/' or a NUL byte")]
    Separator,
    /// `.` or `..`.
    #[error("'.' and '..' are not names")]
    Dots,
    /// A staging name with characters outside its small set.
    #[error(
        "a staging name starts with a letter or digit and has letters, digits, '.', '_' and '-' only, at most 100 of them: '{0}'"
    )]
    Staging(String),
    /// A channel name that is no file name, or could be taken for something else.
    #[error(
        "a channel is named like a file (1 to 255 bytes without '/', not '.' or '..'), without control characters, and not 'live', 'previous', 'none', '.retired-…' or 16 hex digits: '{0}'"
    )]
    Channel(String),
}

/// One element of a path inside a deploy: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Takes the bytes as a name, or says why they are none.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        Self::check(bytes)?;
        Ok(Name(bytes.into()))
    }

    /// Says why the bytes cannot be a name, if they cannot.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|&byte| byte == b'/' || byte == 0) => Err(NameError::Separator),
            _ => Ok(()),
        }
    }

    /// The bytes, as the kernel gives them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", String::from_utf8_lossy(&self.0))
    }
}

/// The name of a folder in staging: what a person types, so a small set of characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StagingName(String);

impl StagingName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StagingName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let first = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if first && text.len() <= 100 && text.bytes().all(allowed) {
            Ok(StagingName(text.to_owned()))
        } else {
            Err(NameError::Staging(text.to_owned()))
        }
    }
}

impl fmt::Display for StagingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for StagingName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StagingName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The name of a channel: a file name, since the mount shows it as one. `live` is the channel that every mount has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ChannelName(String);

/// How the names start under which the kernel keeps trees that are shown no more.
pub const RETIRED_PREFIX: &str = ".retired-";

impl ChannelName {
    /// The channel that every mount has.
    pub fn live() -> Self {
        ChannelName("live".into())
    }

    /// True for the channel that every mount has.
    pub fn is_live(&self) -> bool {
        self.0 == "live"
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why web servers do not show the channel under a host name made of its name, and the name to use instead. `None` where
    /// they do: one label of letters, digits and inner dashes, at most 63, none of them a capital.
    pub fn host_warning(&self) -> Option<String> {
        let name = &self.0;
        if name.len() == 16 && is_label(name) {
            return Some(format!(
                "packaging/web/apache.conf takes host names with 16 letters for deploy ids, and does not show '{name}': 'deployfs channel set {name}-x' makes one that it shows"
            ));
        }
        if is_label(name) {
            return None;
        }
        let free = label(name);
        Some(format!(
            "'{name}' is no label of a host name, so web servers do not show the channel at {name}.preview.example.com: 'deployfs channel set {free}' makes one that they show"
        ))
    }
}

/// The most letters of one label of a host name.
const LABEL_MAX: usize = 63;

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let has_inner_dashes = !name.starts_with('-') && !name.ends_with('-');
    (1..=LABEL_MAX).contains(&name.len()) && name.bytes().all(allowed) && has_inner_dashes
}

/// The label that is most like a name, and can be a channel's.
fn label(name: &str) -> String {
    let mut label = String::new();
    for letter in name.to_lowercase().chars() {
        match letter {
            'a'..='z' | '0'..='9' => label.push(letter),
            _ if label.is_empty() || label.ends_with('-') => {}
            _ => label.push('-'),
        }
    }
    label.truncate(LABEL_MAX - 2);
    let label = label.trim_end_matches('-');
    match label {
        "" => "preview".into(),
        _ if label.len() == 16 || label.parse::<ChannelName>().is_err() || label == "live" => {
            format!("{label}-x")
        }
        _ => label.into(),
    }
}

/// So that a table of channels can be asked for a text.
impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = matches!(text, "previous" | "none")
            || text.starts_with(RETIRED_PREFIX)
            || text.parse::<DeployId>().is_ok();
        let is_file_name = Name::new(text.as_bytes()).is_ok() && !text.contains(char::is_control);
        match is_file_name && !is_word {
            true => Ok(ChannelName(text.to_owned())),
            false => Err(NameError::Channel(text.to_owned())),
        }
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChannelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_named_like_files_and_like_nothing_else() {
        let long = "x".repeat(256);
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "a\nb",
            "a\0b",
            "previous",
            "none",
            ".retired-1",
            "0123456789abcdef",
            &long,
        ] {
            assert!(text.parse::<ChannelName>().is_err(), "{text:?}");
        }
        for text in ["preview", "PR 17", "änderung", ".hidden", "cafe", "live"] {
            assert_eq!(text.parse::<ChannelName>().unwrap().as_str(), text);
        }
        assert!(ChannelName::live().is_live());
    }

    #[test]
    fn a_channel_that_is_no_host_label_is_warned_of_with_the_name_to_use() {
        let long = "x".repeat(64);
        for (name, free) in [
            ("PR-17", "pr-17"),
            ("v1.2", "v1-2"),
            ("my_branch", "my-branch"),
            ("dash-", "dash"),
            ("-dash", "dash"),
            ("PR 17", "pr-17"),
            ("änderung", "nderung"),
            ("❤", "preview"),
            ("LIVE", "live-x"),
            ("sixteen-letters-", "sixteen-letters"),
            ("sixteen-letters1", "sixteen-letters1-x"),
            (&long, &*"x".repeat(61)),
        ] {
            let channel: ChannelName = name.parse().unwrap();
            let said = channel.host_warning().expect(name);
            assert!(
                said.contains(&format!("'deployfs channel set {free}'")),
                "{said}"
            );
            let other: ChannelName = free.parse().unwrap();
            assert_eq!(other.host_warning(), None);
        }
        for name in ["preview", "pr-17", "a", "1", &"x".repeat(63)] {
            assert_eq!(name.parse::<ChannelName>().unwrap().host_warning(), None);
        }
    }

    #[test]
    fn names_refuse_what_a_path_cannot_hold() {
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        assert_eq!(Name::new(b".."), Err(NameError::Dots));
        assert_eq!(Name::new(b"a/b"), Err(NameError::Separator));
        assert_eq!(Name::new(b"a\0b"), Err(NameError::Separator));
        assert_eq!(Name::new(&[b'x'; 256]), Err(NameError::TooLong(256)));
        assert!(Name::new(&[b'x'; 255]).is_ok());
        assert!(Name::new(b"\xff\xfe not utf-8").is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    #[test]
    fn staging_names_cannot_leave_staging() {
        for text in ["", ".sealing", "..", "a/b", "-x", "a b", &"x".repeat(101)] {
            assert!(text.parse::<StagingName>().is_err(), "{text:?}");
        }
        for text in ["site", "2026-11-23_build.7", "a"] {
            assert_eq!(text.parse::<StagingName>().unwrap().as_str(), text);
        }
    }
}
