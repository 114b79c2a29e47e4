//! Walks a tar stream: plain entries with their full names, whatever the dialect (POSIX pax, GNU long names, old tar).
//!
//! Bounded: what an archive says of itself never decides how much memory is taken.

use std::io::{self, Read};

use super::ArchiveError;
use super::header::{BLOCK, Header, text};

/// The longest extended header or long name that is read, in bytes.
const EXTENDED_MAX: u64 = 1 << 20;
/// How many extended headers one entry may have.
const EXTENDED_COUNT: usize = 16;
/// How many bytes may follow the end mark: tar fills its last record with zeros.
const PADDING_MAX: u64 = 64 << 20;

/// One entry. A file's bytes are read from the [`Archive`] before the next entry is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as the archive has it.
    pub path: Vec<u8>,
    /// Permission bits and more.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file of so many bytes.
    File(u64),
    /// A directory.
    Dir,
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry.
    HardLink(Vec<u8>),
}

/// What extended headers say of the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A tar stream.
pub struct Archive<R> {
    from: R,
    /// Bytes of the current file not yet read, and the padding after it.
    left: u64,
    padding: u64,
}

impl<R: Read> Archive<R> {
    /// Reads the archive from here.
    pub fn new(from: R) -> Self {
        Archive {
            from,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry; none: the archive's end has come, and nothing else after it.
    pub fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let rest = self.left + self.padding;
        self.skip(rest)?;
        (self.left, self.padding) = (0, 0);
        let mut extended = Extended::default();
        for _ in 0..=EXTENDED_COUNT {
            let Some(header) = self.header()? else {
                self.end()?;
                return Ok(None);
            };
            match header.kind {
                b'L' => extended.path = Some(self.long(&header)?),
                b'K' => extended.link = Some(self.long(&header)?),
                b'x' | b'X' => {
                    let bytes = self.extended(&header)?;
                    extended.take(&bytes, &header)?;
                }
                b'g' => {
                    let bytes = self.extended(&header)?;
                    // Of what holds for all entries only comments make sense here.
                    let mut all = Extended::default();
                    all.take(&bytes, &header)?;
                    if all.path.is_some() || all.link.is_some() || all.size.is_some() {
                        return Err(ArchiveError::entry(
                            &header.name,
                            "one header gives all entries the same name, target or size: make the archive with another tar",
                        ));
                    }
                }
                // A volume's label.
                b'V' => {
                    self.extended(&header)?;
                }
                _ => return self.entry(header, extended).map(Some),
            }
        }
        Err(ArchiveError::Format(format!(
            "more than {EXTENDED_COUNT} extended headers in a row: this is no archive of a site"
        )))
    }

    fn entry(&mut self, header: Header, extended: Extended) -> Result<Entry, ArchiveError> {
        let path = extended.path.unwrap_or(header.name);
        let link = extended.link.unwrap_or(header.link);
        let size = extended.size.unwrap_or(header.size);
        let refused = |what: &str| Err(ArchiveError::entry(&path, what));
        let is_folder = header.kind == b'5' || path.ends_with(b"/");
        let kind = match header.kind {
            b'0' | 0 | b'5' if is_folder => Kind::Dir,
            // GNU tar's --listed-incremental: a folder with a list of what was in it.
            b'D' => {
                (self.left, self.padding) = (size, padding(size));
                return Ok(Entry {
                    path,
                    mode: header.mode,
                    kind: Kind::Dir,
                });
            }
            b'0' | 0 | b'7' => Kind::File(size),
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' | b'4' => return refused("it is a device: leave it out of the archive"),
            b'6' => return refused("it is a named pipe: leave it out of the archive"),
            b'S' => return refused(SPARSE),
            b'M' => {
                return refused("it is the rest of a file in an earlier volume: send one archive");
            }
            other => {
                return refused(&format!(
                    "it is of a kind that is not known (type '{}'): only files, folders and links can be deployed",
                    other.escape_ascii()
                ));
            }
        };
        match kind {
            // What a file's length is kept in has no room for more.
            Kind::File(size) if size > i64::MAX as u64 => {
                return refused("it says that it is longer than any file can be");
            }
            Kind::File(size) => {
                self.left = size;
                self.padding = padding(size);
            }
            Kind::Dir | Kind::Symlink(_) | Kind::HardLink(_) if size > 0 => {
                return refused(
                    "it has contents, and is no file: make the archive with another tar",
                );
            }
            Kind::Dir | Kind::Symlink(_) | Kind::HardLink(_) => {}
        }
        Ok(Entry {
            path,
            mode: header.mode,
            kind,
        })
    }

    /// The next bytes of the current file; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.some(&mut buffer[..want])?;
        if count == 0 {
            return Err(ArchiveError::Truncated);
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// None: the mark of the end.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        self.from
            .read_exact(&mut block)
            .map_err(ArchiveError::read)?;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        match Header::decode(&block) {
            Some(header) => Ok(Some(header)),
            None => Err(ArchiveError::Format(
                "it is no tar archive, or it is damaged: a header does not have its checksum"
                    .into(),
            )),
        }
    }

    fn long(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        Ok(text(&self.extended(header)?).to_owned())
    }

    /// The content of an extended header.
    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        if header.size > EXTENDED_MAX {
            return Err(ArchiveError::entry(
                &header.name,
                format!(
                    "its extended header has {} bytes, more than any name needs",
                    header.size
                ),
            ));
        }
        let mut bytes = vec![0; header.size as usize];
        self.from
            .read_exact(&mut bytes)
            .map_err(ArchiveError::read)?;
        self.skip(padding(header.size))?;
        Ok(bytes)
    }

