//! The format of a pack file: chunk records one after the other, and in a finished pack an index footer.
//!
//! ```text
//! record   "dfc" version=1   4
//!          chunk id          32   BLAKE3 of the raw bytes
//!          codec             1    0 raw, 1 zstd, 2 zstd with a trained dictionary, 3 zstd with the bytes of another chunk
//!                                 as its dictionary
//!          payload check     3    the low 24 bits of the payload's CRC-32, 1 for 0; zero: none, as in older records
//!          dictionary id     32   the chunk that holds the dictionary; zero: none
//!          raw length        4
//!          stored length     4
//!          header checksum   8    the start of BLAKE3 over the 80 bytes before
//!          payload           stored length
//! footer   "dfi" version=1   4
//!          count             4
//!          entries           56 each, by ascending id: chunk id 32, offset 8, raw length 4, stored length 4, zeros 8
//!          checksum          32   BLAKE3 over the footer so far
//! trailer  "dfe" version=1   4
//!          check             4    the start of BLAKE3 over the 16 bytes after
//!          footer offset     8
//!          footer length     8
//! ```
//! All numbers are little-endian.

use super::compress::{Aid, decompress};
use crate::model::ChunkId;

/// Bytes of a record before its payload.
pub const HEADER_LEN: usize = 88;
/// Bytes at the end of a finished pack.
pub const TRAILER_LEN: usize = 24;
/// Bytes of a footer entry.
pub const ENTRY_LEN: usize = 56;
/// Bytes of a footer before its first entry.
pub const FOOTER_HEAD: usize = 8;
/// The longest chunk, raw or stored, in bytes: bounds what a reader allocates.
pub const CHUNK_MAX: usize = 64 << 20;
/// The bits of a CRC that a header keeps.
const CHECK_MASK: u32 = 0x00ff_ffff;
/// How a record starts.
pub const RECORD_MAGIC: &[u8; 4] = b"dfc\x01";
/// How a footer starts.
pub const FOOTER_MAGIC: &[u8; 4] = b"dfi\x01";
/// How a trailer starts.
pub const TRAILER_MAGIC: &[u8; 4] = b"dfe\x01";

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame that needs the trained dictionary in this chunk.
    ZstdWith(ChunkId),
    /// One zstd frame that needs the bytes of this chunk. That one never needs a third one in this way, so that reading a
    /// file does not walk through all its versions.
    ZstdLike(ChunkId),
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The chunk's id.
    pub id: ChunkId,
    /// How the payload is stored.
    pub codec: Codec,
    /// Length of the chunk in bytes.
    pub raw_len: u32,
    /// Length of the payload in bytes.
    pub stored_len: u32,
    /// 24 bits that tell a damaged payload without decoding it; 0: none.
    pub payload_check: u32,
}

/// A chunk as it is about to be appended.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Where a chunk's record is within its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Byte at which the record starts.
    pub offset: u64,
    /// Length of the chunk in bytes.
    pub raw_len: u32,
    /// Length of the payload in bytes.
    pub stored_len: u32,
}

impl Place {
    /// The byte after the record; the last there can be, where a footer says that it lies beyond it.
    pub fn end(&self) -> u64 {
        let len = HEADER_LEN as u64 + u64::from(self.stored_len);
        self.offset.saturating_add(len)
    }
}

