//! Setting right one flipped bit, where a checksum proves which one it was.

/// The byte that holds the flipped bit, and the bytes without that flip; none: no single bit makes them fit.
pub fn mend_bit(bytes: &[u8], fits: impl Fn(&[u8]) -> bool) -> Option<(usize, Vec<u8>)> {
    let mut tried = bytes.to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            tried[at] ^= 1 << bit;
            if fits(&tried) {
                return Some((at, tried));
            }
            tried[at] ^= 1 << bit;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_is_found_and_two_are_not() {
        let right = b"a line with a checksum";
        let sum = blake3::hash(right);
        let fits = |bytes: &[u8]| blake3::hash(bytes) == sum;
        let mut wrong = right.to_vec();
        wrong[7] ^= 0x10;
        assert_eq!(mend_bit(&wrong, fits), Some((7, right.to_vec())));
        wrong[9] ^= 1;
        assert_eq!(mend_bit(&wrong, fits), None);
    }
}
