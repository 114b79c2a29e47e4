//! A blob: bytes of any length (a file's content or an encoded tree), and how its chunks put it together.
//!
//! ```text
//! layout   0                          one chunk: its id is the blob's id
//!          1  count (id length)*      2 to 16 chunks, in order
//!          2  id                      more: the list is an object of its own, in one chunk:
//!                                     "dfl" version=1 count (id length)*
//! ```
//! An empty blob has layout 0 and no chunk at all.

use super::codec::{DecodeError, Reader, put_number};
use super::ids::{ChunkId, ContentId};

/// The most chunks that a layout names itself.
pub const INLINE_CHUNKS: usize = 16;
const LIST_MAGIC: &[u8; 4] = b"dfl\x01";

/// A reference to bytes in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Blob {
    /// BLAKE3 of all the bytes.
    pub id: ContentId,
    /// How many bytes.
    pub len: u64,
    /// Which chunks, in order.
    pub layout: Layout,
}

/// The chunks of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One chunk whose id is the blob's own (none at all for an empty blob).
    Single,
    /// Up to [`INLINE_CHUNKS`] chunks.
    List(Box<[ChunkRef]>),
    /// The chunk that holds the list.
    ListAt(ChunkId),
}

/// One chunk of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Its id.
    pub id: ChunkId,
    /// Its raw length in bytes.
    pub len: u32,
}

impl Blob {
    /// The blob of bytes that are one chunk.
    pub fn single(raw: &[u8]) -> Self {
        Blob {
            id: ContentId::of(raw),
            len: raw.len() as u64,
            layout: Layout::Single,
        }
    }

    /// Appends id and layout; the length stands elsewhere.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        self.layout.encode(out);
    }

    /// Reads id and layout of a blob of `len` bytes.
    pub fn decode(reader: &mut Reader<'_>, len: u64) -> Result<Self, DecodeError> {
        Ok(Blob {
            id: ContentId(reader.hash()?),
            len,
            layout: Layout::decode(reader, len)?,
        })
    }

    /// The one chunk of a single-chunk blob, none if it is empty or has a list.
    pub fn single_chunk(&self) -> Option<ChunkId> {
        (matches!(self.layout, Layout::Single) && self.len > 0).then_some(ChunkId(self.id.0))
    }
}

impl Layout {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Layout::Single => out.push(0),
            Layout::List(chunks) => {
                out.push(1);
                put_chunks(out, chunks);
            }
            Layout::ListAt(id) => {
                out.push(2);
                out.extend_from_slice(&id.0);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, blob_len: u64) -> Result<Self, DecodeError> {
        match reader.byte()? {
            0 => Ok(Layout::Single),
            1 => {
                let chunks = take_chunks(reader)?;
                if !(2..=INLINE_CHUNKS).contains(&chunks.len()) {
                    return Err(DecodeError::Invalid(
                        "an inline chunk list has 2 to 16 chunks",
                    ));
                }
                check_sum(&chunks, blob_len)?;
                Ok(Layout::List(chunks.into()))
            }
            2 => Ok(Layout::ListAt(ChunkId(reader.hash()?))),
            _ => Err(DecodeError::Invalid("an unknown layout")),
        }
    }
}

/// Encodes a long chunk list as the object that [`Layout::ListAt`] names.
pub fn encode_list(chunks: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + chunks.len() * 36);
    out.extend_from_slice(LIST_MAGIC);
    put_chunks(&mut out, chunks);
    out
}

/// Decodes a long chunk list; the lengths must add up to `blob_len`.
pub fn decode_list(bytes: &[u8], blob_len: u64) -> Result<Vec<ChunkRef>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.take(4)? {
        magic if magic == LIST_MAGIC => {}
        [b'd', b'f', b'l', version] => return Err(DecodeError::Version(*version)),
        _ => return Err(DecodeError::Invalid("it is not a chunk list")),
    }
    let chunks = take_chunks(&mut reader)?;
    reader.finish()?;
    check_sum(&chunks, blob_len)?;
    Ok(chunks)
}

fn put_chunks(out: &mut Vec<u8>, chunks: &[ChunkRef]) {
    put_number(out, chunks.len() as u64);
    for chunk in chunks {
        out.extend_from_slice(&chunk.id.0);
        put_number(out, u64::from(chunk.len));
    }
}

fn take_chunks(reader: &mut Reader<'_>) -> Result<Vec<ChunkRef>, DecodeError> {
    let count = reader.count(33)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let id = ChunkId(reader.hash()?);
        let len = u32::try_from(reader.number()?)
            .map_err(|_| DecodeError::Invalid("a chunk is too long"))?;
        if len == 0 {
            return Err(DecodeError::Invalid("a chunk is empty"));
        }
        chunks.push(ChunkRef { id, len });
    }
    Ok(chunks)
}

fn check_sum(chunks: &[ChunkRef], blob_len: u64) -> Result<(), DecodeError> {
    let sum: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    if sum == blob_len {
        Ok(())
    } else {
        Err(DecodeError::Invalid(
            "the chunk lengths do not add up to the size",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: u32) -> Vec<ChunkRef> {
        (1..=count)
            .map(|len| ChunkRef {
                id: ChunkId::of(&len.to_le_bytes()),
                len,
            })
            .collect()
    }

    #[test]
    fn a_list_object_comes_back_and_is_checked_against_the_size() {
        let list = chunks(40);
        let bytes = encode_list(&list);
        assert_eq!(decode_list(&bytes, 820).unwrap(), list);
        assert!(decode_list(&bytes, 821).is_err());
        assert!(decode_list(&bytes[..bytes.len() - 1], 820).is_err());
    }

    #[test]
    fn golden_list_object() {
        assert_eq!(
            ChunkId::of(&encode_list(&chunks(40))).to_string(),
            "6449a6d70158b7e5de1f69274a2af03bc478b0c4c2bd0b277b7ac527a9796381"
        );
    }

    #[test]
    fn a_later_list_version_asks_for_a_newer_deployfs() {
        assert_eq!(decode_list(b"dfl\x02\x00", 0), Err(DecodeError::Version(2)));
    }
}
