//! How a stream is compressed, told by its first bytes.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;

use super::ArchiveError;

/// The longest of the marks below.
const MARK: usize = 6;

/// Bytes read at once from a compressed stream.
const BUFFER: usize = 64 << 10;
/// The most zero bytes that may follow a gzip stream: tapes and tools pad it to a multiple of some block.
const PADDING_MAX: usize = 64 << 20;

/// The stream decompressed: gzip and zstd are, plain bytes are passed on.
pub fn decompressed<'a>(mut from: impl Read + 'a) -> Result<Box<dyn Read + 'a>, ArchiveError> {
    let mut start = [0; MARK];
    let mut len = 0;
    while len < MARK {
        match from.read(&mut start[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::Read(error)),
        }
    }
    let whole: Chain<Cursor<Vec<u8>>, _> = Cursor::new(start[..len].to_vec()).chain(from);
    match &start[..len] {
        [] => Err(ArchiveError::Format("nothing came: it is empty".into())),
        [0x1f, 0x8b, ..] => Ok(Box::new(Gzip {
            member: Some(GzDecoder::new(BufReader::with_capacity(BUFFER, whole))),
        })),
        // A frame, or one to be skipped, as some programs put before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Box::new(
            zstd::stream::read::Decoder::new(whole).map_err(ArchiveError::Read)?,
        )),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(other("xz")),
        [b'B', b'Z', b'h', ..] => Err(other("bzip2")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Err(other("lz4")),
        [b'L', b'Z', b'I', b'P', ..] => Err(other("lzip")),
        [0x1f, 0x9d, ..] => Err(other("uncompress")),
        [b'P', b'K', 3, 4, ..] => Err(ArchiveError::Format(
            "it is a zip archive: unpack it and deploy the folder".into(),
        )),
        _ => Ok(Box::new(whole)),
    }
}

fn other(program: &str) -> ArchiveError {
    ArchiveError::Format(format!(
        "it is compressed with {program}: send it through '{program} -d' first, or make it with gzip or zstd"
    ))
}

/// The members of a gzip stream one after the other, as gzip(1) reads them: zeros may follow, nothing else.
struct Gzip<R> {
    /// `None` once the stream has ended.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let rest = self.member.take().map(GzDecoder::into_inner);
            self.member = rest.map(next_member).transpose()?.flatten();
        }
        Ok(0)
    }
}

/// The next member behind the zeros that are here; `None` at the stream's end.
fn next_member<R: BufRead>(mut rest: R) -> io::Result<Option<GzDecoder<R>>> {
    let mut padding = 0;
    loop {
        let bytes = rest.fill_buf()?;
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        if zeros == 0 && first == 0x1f {
            return Ok(Some(GzDecoder::new(rest)));
        }
        padding += zeros;
        if zeros == 0 || padding > PADDING_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something that is not gzip follows its end: send one archive at a time",
            ));
        }
        rest.consume(zeros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut reader =
            decompressed(bytes).map_err(|error| io::Error::other(error.to_string()))?;
        reader.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn members_follow_each_other_and_zeros_follow_the_last() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(plain(&members).unwrap(), b"one two");
        for zeros in [1, 511, 100_000] {
            assert_eq!(
                plain(&[&members[..], &vec![0; zeros]].concat()).unwrap(),
                b"one two"
            );
        }
        let apart = [gzip(b"one "), vec![0; 600], gzip(b"two")].concat();
        assert_eq!(plain(&apart).unwrap(), b"one two");
    }

    #[test]
    fn what_follows_gzip_and_is_none_is_an_error_and_so_is_a_cut() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        for rest in [&b"x"[..], b"\0\0x", b"\x1fx", &members[..5]] {
            assert!(plain(&[&members[..], rest].concat()).is_err(), "{rest:?}");
        }
        for cut in 1..members.len() {
            let whole = cut == gzip(b"one ").len();
            assert_eq!(plain(&members[..cut]).is_ok(), whole || cut < 2, "{cut}");
        }
    }

    #[test]
    fn other_compressions_are_named() {
        for (start, name) in [
            (&b"\xfd7zXZ\0"[..], "xz"),
            (b"BZh91AY", "bzip2"),
            (b"\x04\x22\x4d\x18xx", "lz4"),
            (b"LZIP\x01x", "lzip"),
            (b"\x1f\x9d\x90xxx", "uncompress"),
        ] {
            let said = plain(start).unwrap_err().to_string();
            assert!(
                said.contains(&format!("'{name} -d'")) || said.contains(name),
                "{said}"
            );
        }
    }
}
