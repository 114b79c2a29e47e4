//! The deploy file: what a store keeps of one deploy besides its bytes; one line of JSON, then one with its checksum.

use serde::{Deserialize, Serialize};

use super::blob::{Blob, Layout};
use super::codec::{Reader, put_number};
use super::ids::{ContentId, DeployId};

/// The facts of a deploy that are fixed when it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFile {
    /// The whole content id of its root.
    pub content: ContentId,
    /// The stored tree of its root: id, size and layout.
    #[serde(with = "blob_text")]
    pub root: Blob,
    /// The root directory's own mtime, whole seconds since 1970.
    pub root_mtime: u64,
    /// Files in it.
    pub files: u64,
    /// Directories in it, its root included.
    pub directories: u64,
    /// Symlinks in it.
    pub symlinks: u64,
    /// Logical size of all files.
    pub bytes: u64,
    /// When it was sealed, whole seconds since 1970.
    pub sealed_at: u64,
    /// By whom.
    pub sealed_by: String,
}

/// Why bytes are no deploy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployFileError {
    /// The checksum line is missing or does not fit.
    #[error("its checksum does not fit")]
    Checksum,
    /// It is whole, but not understood.
    #[error("it is whole but not understood ({0}): use a newer deployfs")]
    Unknown(String),
}

impl DeployFile {
    /// The deploy's address.
    pub fn id(&self) -> DeployId {
        DeployId::of(&self.content)
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(self).expect("a deploy file has only text keys");
        let sum = blake3::hash(&out).to_hex();
        out.extend_from_slice(format!("\nblake3 {sum}\n").as_bytes());
        out
    }

    /// Reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DeployFileError> {
        let end = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(DeployFileError::Checksum)?;
        let (json, rest) = bytes.split_at(end);
        let expected = format!("\nblake3 {}\n", blake3::hash(json).to_hex());
        if rest != expected.as_bytes() {
            return Err(DeployFileError::Checksum);
        }
        serde_json::from_slice(json).map_err(|error| DeployFileError::Unknown(error.to_string()))
    }
}

/// A blob as text: its id, then its size and layout in the binary form of `blob.rs`, in hex.
mod blob_text {
    use super::{Blob, ContentId, Layout, Reader, put_number};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(blob: &Blob, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Vec::new();
        put_number(&mut out, blob.len);
        blob.layout.encode(&mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.collect_str(&format_args!("{}:{hex}", blob.id))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (id, hex) = text
            .split_once(':')
            .ok_or_else(|| D::Error::custom("a blob has no ':'"))?;
        let id: ContentId = id.parse().map_err(D::Error::custom)?;
        let bytes = from_hex(hex).ok_or_else(|| D::Error::custom("a blob is not in hex"))?;
        let mut reader = Reader::new(&bytes);
        let len = reader.number().map_err(D::Error::custom)?;
        let layout = Layout::decode(&mut reader, len).map_err(D::Error::custom)?;
        reader.finish().map_err(D::Error::custom)?;
        Ok(Blob { id, len, layout })
    }

    fn from_hex(hex: &str) -> Option<Vec<u8>> {
        if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
        (0..hex.len()).step_by(2).map(byte).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::blob::ChunkRef;
    use crate::model::ids::ChunkId;

    pub(crate) fn example() -> DeployFile {
        let chunks = [7, 9].map(|len| ChunkRef {
            id: ChunkId::of(&[len as u8]),
            len,
        });
        DeployFile {
            content: ContentId::of(b"content"),
            root: Blob {
                id: ContentId::of(b"root"),
                len: 16,
                layout: Layout::List(chunks.into()),
            },
            root_mtime: 1_700_000_000,
            files: 3,
            directories: 2,
            symlinks: 1,
            bytes: 4096,
            sealed_at: 1_700_000_000,
            sealed_by: "root".into(),
        }
    }

    #[test]
    fn it_comes_back_and_every_damaged_byte_is_found() {
        let bytes = example().encode();
        assert_eq!(DeployFile::decode(&bytes).unwrap(), example());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            assert!(DeployFile::decode(&bad).is_err(), "byte {at}");
            assert!(DeployFile::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn golden_deploy_file() {
        assert_eq!(
            ChunkId::of(&example().encode()).to_string(),
            "f64907e4b7d4132e981ea3a9e5751dbf39e0f7ce3f62cc79767a319d0d0dbc6a"
        );
    }
}
