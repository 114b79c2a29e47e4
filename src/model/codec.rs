//! The small binary vocabulary that trees and chunk lists are written in: unsigned LEB128 numbers and plain bytes.

/// Bytes that are not what their header says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("it ends too early")]
    Short,
    /// Bytes follow after the last field.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    /// A field holds what the format does not allow.
    #[error("{0}")]
    Invalid(&'static str),
    /// Written by a later deployfs.
    #[error("it has format version {0}, which this deployfs does not know: use a newer one")]
    Version(u8),
}

/// Appends `value` in LEB128, at most 10 bytes.
pub fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes fields off the front of some bytes; never reads past them.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    /// A number; only its shortest form is accepted, so that an encoding is canonical.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(DecodeError::Invalid("a number is out of range"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return match byte {
                    0 if shift > 0 => {
                        Err(DecodeError::Invalid("a number is not in its shortest form"))
                    }
                    _ => Ok(value),
                };
            }
        }
        Err(DecodeError::Invalid("a number is out of range"))
    }

    /// A number that fits `usize` and of which each unit takes at least `unit` of the bytes left: what may be allocated.
    pub fn count(&mut self, unit: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number()?).map_err(|_| DecodeError::Short)?;
        if count
            .checked_mul(unit)
            .is_none_or(|bytes| bytes > self.0.len())
        {
            return Err(DecodeError::Short);
        }
        Ok(count)
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count(1)?;
        self.take(length)
    }

    /// A 32-byte hash.
    pub fn hash(&mut self) -> Result<[u8; 32], DecodeError> {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.take(32)?);
        Ok(hash)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64) {
            let mut out = Vec::new();
            put_number(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.number(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn long_forms_and_overflows_are_refused() {
        assert!(Reader::new(&[0x80, 0x00]).number().is_err());
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        let mut over = [0xff; 10];
        over[9] = 0x02;
        assert!(Reader::new(&over).number().is_err());
        over[9] = 0x01;
        assert_eq!(Reader::new(&over).number(), Ok(u64::MAX));
    }

    #[test]
    fn a_count_never_asks_for_more_than_is_there() {
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0x03]).count(1),
            Err(DecodeError::Short)
        );
    }
}