impl Encoded {
    /// The chunk with this payload, none: its raw bytes.
    pub fn new(id: ChunkId, raw: &[u8], packed: Option<(Codec, Vec<u8>)>) -> Self {
        let (codec, payload) = packed.unwrap_or_else(|| (Codec::Raw, raw.to_vec()));
        let header = Header {
            id,
            codec,
            raw_len: raw.len() as u32,
            stored_len: payload.len() as u32,
            payload_check: payload_check(&payload),
        };
        Encoded { header, payload }
    }
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..4].copy_from_slice(RECORD_MAGIC);
        out[4..36].copy_from_slice(&self.id.0);
        out[36] = match &self.codec {
            Codec::Raw => 0,
            Codec::Zstd => 1,
            Codec::ZstdWith(_) => 2,
            Codec::ZstdLike(_) => 3,
        };
        out[37..40].copy_from_slice(&self.payload_check.to_le_bytes()[..3]);
        if let Some(dictionary) = self.dictionary() {
            out[40..72].copy_from_slice(&dictionary.0);
        }
        out[72..76].copy_from_slice(&self.raw_len.to_le_bytes());
        out[76..80].copy_from_slice(&self.stored_len.to_le_bytes());
        let check = blake3::hash(&out[..80]);
        out[80..].copy_from_slice(&check.as_bytes()[..8]);
        out
    }

    /// Reads a header, or says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < HEADER_LEN {
            return Err("the record is cut off");
        }
        if &bytes[..4] != RECORD_MAGIC {
            return Err("there is no record");
        }
        if blake3::hash(&bytes[..80]).as_bytes()[..8] != bytes[80..HEADER_LEN] {
            return Err("the record's header does not fit its checksum");
        }
        let codec = match bytes[36] {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            2 => Codec::ZstdWith(id_at(&bytes[40..72])),
            3 => Codec::ZstdLike(id_at(&bytes[40..72])),
            _ => return Err("the record has a codec that this deployfs does not know"),
        };
        let raw_len = number32(&bytes[72..76]);
        let stored_len = number32(&bytes[76..80]);
        if raw_len as usize > CHUNK_MAX || stored_len as usize > CHUNK_MAX {
            return Err("the record is too long");
        }
        Ok(Header {
            id: id_at(&bytes[4..36]),
            codec,
            raw_len,
            stored_len,
            payload_check: u32::from_le_bytes([bytes[37], bytes[38], bytes[39], 0]),
        })
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> u64 {
        HEADER_LEN as u64 + u64::from(self.stored_len)
    }

    /// The chunk without which this one cannot be read.
    pub fn dictionary(&self) -> Option<ChunkId> {
        match self.codec {
            Codec::Raw | Codec::Zstd => None,
            Codec::ZstdWith(dictionary) | Codec::ZstdLike(dictionary) => Some(dictionary),
        }
    }

    /// Whether the payload is as it was written; none: an older record does not tell without being decoded.
    pub fn fits(&self, payload: &[u8]) -> Option<bool> {
        if payload.len() != self.stored_len as usize {
            return Some(false);
        }
        (self.payload_check != 0).then(|| payload_check(payload) == self.payload_check)
    }

    /// The raw bytes of the payload, verified against the id. The aid is what the codec asks for.
    pub fn open(&self, payload: Vec<u8>, aid: Aid<'_>) -> Result<Vec<u8>, &'static str> {
        if payload.len() != self.stored_len as usize {
            return Err("the payload is cut off");
        }
        if self.fits(&payload) == Some(false) {
            return Err("the payload does not fit its checksum");
        }
        let raw = match self.codec {
            Codec::Raw => payload,
            Codec::Zstd | Codec::ZstdWith(_) | Codec::ZstdLike(_) => {
                decompress(&payload, self.raw_len as usize, aid)
                    .ok_or("the payload cannot be decompressed")?
            }
        };
        self.verify(&raw)?;
        Ok(raw)
    }

    /// Whether these are the chunk's raw bytes.
    pub fn verify(&self, raw: &[u8]) -> Result<(), &'static str> {
        if raw.len() != self.raw_len as usize || ChunkId::of(raw) != self.id {
            return Err("the bytes do not hash to the id");
        }
        Ok(())
    }
}

/// The footer and trailer of a pack whose records end at `records_end`.
pub fn encode_footer(places: &[(ChunkId, Place)], records_end: u64) -> Vec<u8> {
    let mut sorted: Vec<&(ChunkId, Place)> = places.iter().collect();
    // A chunk that stands twice in one pack was damaged the first time.
    sorted.sort_unstable_by_key(|(id, place)| (*id, std::cmp::Reverse(place.offset)));
    sorted.dedup_by_key(|(id, _)| *id);
    let mut out = Vec::with_capacity(FOOTER_HEAD + sorted.len() * ENTRY_LEN + 32 + TRAILER_LEN);
    out.extend_from_slice(FOOTER_MAGIC);
    out.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    for (id, place) in sorted {
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&place.offset.to_le_bytes());
        out.extend_from_slice(&place.raw_len.to_le_bytes());
        out.extend_from_slice(&place.stored_len.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
    }
    let check = *blake3::hash(&out).as_bytes();
    out.extend_from_slice(&check);
    let mut range = [0; 16];
    range[..8].copy_from_slice(&records_end.to_le_bytes());
    range[8..].copy_from_slice(&(out.len() as u64).to_le_bytes());
    out.extend_from_slice(TRAILER_MAGIC);
    out.extend_from_slice(&blake3::hash(&range).as_bytes()[..4]);
    out.extend_from_slice(&range);
    out
}

/// Where the footer of a finished pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterRange {
    /// Its first byte, which is where the records end.
    pub offset: u64,
    /// Its length, without the trailer.
    pub len: u64,
}

impl FooterRange {
    /// How many chunks the pack has.
    pub fn count(&self) -> u64 {
        (self.len - FOOTER_HEAD as u64 - 32) / ENTRY_LEN as u64
    }
}

