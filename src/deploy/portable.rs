//! The form in which one deploy travels: a file that holds all of it and nothing else.
//!
//! ```text
//! "deployfs export 1\n", then one zstd stream of frames:
//!   frame   kind 1, length 4 (little-endian), so many bytes
//!   head    1  first, once: JSON (Head)
//!   tree    2  an encoded tree (model/tree.rs), what it names before it, each once, the root last
//!   chunk   3  id 32, then the raw bytes; a chunk list before the chunks that it names, each once
//!   end     4  last, once: BLAKE3 (32) of all frames before it
//! ```
//! Trees come before all chunks, so whoever reads it knows from then on which chunks may come, and how long they are.

use std::io::{self, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use crate::model::report::Meta;
use crate::model::{ChunkId, ContentId};

const MAGIC: &[u8] = b"deployfs export 1\n";
/// How every version's file begins.
const ANY_MAGIC: &[u8] = b"deployfs export ";
const HEAD: u8 = 1;
const TREE: u8 = 2;
const CHUNK: u8 = 3;
const END: u8 = 4;
/// The longest frames that are read, in bytes: a head with long messages, a folder of millions of files, a list of chunks.
const HEAD_MAX: u32 = 1 << 20;
const TREE_MAX: u32 = 512 << 20;
const CHUNK_MAX: u32 = 64 << 20;
/// zstd looks back so far for what repeats (8 MiB): alike pages share most of their bytes. A reader needs this much memory.
const WINDOW_LOG: u32 = 23;
const LEVEL: i32 = 3;

/// What a deploy is, besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The uuid of the store that it comes from.
    pub store: String,
    /// The whole content id of its root.
    pub content: ContentId,
    /// BLAKE3 of the encoded root tree.
    pub root: ContentId,
    /// The root directory's own mtime, whole seconds since 1970.
    pub root_mtime: u64,
    /// When it was first sealed there, whole seconds since 1970.
    pub sealed_at: u64,
    /// By whom.
    pub sealed_by: String,
    /// The message of its latest seal there.
    pub message: String,
    /// The facts of its latest seal there.
    pub meta: Meta,
}

/// Why a file is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum PortableError {
    /// It does not begin as an export does.
    #[error("this is no export of a deploy: 'deployfs export ID > FILE' makes one")]
    NotAnExport,
    /// A later version's.
    #[error("this export was made by a newer deployfs: use that one to import it")]
    Newer,
    /// It ends, or cannot be read on, before its end.
    #[error(
        "the export ends too early ({0}): get all of it and run the import again, what has come is not stored twice"
    )]
    Broken(io::Error),
    /// It was made wrong or has been changed.
    #[error("the export is damaged or was made wrong, and nothing was taken from it: {0}")]
    Wrong(String),
    /// It is larger than allowed.
    #[error("the export is refused: {0}")]
    TooLarge(String),
    /// It cannot be written.
    #[error("the export cannot be written, and what was written is not whole: {0}")]
    Write(io::Error),
}

impl PortableError {
    /// Something that no export has.
    pub fn wrong(what: impl Into<String>) -> Self {
        PortableError::Wrong(what.into())
    }
}

/// Writes an export.
pub struct FrameWriter<W: Write> {
    out: zstd::stream::write::Encoder<'static, W>,
    sum: blake3::Hasher,
}

impl<W: Write> FrameWriter<W> {
    /// Writes what comes before the first frame.
    pub fn new(mut out: W) -> Result<Self, PortableError> {
        out.write_all(MAGIC).map_err(PortableError::Write)?;
        let encoder = zstd::stream::write::Encoder::new(out, LEVEL).and_then(|mut encoder| {
            encoder.window_log(WINDOW_LOG)?;
            encoder.long_distance_matching(true)?;
            encoder.include_checksum(true)?;
            Ok(encoder)
        });
        Ok(FrameWriter {
            out: encoder.map_err(PortableError::Write)?,
            sum: blake3::Hasher::new(),
        })
    }

    /// Writes the head.
    pub fn head(&mut self, head: &Head) -> Result<(), PortableError> {
        let json = serde_json::to_vec(head).expect("a head has only text keys");
        self.frame(HEAD, &[&json])
    }

    /// Writes an encoded tree.
    pub fn tree(&mut self, bytes: &[u8]) -> Result<(), PortableError> {
        self.frame(TREE, &[bytes])
    }

    /// Writes a chunk.
    pub fn chunk(&mut self, id: &ChunkId, raw: &[u8]) -> Result<(), PortableError> {
        self.frame(CHUNK, &[&id.0, raw])
    }

