//! The three kinds of id, each its own type, so that one cannot be passed for another.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the id it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {expected}")]
pub struct IdError {
    text: String,
    expected: &'static str,
}

macro_rules! hash_id {
    ($name:ident, $doc:literal, $expected:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                blake3::Hash::from_hex(text)
                    .map(|hash| $name(*hash.as_bytes()))
                    .map_err(|_| IdError {
                        text: text.to_owned(),
                        expected: $expected,
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id!(
    ChunkId,
    "BLAKE3 of a chunk's raw bytes: the name under which a pack holds them.",
    "a chunk id (64 hex digits)"
);
hash_id!(
    ContentId,
    "BLAKE3 of a file's whole content (what `b3sum` prints), or the content id of a tree (see [`crate::model::content`]).",
    "a content id (64 hex digits)"
);

impl ChunkId {
    /// The id of these raw bytes.
    pub fn of(raw: &[u8]) -> Self {
        ChunkId(*blake3::hash(raw).as_bytes())
    }
}

impl ContentId {
    /// The content id of a file with these bytes.
    pub fn of(raw: &[u8]) -> Self {
        ContentId(*blake3::hash(raw).as_bytes())
    }
}

/// The address of a deploy: the first 8 bytes of its root's content id, written as 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeployId([u8; 8]);

impl DeployId {
    /// How many hex digits an id has.
    pub const DIGITS: usize = 16;

    /// The deploy id of a root with this content id.
    pub fn of(root: &ContentId) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&root.0[..8]);
        DeployId(id)
    }

    /// All ids that start with these digits. `None` if no id can.
    pub fn range_of(prefix: &str) -> Option<RangeInclusive<DeployId>> {
        let missing = Self::DIGITS.checked_sub(prefix.len())?;
        if prefix.is_empty() {
            return None;
        }
        let filled = |digit: &str| format!("{prefix}{}", digit.repeat(missing)).parse().ok();
        Some(filled("0")?..=filled("f")?)
    }
}

impl fmt::Display for DeployId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for DeployId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeployId({self})")
    }
}

impl FromStr for DeployId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            text: text.to_owned(),
            expected: "a deploy id (16 lower-case hex digits)",
        };
        if text.len() != Self::DIGITS || !is_lower_hex(text) {
            return Err(wrong());
        }
        let number = u64::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(DeployId(number.to_be_bytes()))
    }
}

impl Serialize for DeployId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeployId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// True where every character is one of `0-9a-f`.
pub fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_id_is_the_start_of_the_content_id() {
        let root = ContentId::of(b"root");
        let id = DeployId::of(&root);
        assert!(root.to_string().starts_with(&id.to_string()));
        assert_eq!(id.to_string().parse::<DeployId>().unwrap(), id);
    }

    #[test]
    fn wrong_texts_are_refused_with_what_was_expected() {
        for text in [
            "",
            "live",
            "0123",
            "0123456789ABCDEF",
            "0123456789abcdef0",
            "+123456789abcdef",
        ] {
            let error = text.parse::<DeployId>().unwrap_err();
            assert!(
                error.to_string().contains("16 lower-case hex digits"),
                "{error}"
            );
        }
        assert!("zz".parse::<ChunkId>().is_err());
    }

    #[test]
    fn a_file_s_content_id_is_what_b3sum_prints() {
        // The published BLAKE3 test vector for the empty input.
        assert_eq!(
            ContentId::of(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }
}
