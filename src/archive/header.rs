//! The 512 bytes before each entry of a tar archive: POSIX ustar, and GNU's variant of it.
//!
//! ```text
//! name 100, mode 8, uid 8, gid 8, size 12, mtime 12, checksum 8, type 1, link name 100, magic and version 8,
//! user 32, group 32, device 16, name prefix 155 (POSIX only)
//! ```
//! Numbers are octal text, or (GNU) big-endian binary with the top bit set.

/// Bytes of a header, and the unit in which contents are padded.
pub const BLOCK: usize = 512;

/// A header that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name as it stands, any prefix before it.
    pub name: Vec<u8>,
    /// Permission bits and more.
    pub mode: u32,
    /// Bytes of content that follow.
    pub size: u64,
    /// What it is.
    pub kind: u8,
    /// Where a link leads.
    pub link: Vec<u8>,
}

impl Header {
    /// None: it does not have its checksum.
    pub fn decode(block: &[u8; BLOCK]) -> Option<Self> {
        let bytes = || {
            let all = block.iter().enumerate();
            all.map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte })
        };
        let sum: i64 = bytes().map(i64::from).sum();
        // Some old programs add them up as signed ones.
        let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        let said = number(&block[148..156]).and_then(|said| i64::try_from(said).ok())?;
        if said != sum && said != signed {
            return None;
        }
        let mut name = text(&block[..100]).to_owned();
        let prefix = text(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, &name].join(&b'/');
        }
        Some(Header {
            name,
            mode: number(&block[100..108])? as u32,
            size: number(&block[124..136])?,
            kind: block[156],
            link: text(&block[157..257]).to_owned(),
        })
    }
}

/// Up to the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn number(field: &[u8]) -> Option<u64> {
    match field {
        [first, rest @ ..] if *first == 0x80 => rest.iter().try_fold(0u64, |value, &byte| {
            value.checked_mul(256)?.checked_add(byte.into())
        }),
        _ => {
            let digits = text(field).trim_ascii();
            digits.iter().try_fold(0u64, |value, &digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_may_be_of_signed_bytes() {
        let mut block = [0; BLOCK];
        block[..4].copy_from_slice(b"caf\xe9");
        block[148..156].fill(b' ');
        let unsigned: i64 = block.iter().map(|&byte| i64::from(byte)).sum();
        let signed: i64 = block.iter().map(|&byte| i64::from(byte as i8)).sum();
        assert_ne!(unsigned, signed);
        for (sum, is_right) in [(unsigned, true), (signed, true), (signed + 1, false)] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::decode(&block).is_some(), is_right, "{sum}");
        }
    }

    #[test]
    fn numbers_are_octal_text_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(
            number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"),
            Some(2 << 32),
            "8 GiB"
        );
        assert_eq!(number(&[0xff; 12]), None, "a negative one");
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(
            number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
    }
}
