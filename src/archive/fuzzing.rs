//! The walk through a tar stream, for a fuzzer: see `model/fuzzing.rs`.

use super::header::BLOCK;
use super::tar::{Archive, Kind};
use crate::model::fuzzing::Decoder;

/// The longest extended header that is read.
const EXTENDED_MAX: usize = 1 << 20;
/// Where a header has its checksum.
const SUM: std::ops::Range<usize> = 148..156;

/// The decoders of this room.
pub fn decoders() -> Vec<Decoder> {
    vec![Decoder {
        name: "tar",
        seeds: || vec![archive(), endless()],
        check,
        fixed_memory: 4 * EXTENDED_MAX,
    }]
}

fn check(bytes: &[u8]) {
    walk(bytes);
    // A checksum for each block that could be a header.
    let mut whole = bytes.to_vec();
    for block in whole.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            put_sum(block);
        }
    }
    walk(&whole);
}

fn walk(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    let mut read = 0;
    while let Ok(Some(entry)) = archive.next() {
        // Of every other file nothing is read: then it is passed over.
        if let Kind::File(size) = entry.kind
            && entry.path.len() % 2 == 0
        {
            let mut buffer = [0; 300];
            let before = read;
            while let Ok(count @ 1..) = archive.read(&mut buffer) {
                read += count as u64;
            }
            assert!(read - before <= size);
        }
    }
    assert!(read <= bytes.len() as u64);
}

fn put_sum(block: &mut [u8]) {
    block[SUM].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[SUM][..7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    put_sum(&mut block);
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

/// A file that says that it is as long as a number can be.
fn endless() -> Vec<u8> {
    [
        entry("pax", b'x', b"29 size=18446744073709551615\n"),
        entry("page", b'0', b""),
    ]
    .concat()
}

fn archive() -> Vec<u8> {
    let mut all = [
        entry("dir/", b'5', b""),
        entry("dir/page", b'0', b"a page"),
        entry("pax", b'x', b"24 path=dir/a long name\n12 size=000\n"),
        entry("short", b'0', b"x"),
        entry("././@LongLink", b'L', b"dir/another long name\0"),
        entry("cut", b'0', b"another page"),
        entry("link", b'2', b""),
    ]
    .concat();
    all.resize(all.len() + 2 * BLOCK, 0);
    all
}