    fn skip(&mut self, mut count: u64) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8192];
        while count > 0 {
            let want = count.min(buffer.len() as u64) as usize;
            self.from
                .read_exact(&mut buffer[..want])
                .map_err(ArchiveError::read)?;
            count -= want as u64;
        }
        Ok(())
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        loop {
            match self.from.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(ArchiveError::read),
            }
        }
    }

    /// Reads to the end of the stream, so that its sender ends well and a compressed one is checked to its end.
    fn end(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = [0; 8192];
        let mut seen = 0;
        loop {
            let count = self.some(&mut buffer)?;
            seen += count as u64;
            if count == 0 {
                return Ok(());
            }
            if seen > PADDING_MAX || buffer[..count].iter().any(|&byte| byte != 0) {
                return Err(ArchiveError::Format(
                    "more follows after the end of the archive: send one archive at a time".into(),
                ));
            }
        }
    }
}

const SPARSE: &str = "it is stored with holes: make the archive without --sparse";

impl Extended {
    /// Takes the records `LENGTH KEY=VALUE\n` of a pax header.
    fn take(&mut self, mut bytes: &[u8], header: &Header) -> Result<(), ArchiveError> {
        let broken = || ArchiveError::entry(&header.name, "its extended header is damaged");
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .position(|&byte| byte == b' ')
                .ok_or_else(broken)?;
            let length: usize = decimal(&bytes[..space]).ok_or_else(broken)? as usize;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(broken());
            }
            let record = &bytes[space + 1..length - 1];
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // Without a value a record takes an earlier one back.
                b"path" if value.is_empty() => self.path = None,
                b"linkpath" if value.is_empty() => self.link = None,
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.size = Some(decimal(value).ok_or_else(broken)?),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(ArchiveError::entry(&header.name, SPARSE));
                }
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(name: &[u8], size: u64, kind: u8) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn padded(bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        out.resize(bytes.len() + padding(bytes.len() as u64) as usize, 0);
        out
    }

    fn names(archive: &[u8]) -> Result<Vec<String>, ArchiveError> {
        let mut archive = Archive::new(archive);
        let mut names = Vec::new();
        while let Some(entry) = archive.next()? {
            names.push(String::from_utf8_lossy(&entry.path).into_owned());
        }
        Ok(names)
    }

    fn end() -> Vec<u8> {
        vec![0; 2 * BLOCK]
    }

    #[test]
    fn long_names_of_both_dialects_are_the_next_entry_s() {
        let long = "d/".repeat(90) + "file";
        let pax = format!("{} path={long}\n", 9 + long.len() + 1);
        assert_eq!(pax.len(), 10 + long.len());
        let archive = [
            block(b"././@LongLink", long.len() as u64 + 1, b'L'),
            padded(&[long.as_bytes(), b"\0"].concat()),
            block(b"short", 0, b'0'),
            block(b"PaxHeaders/x", pax.len() as u64, b'x'),
            padded(pax.as_bytes()),
            block(b"short", 0, b'0'),
            block(b"plain", 3, b'0'),
            padded(b"abc"),
            end(),
        ]
        .concat();
        assert_eq!(names(&archive).unwrap(), [&long, &long, "plain"]);
    }

    #[test]
    fn every_cut_before_the_mark_of_the_end_is_found() {
        let archive = [block(b"a", 3, b'0'), padded(b"abc"), end()].concat();
        assert_eq!(names(&archive).unwrap(), ["a"]);
        for cut in 0..archive.len() - BLOCK {
            let error = names(&archive[..cut]).unwrap_err();
            assert!(matches!(error, ArchiveError::Truncated), "{cut}: {error}");
        }
    }

    #[test]
    fn what_is_no_file_folder_or_link_is_refused_by_name() {
        for (kind, word) in [
            (b'3', "device"),
            (b'4', "device"),
            (b'6', "named pipe"),
            (b'S', "--sparse"),
            (b'M', "volume"),
            (b'Z', "not known"),
        ] {
            let archive = [block(b"bad/entry", 0, kind), end()].concat();
            let said = names(&archive).unwrap_err().to_string();
            assert!(
                said.starts_with("bad/entry: ") && said.contains(word),
                "{said}"
            );
        }
    }

    #[test]
    fn headers_without_end_and_of_any_length_take_no_memory() {
        let many = block(b"x", 0, b'x').repeat(100);
        assert!(names(&many).unwrap_err().to_string().contains("in a row"));
        let huge = block(b"name", 4 << 30, b'L');
        assert!(
            names(&huge)
                .unwrap_err()
                .to_string()
                .contains("extended header")
        );
    }

    #[test]
    fn a_sparse_file_of_pax_is_not_taken_for_its_map() {
        let pax = b"22 GNU.sparse.major=1\n";
        let archive = [
            block(b"PaxHeaders/file", pax.len() as u64, b'x'),
            padded(pax),
            block(b"GNUSparseFile.0/file", 0, b'0'),
            end(),
        ]
        .concat();
        assert!(
            names(&archive)
                .unwrap_err()
                .to_string()
                .contains("--sparse")
        );
    }

    #[test]
    fn a_file_that_says_it_is_longer_than_any_file_is_refused_by_name() {
        let pax = b"29 size=18446744073709551615\n";
        let archive = [
            block(b"pax", pax.len() as u64, b'x'),
            padded(pax),
            block(b"page", 0, b'0'),
        ]
        .concat();
        let said = names(&archive).unwrap_err().to_string();
        assert!(said.contains("page: it says that it is longer"), "{said}");
    }

    #[test]
    fn a_second_archive_behind_the_first_is_refused() {
        let one = [block(b"a", 0, b'0'), end()].concat();
        let said = names(&one.repeat(2)).unwrap_err().to_string();
        assert!(said.contains("one archive at a time"), "{said}");
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            kind: u8,
            size in 0..4000u64,
        ) {
            let archive = [block(b"name", size, kind), bytes].concat();
            let _ = names(&archive);
        }
    }
}
