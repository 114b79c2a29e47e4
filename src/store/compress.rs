//! Compression of chunks: zstd, alone or with a dictionary. One context a thread, since making one costs more than a page.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, compress_bound, train_from_buffer};

use crate::model::ChunkId;

const LEVEL: i32 = 3;
/// Shorter chunks gain nothing from compression.
const MIN: usize = 128;
/// A dictionary is for chunks up to this length, in bytes: longer ones are their own.
pub const DICTIONARY_CHUNK_MAX: usize = 128 << 10;
/// The size that zstd recommends for a dictionary.
const DICTIONARY_BYTES: usize = 112 << 10;
/// Fewer or smaller samples than these train nothing useful.
const SAMPLES_MIN: usize = 100;
const SAMPLE_BYTES_MIN: usize = 512 << 10;
/// One sample in so many is not trained with, but tells what the dictionary is worth.
const HELD_OUT: usize = 10;

thread_local! {
    static CONTEXTS: RefCell<(CCtx<'static>, DCtx<'static>)> = RefCell::new((CCtx::create(), DCtx::create()));
}

/// What many small chunks have in common, prepared for both directions.
pub struct Dictionary {
    /// The chunk that holds it.
    pub id: ChunkId,
    encoder: CDict<'static>,
    decoder: DDict<'static>,
}

impl Dictionary {
    /// Prepares a dictionary's bytes; none: zstd does not take them.
    pub fn new(id: ChunkId, bytes: &[u8]) -> Option<Self> {
        Some(Dictionary {
            id,
            encoder: CDict::try_create(bytes, LEVEL)?,
            decoder: DDict::try_create(bytes)?,
        })
    }
}

/// The chunk compressed, where that pays: at least an eighth must be saved.
pub fn compress(raw: &[u8], dictionary: Option<&Dictionary>) -> Option<Vec<u8>> {
    if raw.len() < MIN {
        return None;
    }
    let mut packed = Vec::with_capacity(compress_bound(raw.len()));
    CONTEXTS
        .with_borrow_mut(|(context, _)| match dictionary {
            Some(dictionary) => context.compress_using_cdict(&mut packed, raw, &dictionary.encoder),
            None => context.compress(&mut packed, raw, LEVEL),
        })
        .ok()?;
    if packed.len() > raw.len() - raw.len() / 8 {
        return None;
    }
    packed.shrink_to_fit();
    Some(packed)
}

/// The raw bytes of a payload, `raw_len` of them; none: it cannot be decompressed to so many.
pub fn decompress(
    payload: &[u8],
    raw_len: usize,
    dictionary: Option<&Dictionary>,
) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(raw_len);
    CONTEXTS
        .with_borrow_mut(|(_, context)| match dictionary {
            Some(dictionary) => {
                context.decompress_using_ddict(&mut raw, payload, &dictionary.decoder)
            }
            None => context.decompress(&mut raw, payload),
        })
        .ok()?;
    Some(raw)
}

/// A dictionary for contents like these samples; none where there are too few, or where it would save less than a tenth.
pub fn train(samples: &[Vec<u8>]) -> Option<Vec<u8>> {
    let (mut flat, mut lengths, mut held_out) = (Vec::new(), Vec::new(), Vec::new());
    for (number, sample) in samples.iter().enumerate() {
        if number % HELD_OUT == 0 {
            held_out.push(sample);
        } else {
            flat.extend_from_slice(sample);
            lengths.push(sample.len());
        }
    }
    if lengths.len() < SAMPLES_MIN || flat.len() < SAMPLE_BYTES_MIN || !compressible(&held_out) {
        return None;
    }
    let mut bytes = Vec::with_capacity(DICTIONARY_BYTES);
    train_from_buffer(&mut bytes, &flat, &lengths).ok()?;
    let dictionary = Dictionary::new(ChunkId::of(&bytes), &bytes)?;
    let (with, without) = (
        stored(&held_out, Some(&dictionary)),
        stored(&held_out, None),
    );
    (with < without - without / 10).then_some(bytes)
}

/// Looked at before the costly training: pictures and archives have no use for a dictionary.
fn compressible(samples: &[&Vec<u8>]) -> bool {
    let raw: usize = samples.iter().map(|sample| sample.len()).sum();
    stored(samples, None) < raw - raw / 8
}

fn stored(samples: &[&Vec<u8>], dictionary: Option<&Dictionary>) -> usize {
    samples
        .iter()
        .map(|sample| compress(sample, dictionary).map_or(sample.len(), |packed| packed.len()))
        .sum()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Pages that are alike, as those of a site are.
    pub fn pages(count: usize) -> Vec<Vec<u8>> {
        let mut words = vec![0; 400_000];
        blake3::Hasher::new().finalize_xof().fill(&mut words);
        let hex: String = words.iter().map(|byte| format!("{byte:02x}")).collect();
        let page = |number: usize| {
            let menu = &hex[..4000];
            let own = &hex[4000 + number * 97 % 700_000..][..2000];
            format!("<html><head>{menu}</head><body>page {number}: {own}</body></html>").into()
        };
        (0..count).map(page).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_dictionary_of_like_pages_saves_much_and_gives_them_back() {
        let pages = pages(400);
        let bytes = train(&pages).unwrap();
        assert!(bytes.len() <= DICTIONARY_BYTES);
        let dictionary = Dictionary::new(ChunkId::of(&bytes), &bytes).unwrap();
        let page = &pages[123];
        let alone = compress(page, None).unwrap();
        let with = compress(page, Some(&dictionary)).unwrap();
        assert!(
            with.len() * 2 < alone.len(),
            "{} {}",
            with.len(),
            alone.len()
        );
        let back = decompress(&with, page.len(), Some(&dictionary)).unwrap();
        assert_eq!(&back, page);
        assert_eq!(decompress(&alone, page.len(), None).unwrap(), *page);
        assert_eq!(decompress(&with, page.len(), None), None);
        assert_eq!(
            decompress(&alone, page.len() - 1, None),
            None,
            "bounded by what is expected"
        );
    }

    #[test]
    fn nothing_is_trained_from_too_little_or_from_noise() {
        assert_eq!(train(&[]), None);
        assert_eq!(train(&pages(20)), None);
        let noise: Vec<Vec<u8>> = noise(2 << 20).chunks(4096).map(<[u8]>::to_vec).collect();
        assert_eq!(train(&noise), None);
    }

    #[test]
    fn what_does_not_pay_is_left_alone() {
        assert_eq!(compress(b"short short short short", None), None);
        assert_eq!(compress(&noise(10_000), None), None);
    }
}
