//! Where large contents are cut: at places that the content itself chooses, so that a change moves only the cuts near it.

use std::ops::Range;

use fastcdc::v2020::FastCDC;

/// How one kind of content is cut, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    /// Up to this length the content is one chunk.
    pub whole: usize,
    /// No chunk but the last is shorter.
    pub min: usize,
    /// The aim.
    pub avg: usize,
    /// No chunk is longer.
    pub max: usize,
}

/// Files.
pub const FILE: Chunking = Chunking {
    whole: 128 << 10,
    min: 64 << 10,
    avg: 256 << 10,
    max: 1 << 20,
};
/// Trees: smaller chunks, since a changed entry rewrites its chunk and most trees share almost all entries.
pub const TREE: Chunking = Chunking {
    whole: 64 << 10,
    min: 8 << 10,
    avg: 32 << 10,
    max: 128 << 10,
};

impl Chunking {
    /// The pieces of `content`, in order; none for an empty one.
    pub fn cut(&self, content: &[u8]) -> Vec<Range<usize>> {
        match content.len() {
            0 => Vec::new(),
            len if len <= self.whole => vec![Range { start: 0, end: len }],
            _ => FastCDC::new(content, self.min, self.avg, self.max)
                .map(|chunk| chunk.offset..chunk.offset + chunk.length)
                .collect(),
        }
    }

    /// The length of the first chunk of a stream that is longer than [`Chunking::whole`], given at least [`Chunking::max`]
    /// bytes of it, or all that is left.
    pub fn first(&self, window: &[u8]) -> usize {
        FastCDC::new(window, self.min, self.avg, self.max)
            .next()
            .map_or(0, |chunk| chunk.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ChunkId;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(content: &[u8]) -> Vec<usize> {
        FILE.cut(content).iter().map(Range::len).collect()
    }

    #[test]
    fn pieces_cover_the_content_within_bounds() {
        let content = noise(5 << 20);
        let cuts = FILE.cut(&content);
        assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(cuts.last().unwrap().end, content.len());
        let (_, inner) = cuts.split_last().unwrap();
        assert!(
            inner
                .iter()
                .all(|cut| (FILE.min..=FILE.max).contains(&cut.len()))
        );
        assert_eq!(lengths(&noise(FILE.whole)), [FILE.whole]);
        assert!(FILE.cut(b"").is_empty());
    }

    #[test]
    fn cutting_a_stream_window_by_window_gives_the_same_pieces() {
        let content = noise(5 << 20);
        let mut at = 0;
        let mut streamed = Vec::new();
        while at < content.len() {
            let window = &content[at..content.len().min(at + FILE.max)];
            streamed.push(FILE.first(window));
            at += streamed.last().unwrap();
        }
        assert_eq!(streamed, lengths(&content));
    }

    #[test]
    fn an_inserted_byte_changes_few_pieces() {
        let before = noise(8 << 20);
        let mut after = before.clone();
        after.insert(4 << 20, b'!');
        let ids = |content: &[u8]| -> Vec<ChunkId> {
            FILE.cut(content)
                .into_iter()
                .map(|cut| ChunkId::of(&content[cut]))
                .collect()
        };
        let old = ids(&before);
        let fresh = ids(&after).iter().filter(|id| !old.contains(id)).count();
        assert!((1..=3).contains(&fresh), "{fresh} new pieces");
    }

    #[test]
    fn golden_cuts() {
        let cuts = format!(
            "{:?} {:?}",
            FILE.cut(&noise(2 << 20)),
            TREE.cut(&noise(2 << 20))
        );
        assert_eq!(
            ChunkId::of(cuts.as_bytes()).to_string(),
            "be6fbd1ab3c4a549bda7abd99d4c80c1ba0dc3e519a25cf10c6c037a9d2b0f4a"
        );
    }
}