/// Reads a trailer, given the length of the whole file; none: the pack is not finished.
pub fn decode_trailer(bytes: &[u8], file_len: u64) -> Option<FooterRange> {
    if bytes.len() != TRAILER_LEN || &bytes[..4] != TRAILER_MAGIC {
        return None;
    }
    if blake3::hash(&bytes[8..]).as_bytes()[..4] != bytes[4..8] {
        return None;
    }
    let range = FooterRange {
        offset: number64(&bytes[8..16]),
        len: number64(&bytes[16..24]),
    };
    let end = range
        .offset
        .checked_add(range.len)?
        .checked_add(TRAILER_LEN as u64)?;
    let whole = range.len >= (FOOTER_HEAD + 32) as u64
        && (range.len - FOOTER_HEAD as u64 - 32).is_multiple_of(ENTRY_LEN as u64);
    (end == file_len && whole).then_some(range)
}

/// The byte after the trailer of a footer that starts at `start` with this head; none: the head itself is cut off.
pub fn footer_end(start: u64, head: &[u8]) -> Option<u64> {
    let count = number32(head.get(4..FOOTER_HEAD)?);
    let len = FOOTER_HEAD as u64 + u64::from(count) * ENTRY_LEN as u64 + 32;
    Some(start + len + TRAILER_LEN as u64)
}

/// Reads a whole footer, or says what is wrong with it.
pub fn decode_footer(bytes: &[u8]) -> Result<Vec<(ChunkId, Place)>, &'static str> {
    let Some((body, check)) = bytes.split_last_chunk::<32>() else {
        return Err("the footer is cut off");
    };
    if blake3::hash(body).as_bytes() != check {
        return Err("the footer does not fit its checksum");
    }
    if body.len() < FOOTER_HEAD || &body[..4] != FOOTER_MAGIC {
        return Err("there is no footer");
    }
    let entries = &body[FOOTER_HEAD..];
    if entries.len() != number32(&body[4..8]) as usize * ENTRY_LEN {
        return Err("the footer has another length than it says");
    }
    Ok(entries.chunks_exact(ENTRY_LEN).map(decode_entry).collect())
}

/// Reads one footer entry of [`ENTRY_LEN`] bytes.
pub fn decode_entry(bytes: &[u8]) -> (ChunkId, Place) {
    let place = Place {
        offset: number64(&bytes[32..40]),
        raw_len: number32(&bytes[40..44]),
        stored_len: number32(&bytes[44..48]),
    };
    (id_at(&bytes[..32]), place)
}

/// The bits of a payload one of which, flipped back, gives it this check: each as its byte and its value there.
///
/// A CRC is linear: what a flipped bit adds to it depends on nothing but how far it is from the end.
pub fn flipped_bits(payload: &[u8], check: u32) -> Vec<(usize, u8)> {
    const REVERSED_POLYNOMIAL: u32 = 0xedb8_8320;
    if check == 0 {
        return Vec::new();
    }
    let step = |crc: u32| (0..8).fold(crc, |crc, _| (crc >> 1) ^ ((crc & 1) * REVERSED_POLYNOMIAL));
    let table: Vec<u32> = (0..256).map(step).collect();
    let wanted = (crc32fast::hash(payload) ^ check) & CHECK_MASK;
    let mut added: [u32; 8] = std::array::from_fn(|bit| table[1 << bit]);
    let mut found = Vec::new();
    for at in (0..payload.len()).rev() {
        for (bit, crc) in added.iter_mut().enumerate() {
            if *crc & CHECK_MASK == wanted {
                found.push((at, 1 << bit));
            }
            *crc = (*crc >> 8) ^ table[(*crc & 0xff) as usize];
        }
    }
    found
}

fn payload_check(payload: &[u8]) -> u32 {
    (crc32fast::hash(payload) & CHECK_MASK).max(1)
}

fn id_at(bytes: &[u8]) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(bytes);
    ChunkId(id)
}

fn number32(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(bytes);
    u32::from_le_bytes(four)
}

