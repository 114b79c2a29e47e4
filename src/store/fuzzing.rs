//! The store's own decoders, for a fuzzer: see `model/fuzzing.rs`.

use super::compress::{Aid, compress};
use super::pack::{
    CHUNK_MAX, Codec, Encoded, HEADER_LEN, Header, Place, TRAILER_LEN, decode_footer,
    decode_trailer, encode_footer, flipped_bits,
};
use super::{format, journal};
use crate::model::ChunkId;
use crate::model::fuzzing::Decoder;

/// The decoders of this room.
pub fn decoders() -> Vec<Decoder> {
    vec![
        Decoder {
            name: "pack-record",
            seeds: records,
            check: record,
            fixed_memory: CHUNK_MAX,
        },
        Decoder::plain("pack-footer", footers, footer),
        Decoder::plain("format", || vec![format::encode(&"0f".repeat(16))], format),
        Decoder::plain("head", heads, head),
    ]
}

fn record(bytes: &[u8]) {
    open_record(bytes);
    if bytes.len() >= HEADER_LEN {
        let mut whole = bytes.to_vec();
        let check = blake3::hash(&whole[..80]);
        whole[80..HEADER_LEN].copy_from_slice(&check.as_bytes()[..8]);
        open_record(&whole);
    }
}

fn open_record(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else {
        return;
    };
    assert_eq!(
        Header::decode(&header.encode()),
        Ok(header),
        "a header is not the same again"
    );
    let payload = &bytes[HEADER_LEN..];
    let payload = &payload[..payload.len().min(header.stored_len as usize)];
    flipped_bits(payload, header.payload_check);
    for aid in [Aid::Alone, Aid::Like(b"some other page, alike")] {
        if let Ok(raw) = header.open(payload.to_vec(), aid) {
            assert_eq!(ChunkId::of(&raw), header.id);
        }
    }
}

fn records() -> Vec<Vec<u8>> {
    let raw = b"a page, a page, a page, a page, a page".as_slice();
    let id = ChunkId::of(raw);
    let record = |packed| {
        let encoded = Encoded::new(id, raw, packed);
        [encoded.header.encode().as_slice(), &encoded.payload].concat()
    };
    let packed = |codec, aid| compress(raw, aid).map(|payload| (codec, payload));
    let other = b"some other page, alike";
    let like = Codec::ZstdLike(ChunkId::of(other));
    vec![
        record(None),
        record(packed(Codec::Zstd, Aid::Alone)),
        record(packed(like, Aid::Like(other))),
    ]
}

/// A whole pack of which nothing but the footer and trailer is looked at.
fn footer(bytes: &[u8]) {
    let Some((body, trailer)) = bytes.split_last_chunk::<TRAILER_LEN>() else {
        return;
    };
    let mut whole = *trailer;
    let check = blake3::hash(&whole[8..]);
    whole[4..8].copy_from_slice(&check.as_bytes()[..4]);
    for trailer in [trailer, &whole] {
        if let Some(range) = decode_trailer(trailer, bytes.len() as u64) {
            let footer = &body[range.offset as usize..];
            assert_eq!(footer.len() as u64, range.len);
            places(footer);
        }
    }
    places(body);
}

fn places(footer: &[u8]) {
    let Some((body, _)) = footer.split_last_chunk::<32>() else {
        return;
    };
    let sum = blake3::hash(body);
    for footer in [footer, &[body, sum.as_bytes()].concat()] {
        if let Ok(places) = decode_footer(footer) {
            for (_, place) in &places {
                assert!(place.end() >= place.offset);
            }
            encode_footer(&places, 0);
        }
    }
}

fn footers() -> Vec<Vec<u8>> {
    let place = |number: u64| {
        let id = ChunkId::of(&number.to_le_bytes());
        let place = Place {
            offset: number * 200,
            raw_len: 100,
            stored_len: 112,
        };
        (id, place)
    };
    let pack = |count: u64| {
        let places: Vec<_> = (0..count).map(place).collect();
        encode_footer(&places, 0)
    };
    vec![pack(0), pack(3)]
}

fn format(bytes: &[u8]) {
    if let Some(uuid) = format::decode(bytes) {
        assert!(format::encode(&uuid).starts_with(bytes));
    }
    if let Some(uuid) = format::mend(bytes) {
        assert_eq!(format::decode(&format::encode(&uuid)), Some(uuid));
    }
}

fn head(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    let (seq, sum) = (words.next(), words.next().unwrap_or_default());
    let whole = seq
        .and_then(|seq| seq.parse().ok())
        .map(|seq| journal::encode_head(seq, sum));
    for bytes in [Some(bytes), whole.as_deref().map(str::as_bytes)]
        .into_iter()
        .flatten()
    {
        if let Some(seq) = journal::decode_head(bytes) {
            let again = journal::encode_head(seq, sum);
            assert_eq!(journal::decode_head(again.as_bytes()), Some(seq));
        }
    }
}

fn heads() -> Vec<Vec<u8>> {
    let sum = "0".repeat(64);
    vec![
        journal::encode_head(12, &sum).into_bytes(),
        format!("12 {sum}\n").into_bytes(),
    ]
}
