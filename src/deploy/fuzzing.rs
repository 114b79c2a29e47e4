//! The decoders of the flow, for a fuzzer: see `model/fuzzing.rs`.

use std::time::{Duration, UNIX_EPOCH};

use super::memory::{FileBlob, Memory};
use super::portable::{Frame, FrameReader, FrameWriter, Head};
use super::scan::Stamp;
use super::superblock::Superblock;
use crate::model::fuzzing::Decoder;
use crate::model::report::Meta;
use crate::model::{Blob, ChunkId, ContentId, Tree};

/// What a frame may take, whatever it was given: a compressed stream can be of any length.
const FRAME_MAX: usize = 1 << 20;

/// The decoders of this room.
pub fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::plain("memory", memories, memory),
        Decoder {
            name: "export",
            seeds: || vec![export()],
            check: frames,
            fixed_memory: FRAME_MAX,
        },
        Decoder {
            name: "export-frames",
            seeds: || vec![inside(&export())],
            check: |bytes| frames(&packed(bytes)),
            fixed_memory: FRAME_MAX,
        },
    ]
}

fn memory(bytes: &[u8]) {
    Memory::decode(bytes.to_vec());
    let body = bytes
        .split_last_chunk::<32>()
        .map_or(bytes, |(body, _)| body);
    let sum = blake3::hash(body);
    let memory = Memory::decode([body, sum.as_bytes()].concat());
    memory.blobs().count();
}

fn memories() -> Vec<Vec<u8>> {
    let stamp = |ino| {
        Stamp::from_numbers([8, 1, ino, 5, 70, 7, 100, 500, 0o644]).expect("numbers of a stamp")
    };
    let file = |ino| FileBlob {
        stamp: stamp(ino),
        blob: Blob::single(b"bytes"),
    };
    let files = || [1, 2].into_iter().map(file);
    let began = UNIX_EPOCH + Duration::from_secs(200);
    let disk = Superblock::invented(1, (8, 1));
    vec![
        Memory::encode(std::iter::empty, &disk, began),
        Memory::encode(files, &disk, began),
    ]
}

fn frames(bytes: &[u8]) {
    let Ok(mut reader) = FrameReader::new(bytes) else {
        return;
    };
    while let Ok(frame) = reader.next() {
        match frame {
            Frame::Head(_) => {}
            Frame::Tree(bytes) => drop(Tree::decode(&bytes)),
            Frame::Chunk(id, raw) => assert_eq!(ChunkId::of(&raw), id),
            Frame::End => break,
        }
    }
}

fn export() -> Vec<u8> {
    let mut out = Vec::new();
    let root = Tree::default().encode();
    let head = Head {
        store: "0f".repeat(16),
        content: ContentId::of(b"content"),
        root: ContentId::of(&root),
        root_mtime: 1_700_000_000,
        sealed_at: 1_700_000_001,
        sealed_by: "root".into(),
        message: "why".into(),
        meta: Meta::new(),
    };
    let write = |out: &mut Vec<u8>| {
        let mut writer = FrameWriter::new(out)?;
        writer.head(&head)?;
        writer.tree(&root)?;
        writer.chunk(&ChunkId::of(b"a page"), b"a page")?;
        writer.end()
    };
    write(&mut out).expect("memory takes it");
    out
}

fn start_of_an_export() -> Vec<u8> {
    let whole = export();
    let end = whole.iter().position(|&byte| byte == b'\n');
    whole[..=end.expect("a first line")].to_vec()
}

/// The frames of an export, not compressed.
fn inside(export: &[u8]) -> Vec<u8> {
    zstd::decode_all(&export[start_of_an_export().len()..]).expect("our own stream")
}

/// The other way round.
fn packed(frames: &[u8]) -> Vec<u8> {
    let stream = zstd::bulk::compress(frames, 1).expect("memory takes it");
    [start_of_an_export(), stream].concat()
}