fn number64(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(bytes);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::compress::compress;

    fn encoded(raw: &[u8]) -> Encoded {
        let packed = compress(raw, Aid::Alone).map(|packed| (Codec::Zstd, packed));
        Encoded::new(ChunkId::of(raw), raw, packed)
    }

    #[test]
    fn a_place_beyond_the_last_byte_that_there_can_be_has_an_end() {
        let place = Place {
            offset: u64::MAX - 1,
            raw_len: 1,
            stored_len: 1,
        };
        let footer = encode_footer(&[(ChunkId::of(b"x"), place)], 0);
        let places = decode_footer(&footer[..footer.len() - TRAILER_LEN]).unwrap();
        assert_eq!(places[0].1.end(), u64::MAX);
    }

    #[test]
    fn compressible_and_incompressible_chunks_come_back() {
        let text = "all the same, ".repeat(100);
        let packed = encoded(text.as_bytes());
        assert_eq!(packed.header.codec, Codec::Zstd);
        assert_eq!(
            packed
                .header
                .open(packed.payload.clone(), Aid::Alone)
                .unwrap(),
            text.as_bytes()
        );
        let mut noise = [0; 1000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let raw = encoded(&noise);
        assert_eq!(raw.header.codec, Codec::Raw);
        assert_eq!(
            raw.header.open(raw.payload.clone(), Aid::Alone).unwrap(),
            noise
        );
    }

    #[test]
    fn p5_every_flipped_bit_of_a_record_is_found() {
        let chunk = encoded(
            "some text that packs, some text that packs "
                .repeat(9)
                .as_bytes(),
        );
        let header = chunk.header.encode();
        for at in 0..header.len() {
            let mut bad = header;
            bad[at] ^= 4;
            assert!(Header::decode(&bad).is_err(), "header byte {at}");
        }
        for at in 0..chunk.payload.len() {
            let mut bad = chunk.payload.clone();
            bad[at] ^= 4;
            assert!(
                chunk.header.open(bad, Aid::Alone).is_err(),
                "payload byte {at}"
            );
        }
    }

    #[test]
    fn a_flipped_bit_of_a_payload_is_found_by_its_check() {
        let chunk = encoded("some text that packs, ".repeat(40).as_bytes());
        for at in 0..chunk.payload.len() {
            for bit in [1, 8, 128] {
                let mut bad = chunk.payload.clone();
                bad[at] ^= bit;
                let bits = flipped_bits(&bad, chunk.header.payload_check);
                assert!(bits.contains(&(at, bit)), "{at} {bit}: {bits:?}");
            }
        }
    }

    #[test]
    fn a_record_without_a_payload_check_is_read_as_before() {
        let chunk = encoded(b"older");
        let older = Header {
            payload_check: 0,
            ..chunk.header
        };
        assert_eq!(Header::decode(&older.encode()), Ok(older));
        assert_eq!(older.fits(&chunk.payload), None);
        assert_eq!(older.open(chunk.payload, Aid::Alone).unwrap(), b"older");
    }

    #[test]
    fn a_footer_comes_back_sorted_and_every_flipped_bit_is_found() {
        let place = |offset| Place {
            offset,
            raw_len: 5,
            stored_len: 5,
        };
        let places: Vec<_> = (0..9u8)
            .map(|n| (ChunkId::of(&[n]), place(u64::from(n))))
            .collect();
        let bytes = encode_footer(&places, 900);
        let (footer, trailer) = bytes.split_at(bytes.len() - TRAILER_LEN);
        let range = decode_trailer(trailer, 900 + bytes.len() as u64).unwrap();
        assert_eq!((range.offset, range.count()), (900, 9));
        let decoded = decode_footer(footer).unwrap();
        assert!(decoded.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for at in 0..footer.len() {
            let mut bad = footer.to_vec();
            bad[at] ^= 4;
            assert!(decode_footer(&bad).is_err(), "byte {at}");
        }
        assert_eq!(decode_trailer(trailer, 901 + bytes.len() as u64), None);
    }

    #[test]
    fn golden_record_and_footer() {
        let chunk = encoded(b"golden");
        let record = [chunk.header.encode().as_slice(), &chunk.payload].concat();
        assert_eq!(
            ChunkId::of(&record).to_string(),
            "0afb7abb636d39b2441d99a61d684d31302ade8762f46508ecafc16200c9d66d"
        );
        let place = Place {
            offset: 0,
            raw_len: 6,
            stored_len: 6,
        };
        let footer = encode_footer(&[(chunk.header.id, place)], record.len() as u64);
        let dictionary = ChunkId::of(b"dictionary");
        let like = Header {
            codec: Codec::ZstdLike(dictionary),
            ..chunk.header
        };
        assert_eq!(Header::decode(&like.encode()), Ok(like));
        let with = Header {
            codec: Codec::ZstdWith(dictionary),
            ..chunk.header
        };
        assert_eq!(Header::decode(&with.encode()), Ok(with));
        assert_eq!(
            ChunkId::of(&with.encode()).to_string(),
            "0b226e927117224da99237d7e430e57e4bcfe11678dbb556f547d9aeb8e0c1a9"
        );
        assert_eq!(
            ChunkId::of(&footer).to_string(),
            "2b8d6134ddcac4fdd03140201eaac94915682ccaf67bf3952dca809a65a919e5"
        );
    }
}