    /// Writes what makes it whole.
    pub fn end(mut self) -> Result<(), PortableError> {
        let sum = *self.sum.finalize().as_bytes();
        self.frame(END, &[&sum])?;
        let mut out = self.out.finish().map_err(PortableError::Write)?;
        out.flush().map_err(PortableError::Write)
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), PortableError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).map_err(|_| {
            PortableError::Write(io::Error::other(
                "a folder has too many files for an export",
            ))
        })?;
        let mut start = [kind, 0, 0, 0, 0];
        start[1..].copy_from_slice(&length.to_le_bytes());
        for part in std::iter::once(start.as_slice()).chain(parts.iter().copied()) {
            self.sum.update(part);
            self.out.write_all(part).map_err(PortableError::Write)?;
        }
        Ok(())
    }
}

/// One part of an export.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// What it is.
    Head(Box<Head>),
    /// An encoded tree.
    Tree(Vec<u8>),
    /// A chunk; its bytes have this id.
    Chunk(ChunkId, Vec<u8>),
    /// All has come, is as it was written, and nothing follows.
    End,
}

/// Reads an export. What it says never decides how much memory is taken: a frame takes what has come of it, up to its limit.
pub struct FrameReader<R: Read> {
    from: zstd::stream::read::Decoder<'static, BufReader<R>>,
    sum: blake3::Hasher,
}

impl<R: Read> FrameReader<R> {
    /// Reads what comes before the first frame.
    pub fn new(mut from: R) -> Result<Self, PortableError> {
        let mut magic = Vec::new();
        (&mut from)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(PortableError::Broken)?;
        if magic != MAGIC {
            return Err(if magic.starts_with(ANY_MAGIC) {
                PortableError::Newer
            } else {
                PortableError::NotAnExport
            });
        }
        let decoder = zstd::stream::read::Decoder::new(from).and_then(|mut decoder| {
            decoder.window_log_max(WINDOW_LOG)?;
            Ok(decoder.single_frame())
        });
        Ok(FrameReader {
            from: decoder.map_err(PortableError::Broken)?,
            sum: blake3::Hasher::new(),
        })
    }

    /// The next frame.
    pub fn next(&mut self) -> Result<Frame, PortableError> {
        let before = self.sum.finalize();
        let mut start = [0; 5];
        self.from.read_exact(&mut start).map_err(read_error)?;
        let kind = start[0];
        let length = u32::from_le_bytes([start[1], start[2], start[3], start[4]]);
        let most = match kind {
            HEAD => HEAD_MAX,
            TREE => TREE_MAX,
            CHUNK => CHUNK_MAX,
            END => 32,
            _ => return Err(PortableError::wrong("it has a part of an unknown kind")),
        };
        if length > most {
            return Err(PortableError::wrong("it has a part that is too long"));
        }
        let mut bytes = Vec::new();
        (&mut self.from)
            .take(length.into())
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if bytes.len() < length as usize {
            return Err(read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        self.sum.update(&start);
        self.sum.update(&bytes);
        match kind {
            HEAD => serde_json::from_slice(&bytes)
                .map(|head| Frame::Head(Box::new(head)))
                .map_err(|error| PortableError::wrong(format!("its head cannot be read: {error}"))),
            TREE => Ok(Frame::Tree(bytes)),
            CHUNK => chunk(bytes),
            _ if bytes == before.as_bytes() => self.nothing_follows(),
            _ => Err(PortableError::wrong("its checksum does not fit")),
        }
    }

    fn nothing_follows(&mut self) -> Result<Frame, PortableError> {
        let mut byte = [0];
        let more = self.from.read(&mut byte).map_err(read_error)?;
        let beyond = if more == 0 {
            self.from.get_mut().read(&mut byte).map_err(read_error)?
        } else {
            more
        };
        match beyond {
            0 => Ok(Frame::End),
            _ => Err(PortableError::wrong("more follows after its end")),
        }
    }
}

fn chunk(mut bytes: Vec<u8>) -> Result<Frame, PortableError> {
    let Some((id, _)) = bytes.split_first_chunk::<32>() else {
        return Err(PortableError::wrong("a chunk has no id"));
    };
    let id = ChunkId(*id);
    bytes.drain(..32);
    if ChunkId::of(&bytes) == id {
        Ok(Frame::Chunk(id, bytes))
    } else {
        Err(PortableError::wrong(format!(
            "chunk {id} does not hash to its id"
        )))
    }
}

/// zstd says of a stream that was changed that it cannot be decompressed, and of one that was cut that it ends.
fn read_error(error: io::Error) -> PortableError {
    match error.raw_os_error() {
        None if error.kind() != io::ErrorKind::UnexpectedEof => {
            PortableError::wrong(error.to_string())
        }
        Some(_) | None => PortableError::Broken(error),
    }
}
