//! The `format` file: which format the store has, the store's uuid, and a checksum over both.
//!
//! ```text
//! deployfs 1
//! <uuid, 32 hex digits>
//! blake3 <checksum of the two lines before>      not in stores made before it was introduced
//! ```

use std::io;
use std::path::Path;

use super::backup::INCOMPLETE;
use super::disk::Disk;
use super::error::StoreError;
use super::journal::read_whole;
use crate::model::ids::is_lower_hex;
use crate::model::mending::mend_bit;

/// The file's path in the store.
pub const PATH: &str = "format";
const FORMAT: &str = "deployfs 1";
/// What a format line begins with, whichever it is.
const NAME: &str = "deployfs ";

/// The file of a store with this uuid.
pub fn encode(uuid: &str) -> Vec<u8> {
    let body = format!("{FORMAT}\n{uuid}\n");
    let sum = blake3::hash(body.as_bytes()).to_hex();
    format!("{body}blake3 {sum}\n").into_bytes()
}

/// The store's uuid, or why this is no store that can be opened.
pub fn read(disk: &dyn Disk, root: &Path) -> Result<String, StoreError> {
    let shown = root.display().to_string();
    let bytes = match read_whole(disk, PATH) {
        Ok(bytes) => bytes,
        Err(StoreError::Io { cause, .. })
            if !matches!(
                cause.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            let path = root.join(PATH).display().to_string();
            return Err(StoreError::io("read", path)(cause));
        }
        Err(_) if has_marker(disk) => return Err(StoreError::IncompleteBackup(shown)),
        Err(_) => return Err(StoreError::NotAStore(shown)),
    };
    if let Some(uuid) = decode(&bytes) {
        return Ok(uuid);
    }
    if mend(&bytes).is_some() || has_our_sum(&bytes) {
        return Err(StoreError::Format(shown));
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.strip_prefix(NAME).map(|rest| rest.split_once('\n')) {
        Some(Some((version, _))) if is_number(version) => Err(StoreError::NewerFormat {
            path: shown,
            found: format!("{NAME}{version}"),
        }),
        Some(_) => Err(StoreError::Format(shown)),
        None => Err(StoreError::NotAStore(shown)),
    }
}

fn has_marker(disk: &dyn Disk) -> bool {
    read_whole(disk, INCOMPLETE).is_ok()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The uuid in a file that is whole.
pub fn decode(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let uuid = text.strip_prefix(FORMAT)?.strip_prefix('\n')?.get(..32)?;
    let whole = encode(uuid);
    let old_len = FORMAT.len() + 1 + uuid.len() + 1;
    let fits = bytes == whole || bytes == &whole[..old_len];
    (fits && is_lower_hex(uuid)).then(|| uuid.to_owned())
}

/// The uuid in a file of which one bit is flipped.
pub fn mend(bytes: &[u8]) -> Option<String> {
    // Without its checksum an old file cannot tell which bit it is.
    let fits = |tried: &[u8]| decode(tried).is_some_and(|uuid| tried == encode(&uuid));
    let (_, mended) = mend_bit(bytes, fits)?;
    decode(&mended)
}

/// True where a checksum line as ours is there: another format would have its own.
fn has_our_sum(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.starts_with(FORMAT) || (text.contains("blake3 ") && !text.starts_with(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::HostDisk;

    const UUID: &str = "0123456789abcdef0123456789abcdef";

    fn read_back(bytes: &[u8]) -> Result<String, StoreError> {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join(PATH), bytes).unwrap();
        read(&HostDisk::new(temp.path().to_owned(), false), temp.path())
    }

    #[test]
    fn it_comes_back_with_and_without_a_checksum() {
        assert_eq!(read_back(&encode(UUID)).unwrap(), UUID);
        let old = format!("deployfs 1\n{UUID}\n");
        assert_eq!(read_back(old.as_bytes()).unwrap(), UUID);
    }

    #[test]
    fn p5_every_flipped_bit_is_found_and_mended() {
        let whole = encode(UUID);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                let error = read_back(&bad).unwrap_err();
                assert!(matches!(error, StoreError::Format(_)), "{at}: {error}");
                assert_eq!(mend(&bad).as_deref(), Some(UUID), "{at}");
            }
        }
    }

    #[test]
    fn p5_a_file_that_was_cut_is_not_taken_for_another_format() {
        let whole = encode(UUID);
        for len in 0..whole.len() {
            match read_back(&whole[..len]) {
                // As it was before it had a checksum.
                Ok(uuid) => assert_eq!((uuid.as_str(), len), (UUID, 44)),
                Err(StoreError::NotAStore(_)) => assert!(len < NAME.len(), "{len}"),
                Err(error) => assert!(matches!(error, StoreError::Format(_)), "{len}: {error}"),
            }
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = format!("deployfs 2\n{UUID}\nwhatever\n");
        let error = read_back(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { .. }), "{error}");
        let error = read_back(b"something else\n").unwrap_err();
        assert!(matches!(error, StoreError::NotAStore(_)), "{error}");
    }
}
