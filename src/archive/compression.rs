//! How a stream is compressed, told by its first bytes.

use std::io::{self, Chain, Cursor, Read};

use super::ArchiveError;

/// The longest of the marks below.
const MARK: usize = 6;

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
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::read::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Box::new(
            zstd::stream::read::Decoder::new(whole).map_err(ArchiveError::Read)?,
        )),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(other("xz")),
        [b'B', b'Z', b'h', ..] => Err(other("bzip2")),
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
