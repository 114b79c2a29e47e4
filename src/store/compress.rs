//! Compression of chunks: zstd, alone, with a dictionary, or with another chunk that is much like it. One context a thread,
//! since making one costs more than a page.

use std::cell::RefCell;
use std::ffi::c_uint;

use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, SafeResult, compress_bound};

use crate::model::ChunkId;

/// Level 3 takes a quarter more time of a first deploy and saves 1 to 3 %.
const LEVEL: i32 = 2;
/// Shorter chunks gain nothing from compression.
const MIN: usize = 128;
/// A dictionary is for chunks up to this length, in bytes: it saves a few KiB of each, which longer ones do not feel.
pub const DICTIONARY_CHUNK_MAX: usize = 1 << 20;
/// The size that zstd recommends for a dictionary.
const DICTIONARY_BYTES: usize = 112 << 10;
/// Fewer or smaller samples than these train nothing useful.
const SAMPLES_MIN: usize = 25;
const SAMPLE_BYTES_MIN: usize = 512 << 10;
/// Parameters of zstd's fastCover. Measured on two documentation sites: zstd's own search for better ones takes fifteen times as
/// long and gains less than a hundredth.
const COVER: zstd_sys::ZDICT_fastCover_params_t = zstd_sys::ZDICT_fastCover_params_t {
    k: 1000,
    d: 8,
    f: 18,
    steps: 0,
    nbThreads: 1,
    splitPoint: 1.0,
    accel: 4,
    shrinkDict: 0,
    shrinkDictMaxRegression: 0,
    zParams: zstd_sys::ZDICT_params_t {
        compressionLevel: LEVEL,
        notificationLevel: 0,
        dictID: 0,
    },
};
/// A chunk that takes less than this part of its raw size with another one before it is not compressed in other ways too.
const ALIKE: usize = 16;
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

/// What helps to compress a chunk, and is needed to get it back.
#[derive(Clone, Copy)]
pub enum Aid<'a> {
    /// Nothing.
    Alone,
    /// What many chunks have in common.
    With(&'a Dictionary),
    /// The bytes of one chunk that is much the same.
    Like(&'a [u8]),
}

/// The chunk compressed, where that pays: at least an eighth must be saved.
pub fn compress(raw: &[u8], aid: Aid<'_>) -> Option<Vec<u8>> {
    if raw.len() < MIN {
        return None;
    }
    let packed = run(compress_bound(raw.len()), |packed, contexts| match aid {
        Aid::Alone => contexts.0.compress(packed, raw, LEVEL),
        Aid::With(dictionary) => contexts
            .0
            .compress_using_cdict(packed, raw, &dictionary.encoder),
        Aid::Like(other) => contexts.0.compress_using_dict(packed, raw, other, LEVEL),
    })?;
    (packed.len() <= raw.len() - raw.len() / 8).then_some(packed)
}

/// True where no other way to compress is likely to be better.
pub fn is_alike(raw: &[u8], packed: &[u8]) -> bool {
    packed.len() <= raw.len() / ALIKE
}

/// The raw bytes of a payload, `raw_len` of them; none: it cannot be decompressed to so many.
pub fn decompress(payload: &[u8], raw_len: usize, aid: Aid<'_>) -> Option<Vec<u8>> {
    run(raw_len, |raw, contexts| match aid {
        Aid::Alone => contexts.1.decompress(raw, payload),
        Aid::With(dictionary) => {
            contexts
                .1
                .decompress_using_ddict(raw, payload, &dictionary.decoder)
        }
        Aid::Like(other) => contexts.1.decompress_using_dict(raw, payload, other),
    })
}

fn run(
    capacity: usize,
    work: impl FnOnce(&mut Vec<u8>, &mut (CCtx<'static>, DCtx<'static>)) -> SafeResult,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(capacity);
    CONTEXTS
        .with_borrow_mut(|contexts| work(&mut out, contexts))
        .ok()?;
    Some(out)
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
    let bytes = fast_cover(&flat, &lengths)?;
    let dictionary = Dictionary::new(ChunkId::of(&bytes), &bytes)?;
    let with = stored(&held_out, Aid::With(&dictionary));
    let without = stored(&held_out, Aid::Alone);
    (with < without - without / 10).then_some(bytes)
}

fn fast_cover(flat: &[u8], lengths: &[usize]) -> Option<Vec<u8>> {
    debug_assert_eq!(flat.len(), lengths.iter().sum::<usize>());
    let count = c_uint::try_from(lengths.len()).ok()?;
    let mut bytes = vec![0; DICTIONARY_BYTES];
    // SAFETY: the first pointer and length describe `bytes`; `flat` holds as many bytes as the `count` lengths add up to; the
    // call keeps none of the pointers.
    let written = unsafe {
        zstd_sys::ZDICT_trainFromBuffer_fastCover(
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            flat.as_ptr().cast(),
            lengths.as_ptr(),
            count,
            COVER,
        )
    };
    // SAFETY: an integer argument only.
    let failed = unsafe { zstd_sys::ZDICT_isError(written) } != 0;
    if failed || written > bytes.len() {
        return None;
    }
    bytes.truncate(written);
    Some(bytes)
}

/// Looked at before the costly training: pictures and archives have no use for a dictionary.
fn compressible(samples: &[&Vec<u8>]) -> bool {
    let raw: usize = samples.iter().map(|sample| sample.len()).sum();
    stored(samples, Aid::Alone) < raw - raw / 8
}

fn stored(samples: &[&Vec<u8>], aid: Aid<'_>) -> usize {
    samples
        .iter()
        .map(|sample| compress(sample, aid).map_or(sample.len(), |packed| packed.len()))
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
        let alone = compress(page, Aid::Alone).unwrap();
        let with = compress(page, Aid::With(&dictionary)).unwrap();
        assert!(
            with.len() * 2 < alone.len(),
            "{} {}",
            with.len(),
            alone.len()
        );
        let back = decompress(&with, page.len(), Aid::With(&dictionary)).unwrap();
        assert_eq!(&back, page);
        assert_eq!(decompress(&alone, page.len(), Aid::Alone).unwrap(), *page);
        assert_eq!(decompress(&with, page.len(), Aid::Alone), None);
        let short = decompress(&alone, page.len() - 1, Aid::Alone);
        assert_eq!(short, None, "bounded by what is expected");
    }

    #[test]
    fn the_next_version_of_anything_takes_next_to_nothing_with_the_one_before() {
        let before = noise(100_000);
        let mut after = before.clone();
        after[50_000..50_010].copy_from_slice(b"10 changes");
        let packed = compress(&after, Aid::Like(&before)).unwrap();
        assert!(packed.len() < 200, "{}", packed.len());
        assert!(is_alike(&after, &packed));
        let back = decompress(&packed, after.len(), Aid::Like(&before));
        assert_eq!(back.as_ref(), Some(&after));
        let other = decompress(&packed, after.len(), Aid::Like(&before[1..]));
        assert_ne!(other, Some(after));
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
        assert_eq!(compress(b"short short short short", Aid::Alone), None);
        assert_eq!(compress(&noise(10_000), Aid::Alone), None);
    }
}
